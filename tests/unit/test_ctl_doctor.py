# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.ctl: the checks of the doctor, and who may read the journal."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.packages import APP_ID, install
from weft_runtime import __version__, signature
from weft_runtime.client import SYSTEM_SOCKET
from weft_runtime.ctl import checks, logs, scene
from weft_runtime.ctl.checks import Finding, Verdict
from weft_runtime.ctl.scene import Scene
from weft_runtime.errors import Problem, WeftError
from weft_runtime.protocol import DaemonStatus, SessionInfo, State
from weft_runtime.trust import Places

NO_MODULE = b"\0asm\1\0\0\0"
NO_ANSWER = WeftError(Problem.OS_ERROR, "no weft-appd is listening on '/x'", "start it")
STATUS = DaemonStatus(__version__, 7, 1.5, "/bin/true", None, 3, 1, 2, "journal", (), (), None, 0)


def system(*, unit: Mapping[str, str] = {}, environ: Mapping[str, str] = {}) -> Scene:
    return Scene(SYSTEM_SOCKET, True, unit, environ, {"HOME": "/nonexistent"}, NO_ANSWER, 0.001)


def users(socket: Path, *, environ: Mapping[str, str] = {}) -> Scene:
    return Scene(socket, False, {}, environ, {"HOME": "/nonexistent"}, NO_ANSWER, 0.001)


def test_the_socket() -> None:
    assert checks.socket(system()) == Finding(Verdict.WRONG, NO_ANSWER.message, NO_ANSWER.hint)
    assert checks.socket(system()._replace(answer=STATUS)) == Finding(
        Verdict.OK, f"{SYSTEM_SOCKET}: weft-appd, pid 7, answers within 1 ms, 3 sessions"
    )


def test_a_daemon_of_another_version() -> None:
    assert checks.versions(system()._replace(answer=STATUS)) == checks.versions(system())
    other = checks.versions(system()._replace(answer=STATUS._replace(version="0.0.1")))
    assert other.verdict is Verdict.NOTE
    assert other.text.endswith(", but weft-appd 0.0.1 is running")
    assert other.advice == "'systemctl reload weft-appd'"


def test_the_engine_is_that_of_the_daemon(tmp_path: Path) -> None:
    asked = script(tmp_path / "asked", "echo 'asked 1'")
    guessed = script(tmp_path / "guessed", "echo 'guessed 1'")
    scene = system(environ={"WEFT_RUNTIME_BIN": guessed})
    assert checks.engine(scene).text == "guessed 1"
    assert checks.engine(scene._replace(answer=STATUS._replace(runtime=asked))).text == "asked 1"
    without = STATUS._replace(runtime=None, runtime_problem="there is none")
    finding = checks.engine(scene._replace(answer=without))
    assert (finding.verdict, finding.text) == (Verdict.WRONG, "there is none")


def test_where_sessions_come_from() -> None:
    assert checks.launches(system()).verdict is Verdict.NOTE
    missed = system()._replace(answer=STATUS)
    found = checks.launches(missed)
    assert found.verdict is Verdict.NOTE
    assert found.text.startswith("there is no fork server now: each launch executes the runtime")
    there = STATUS._replace(fork_server=9, spares=2)
    assert checks.launches(missed._replace(answer=there)) == Finding(
        Verdict.OK, "by the fork server, pid 9; 2 forks ready"
    )
    off = system(environ={"WEFT_FORK_SERVER": "false"})._replace(answer=STATUS)
    assert checks.launches(off) == Finding(Verdict.OK, "each executes the runtime: fork_server is off")


def test_the_controllers_are_those_that_the_daemon_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "CGROUPS", tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    scene = system()
    assert checks.controllers(scene).verdict is Verdict.OK
    scene = scene._replace(answer=STATUS._replace(controllers=("cpu", "pids")))
    assert checks.controllers(scene).text == "memory not there: apps run without these limits"


@pytest.mark.parametrize(
    ("unit", "finding"),
    [
        ({}, Finding(Verdict.NOTE, "systemd does not run this machine, so nobody looks after weft-appd")),
        (
            {"LoadState": "not-found"},
            Finding(
                Verdict.WRONG, "there is no weft-appd.service", "install the Debian package weft-runtime"
            ),
        ),
        (
            {"LoadState": "loaded", "ActiveState": "active", "MainPID": "7", "NRestarts": "1"},
            Finding(Verdict.OK, "weft-appd.service is active, pid 7, 1 restart"),
        ),
        (
            {"LoadState": "loaded", "ActiveState": "inactive", "Result": "success"},
            Finding(Verdict.WRONG, "weft-appd.service is inactive", "systemctl enable --now weft-appd"),
        ),
        (
            {"LoadState": "loaded", "ActiveState": "failed", "Result": "watchdog", "NRestarts": "5"},
            Finding(
                Verdict.WRONG,
                "weft-appd.service is failed (result: watchdog, 5 restarts)",
                "see 'journalctl _UID=$(id -u weft) + _PID=1 UNIT=weft-appd.service', then"
                " 'systemctl reset-failed weft-appd' and 'systemctl restart weft-appd'",
            ),
        ),
    ],
)
def test_the_service(unit: Mapping[str, str], finding: Finding) -> None:
    assert checks.service(system(unit=unit)) == finding


def test_a_daemon_of_a_user_needs_no_service(tmp_path: Path) -> None:
    assert checks.service(users(tmp_path)).verdict is Verdict.OK


def test_the_group_of_a_socket_that_is_not_there(tmp_path: Path) -> None:
    finding = checks.group(users(tmp_path / "none"))
    assert finding == Finding(
        Verdict.NOTE, f"cannot be known: {tmp_path / 'none'}: No such file or directory"
    )


def test_the_group_of_a_socket_of_ones_own(tmp_path: Path) -> None:
    assert checks.group(users(tmp_path)).verdict is Verdict.OK


def test_packages_that_can_be_launched(tmp_path: Path) -> None:
    install(tmp_path, NO_MODULE)
    (tmp_path / "no-package").mkdir()
    finding = checks.packages(users(tmp_path, environ={"WEFT_APP_STORE": str(tmp_path)}))
    assert finding == Finding(Verdict.OK, f"1 app in {tmp_path}")


def test_packages_that_are_broken(tmp_path: Path) -> None:
    for name in ("org.example.a", "org.example.b"):
        install(tmp_path, NO_MODULE, app_id=name, toml="[package]\n")
    finding = checks.packages(users(tmp_path, environ={"WEFT_APP_STORE": str(tmp_path)}))
    manifest = tmp_path / "org.example.a/wapp.toml"
    assert finding.verdict is Verdict.WRONG
    assert finding.text.startswith(f"{manifest}: ")
    assert finding.text.endswith(" (and 1 more)")


def test_a_module_that_is_missing(tmp_path: Path) -> None:
    (install(tmp_path, NO_MODULE) / "app.wasm").unlink()
    finding = checks.packages(users(tmp_path, environ={"WEFT_APP_STORE": str(tmp_path)}))
    assert finding.text == f"app.wasm not found at {tmp_path}/{APP_ID}/app.wasm"


def test_no_store(tmp_path: Path) -> None:
    finding = checks.packages(users(tmp_path, environ={"WEFT_APP_STORE": str(tmp_path / "none")}))
    assert finding == Finding(Verdict.NOTE, f"none: {tmp_path / 'none'}", "install apps there")


def test_apps_in_the_callers_own_store_are_pointed_out(tmp_path: Path) -> None:
    own = tmp_path / "home/.local/share/weft/apps"
    own.mkdir(parents=True)
    install(own, NO_MODULE)
    store = tmp_path / "store"
    store.mkdir()
    view = users(tmp_path, environ={"WEFT_APP_STORE": str(store)})._replace(
        caller={"HOME": str(tmp_path / "home")}
    )
    assert checks.packages(view) == Finding(
        Verdict.NOTE,
        f"0 apps in {store}; 1 app in {own}, which this weft-appd does not read",
        f"install them into {store}",
    )


def test_a_store_of_the_system_that_others_can_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    finding = checks.packages(system(environ={"WEFT_APP_STORE": str(tmp_path)}))
    assert finding.verdict is Verdict.WRONG
    assert finding.text == f"{tmp_path} can be written by others than root"
    if os.geteuid() == 0:
        tmp_path.chmod(0o700)
        finding = checks.packages(system(environ={"WEFT_APP_STORE": str(tmp_path)}))
        assert finding == Finding(
            Verdict.WRONG, f"{tmp_path} cannot be read by weft-appd", f"chmod 755 {tmp_path}"
        )


@pytest.mark.parametrize(
    ("there", "finding"),
    [
        ("cpuset cpu io memory pids\n", Finding(Verdict.OK, "cpu, memory, pids are there")),
        (
            "cpu pids\n",
            Finding(
                Verdict.NOTE,
                "memory not there: apps run without these limits",
                "see Delegate= of the unit, and cgroup_enable= of the kernel's command line",
            ),
        ),
        (
            None,
            Finding(
                Verdict.NOTE,
                "there is no unified cgroup hierarchy: apps run without limits",
                "boot with systemd.unified_cgroup_hierarchy=1",
            ),
        ),
    ],
)
def test_controllers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str | None, finding: Finding
) -> None:
    monkeypatch.setattr(checks, "CGROUPS", tmp_path)
    group = tmp_path / "system.slice/weft-appd.service"
    group.mkdir(parents=True)
    if there is not None:
        (group / "cgroup.controllers").write_text(there)
    assert checks.controllers(system(unit={"ControlGroup": "/system.slice/weft-appd.service"})) == finding


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "verdict", "said"),
    [
        ("echo runs 1.2", Verdict.OK, "runs 1.2"),
        ("echo 'x (stub: no engine)'", Verdict.WRONG, "x (stub: no engine): no app runs"),
        ("echo 'x[7]: err: no such thing' >&2; exit 3", Verdict.WRONG, "RUNTIME --version: no such thing"),
        ("exit 3", Verdict.WRONG, "RUNTIME --version: it ends with status 3"),
    ],
)
def test_the_engine(tmp_path: Path, text: str, verdict: Verdict, said: str) -> None:
    runtime = script(tmp_path / "runtime", text)
    finding = checks.engine(users(tmp_path, environ={"WEFT_RUNTIME_BIN": runtime}))
    assert (finding.verdict, finding.text) == (verdict, said.replace("RUNTIME", runtime))
    assert (finding.advice is None) == (verdict is Verdict.OK)


def test_a_setting_is_that_of_the_environment_else_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "appd.toml"
    monkeypatch.setattr(scene, "CONFIG_FILE", file)
    view = users(tmp_path, environ={"WEFT_APP_STORE": "/a"})
    assert (view.setting("app_store", "WEFT_APP_STORE"), view.setting("x", "X")) == ("/a", None)
    file.write_text('app_store = "/b"\nx = "/c"\ny = 1\n')
    assert (view.setting("app_store", "WEFT_APP_STORE"), view.setting("x", "X")) == ("/a", "/c")
    assert view.setting("y", "Y") is None
    file.write_text("[")
    assert view.setting("x", "X") is None


# The journal


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The directory of one machine's journal files."""
    path = tmp_path / "journal/0123456789abcdef"
    path.mkdir(parents=True)
    return path


def denied(machine: Path, *, of_system: bool = True) -> Problem | None:
    error = logs.denied(of_system=of_system, directories=[Path("/nonexistent"), machine.parent])
    return None if error is None else error.problem


def test_a_journal_that_is_there(machine: Path) -> None:
    (machine / "system.journal").touch()
    assert denied(machine) is None
    assert denied(machine, of_system=False) is None


def test_no_journal(machine: Path) -> None:
    assert denied(machine) is Problem.OS_ERROR
    error = logs.denied(of_system=True, directories=[])
    assert str(error) == "there is no journal on this machine [see 'systemctl status systemd-journald']"


def test_ones_own_journal_does_not_have_what_the_system_says(machine: Path) -> None:
    (machine / f"user-{os.getuid()}.journal").touch()
    assert denied(machine) is Problem.NOT_PERMITTED
    assert denied(machine, of_system=False) is None


def test_the_matches_of_a_session_are_its_app_its_number_and_its_time() -> None:
    info = SessionInfo(7, APP_ID, State.RUNNING, 1, 1000.5, None, None, None, None, None)
    assert logs.session_matches(info) == [
        "--since=@1000.250000", f"WEFT_APP_ID={APP_ID}", "WEFT_SESSION_ID=7"
    ]  # fmt: skip
    early = info._replace(launched=0.0)
    assert logs.session_matches(early)[0] == "--since=@0.000000"
    # What a hostile daemon says must be an argument all the same.
    assert logs.session_matches(info._replace(app_id="a\0b"))[1] == "WEFT_APP_ID=ab"


def test_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = [tmp_path / name for name in ("trusted", "revoked")]
    for directory in directories:
        directory.mkdir()
    config = tmp_path / "pack.toml"
    places = Places(config, directories[:1], [], os.geteuid(), directories[1])
    monkeypatch.setattr(checks, "Places", lambda: places)
    assert checks.trust(system()) == Finding(Verdict.OK, "policy 'warn', 0 trusted keys, 0 revoked")
    config.write_text('policy = "require"')
    assert checks.trust(system()).verdict is Verdict.WRONG
    for directory, seed in zip(directories, (b"1", b"2"), strict=True):
        (directory / "one.pub").write_text(signature.public_key(seed * 32).hex())
        (directory / "one.pub").chmod(0o644)
    assert checks.trust(system()) == Finding(Verdict.OK, "policy 'require', 1 trusted key, 1 revoked")
    bad = directories[0] / "bad.pub"
    bad.touch(0o666)
    bad.chmod(0o666)
    assert f"ignored: {bad} can be written by others" in checks.trust(system()).text
    bad.rename(directories[1] / "any name")
    finding = checks.trust(system())
    assert finding.verdict is Verdict.WRONG
    assert finding.text.startswith(
        f"{directories[1]}/any name can be written by others: its mode is 666: no"
    )
    (directories[1] / "any name").unlink()
    config.write_text("policy")
    assert checks.trust(system()).verdict is Verdict.WRONG
