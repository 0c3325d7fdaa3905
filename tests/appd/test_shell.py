# SPDX-License-Identifier: Apache-2.0
"""The program that shows an app's user interface: started after READY, ended with the session."""

import json
from pathlib import Path

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import Appd, eventually, is_gone
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.protocol import AppState, Reload, Reloaded, State, TerminateApp

SHELL = """#!/usr/bin/python3 -I
import json, os, sys, time
with open(sys.argv[0] + ".new", "w") as file:
    json.dump([sys.argv[1:], dict(os.environ), os.getpid(), os.listdir("/proc/self/fd")], file)
os.rename(sys.argv[0] + ".new", sys.argv[0] + ".note")
while not os.path.exists(sys.argv[0] + ".end"):
    time.sleep(0.02)
"""


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    path = tmp_path / "shell"
    path.write_text(SHELL)
    path.chmod(0o755)
    return path


def note(shell: Path) -> tuple[list[str], dict[str, str], int, list[str]]:
    path = shell.with_suffix(".note")
    eventually(path.exists, "the shell runs")
    arguments, environment, pid, descriptors = json.loads(path.read_text())
    return arguments, environment, pid, descriptors


def start_with(make: Make, shell: Path) -> Appd:
    appd = make(
        WEFT_APP_SHELL_BIN=str(shell), WAYLAND_DISPLAY="wayland-7", WATCHDOG_USEC="9", WATCHDOG_PID="1"
    )
    appd.start()
    return appd


def test_it_is_started_once_the_app_is_ready_and_ended_with_it(make: Make, shell: Path) -> None:
    appd = start_with(make, shell)
    appd.install("note('there', 1); until('go'); ready(); wait()")
    session = appd.launch()
    appd.note(session, "there")
    assert len(appd.children) == 1
    (appd.store / APP_ID / "go").touch()
    arguments, environment, pid, descriptors = note(shell)
    assert arguments == [APP_ID, "1"]
    assert environment["WAYLAND_DISPLAY"] == "wayland-7"
    assert "WATCHDOG_USEC" not in environment
    assert len(descriptors) == 5  # the standard streams, its note and this listing
    assert appd.control.ask(TerminateApp(session)) == AppState(session, State.STOPPED)
    assert is_gone(pid)


def test_one_that_ends_by_itself_is_collected_and_its_app_goes_on(make: Make, shell: Path) -> None:
    appd = start_with(make, shell)
    session = appd.run_app("ready(); wait()")
    pid = note(shell)[2]
    shell.with_suffix(".end").touch()
    eventually(lambda: is_gone(pid), "the shell is collected")
    assert appd.find("info: its app shell has ended", session)
    assert appd.sessions[session].state is State.RUNNING


@pytest.mark.parametrize("reloads", [False, True], ids=["", "reloaded"])
def test_none_is_started_for_an_app_without_a_face(make: Make, shell: Path, reloads: bool) -> None:
    appd = start_with(make, shell)
    package = appd.install("until('go'); ready(); wait()")
    toml = (package / "wapp.toml").read_text()
    (package / "wapp.toml").write_text(toml.replace('[ui]\nentry = "ui/index.html"', ""))
    faceless = appd.launch()
    appd.install("ready(); wait()", app_id="org.example.face")
    if reloads:
        assert appd.control.ask(Reload()) == Reloaded(__version__)
    (package / "go").touch()
    appd.until_ready(faceless)
    # One that comes later has its shell, and it is the only one.
    session = appd.launch("org.example.face")
    assert note(shell)[0] == ["org.example.face", str(session)]
    assert len(appd.children) == 3
    for number in (faceless, session):
        assert appd.control.ask(TerminateApp(number)) == AppState(number, State.STOPPED)


def test_one_that_cannot_be_started_is_a_warning(make: Make, tmp_path: Path) -> None:
    appd = start_with(make, tmp_path / "missing")
    session = appd.run_app("ready(); wait()")
    expected = f"warning: cannot start its app shell {tmp_path}/missing, ignoring: No such file or directory"
    assert appd.find("app shell", session) == expected
    assert appd.sessions[session].state is State.RUNNING
