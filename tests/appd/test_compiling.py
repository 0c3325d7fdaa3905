# SPDX-License-Identifier: Apache-2.0
"""Compiling and READY: it takes its own time, and where it was too much, somebody else is asked to do it."""

import os
import signal
import stat
import time

import pytest

from tests import packages
from tests.appd.conftest import Make
from tests.appd.harness import REAL_RUNTIME, Appd, children, eventually
from tests.command.guests import functions, slow_to_compile
from weft_runtime.appd.background import FILE_NAME
from weft_runtime.protocol import State

COMPILING = r"report(b'{\"event\": \"compiling\"}\n')"


@pytest.fixture
def hasty(start: Make) -> Appd:
    """A daemon that waits two seconds for READY."""
    return start(WEFT_READY_TIMEOUT="2")


def test_as_long_as_a_runtime_compiles_it_is_waited_for(start: Make) -> None:
    appd = start(
        WEFT_READY_TIMEOUT="4"
    )  # a busy machine has that to start the runtime, and from word to word
    appd.install(f"for _ in range(25): {COMPILING}; signal.sigtimedwait([], 0.2)\nready()\nwait()")
    session = appd.launch()
    appd.until_ready(session)
    found = appd.sessions[session]
    assert found.ready is not None
    assert found.ready - found.launched > 4.5


@pytest.mark.parametrize(
    "words",
    ["", r"report(b'{\"event\": \"dreaming\"}\n')", r"report(b'compiling\n[\n' + b'[' * 5000 + b'\n')"],
)
def test_whoever_does_not_say_so_is_not(hasty: Appd, words: str) -> None:
    hasty.install(f"for _ in range(40): {words or 'pass'}; signal.sigtimedwait([], 0.5)\nready()\nwait()")
    session = hasty.launch()
    assert hasty.until_stopped(session).reason == "it did not say READY within 2 s: stopped by SIGTERM"


def test_after_the_last_word_its_time_begins_anew_and_ends(hasty: Appd) -> None:
    hasty.install(f"{COMPILING}; wait()")
    found = hasty.until_stopped(hasty.launch())
    assert found.reason == "it did not say READY within 2 s: stopped by SIGTERM while compiling"


def test_what_was_said_meanwhile_hides_no_reason(hasty: Appd) -> None:
    hasty.install(
        f"{COMPILING}\nsignal.sigtimedwait([], 0.3)\n{COMPILING}\nends_because('that is why')\nsys.exit(3)"
    )
    assert hasty.until_stopped(hasty.launch()).reason == "that is why"


def test_a_reason_that_came_in_pieces_around_a_reload_is_whole(start: Make) -> None:
    appd = start()
    appd.install(
        "report(b'{' + b'\"reason\": \"in ')\nnote('begun', 1)\nuntil('go')\nreport(b'pieces\"}')\nsys.exit(3)"
    )
    session = appd.launch()
    appd.note(session, "begun")
    assert appd.run("--reload").status == 0
    (appd.store / packages.APP_ID / "go").touch()
    assert appd.until_stopped(session).reason == "in pieces"


def test_a_flood_of_reports_keeps_nobody_waiting(start: Make) -> None:
    appd = start(WEFT_READY_TIMEOUT="30")
    appd.install(f"signal.alarm(60)\nwhile True: {COMPILING}")
    session = appd.launch()
    for _ in range(20):
        assert appd.sessions[session].state is State.STARTING


def compilers(appd: Appd) -> list[int]:
    return [pid for session in appd.children for pid in children(session)]


@pytest.mark.parametrize("fork_server", ["true", "false"])
def test_a_compiler_that_stands_still_is_no_app_that_does_not_say_ready(
    start: Make, fork_server: str
) -> None:
    appd = start(WEFT_RUNTIME_BIN=str(REAL_RUNTIME), WEFT_FORK_SERVER=fork_server, WEFT_READY_TIMEOUT="8")
    packages.install(appd.store, functions([b"\0\x0b"] * 60_000))
    session = appd.launch()
    eventually(lambda: len(compilers(appd)) == 1, "compiling")
    [compiler] = compilers(appd)
    os.kill(compiler, signal.SIGSTOP)
    stopped = time.monotonic()
    eventually(lambda: time.monotonic() - stopped > 12, "time passes")
    assert appd.sessions[session].state is State.STARTING
    os.kill(compiler, signal.SIGCONT)
    eventually(lambda: appd.sessions[session].ready is not None, "it is ready", 60)


def test_where_a_launch_has_hit_a_limit_the_background_compiler_is_asked(make: Make) -> None:
    appd = make(WEFT_RUNTIME_BIN=str(REAL_RUNTIME), WEFT_FORK_SERVER="false")
    request = appd.runtime / "weft" / FILE_NAME
    appd.expected_files.add(f"weft/{FILE_NAME}")
    packages.install(appd.store, slow_to_compile())
    # The daemon's own CPU time counts as well.
    appd.start(wrapper=["prlimit", "--cpu=4:4"])
    session = appd.launch()
    eventually(lambda: appd.sessions[session].state is State.STOPPED, "it has hit its limit", 240)
    found = appd.sessions[session]
    assert found.exit_status == 175
    assert found.reason is not None
    assert found.reason.endswith(
        "; the limit for CPU time of compiling is 4 seconds"
        f" [try again, or compile it ahead: 'weft-pack compile {packages.APP_ID}']"
    )
    eventually(request.exists, "somebody is asked")


@pytest.mark.parametrize("obstacle", ["link", "fifo", "directory"])
def test_a_request_follows_no_link_and_waits_for_nobody(start: Make, obstacle: str) -> None:
    appd = start()
    request = appd.runtime / "weft" / FILE_NAME
    target = appd.directory / "target"
    target.write_text("untouched")
    match obstacle:
        case "link":
            request.symlink_to(target)
        case "fifo":
            os.mkfifo(request)
        case "directory":
            request.mkdir()
    appd.install("sys.exit(175)")
    assert appd.until_stopped(appd.launch()).exit_status == 175
    assert "cannot ask for the background compiler" in appd.find("compile-request")
    assert target.read_text() == "untouched"
    if obstacle == "directory":
        request.rmdir()
    else:
        request.unlink()


def test_many_ends_are_one_request(start: Make) -> None:
    appd = start()
    request = appd.runtime / "weft" / FILE_NAME
    appd.expected_files.add(f"weft/{FILE_NAME}")
    appd.install("sys.exit(175)")
    for _ in range(5):
        appd.until_stopped(appd.launch())
    eventually(request.exists, "somebody is asked")
    status = request.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    before = status.st_mtime_ns
    appd.until_stopped(appd.launch())
    assert request.stat().st_mtime_ns == before
