# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.ctl: the checks of the doctor, and who may read the journal."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.packages import APP_ID, install
from weft_runtime import __version__, programs, signature
from weft_runtime.account import Account
from weft_runtime.client import SYSTEM_SOCKET
from weft_runtime.ctl import logs, scene
from weft_runtime.ctl.checks import daemon, packages, settings, starts, storage, trust, units, users
from weft_runtime.ctl.finding import RESET, SERVICES, Finding, Status, note, ok, problem
from weft_runtime.ctl.scene import Scene
from weft_runtime.errors import Problem, WeftError
from weft_runtime.programs import SOCKET_UNIT, UNIT, WEBSOCKET_UNIT, environment
from weft_runtime.protocol import DaemonStatus, RefusedList, SessionInfo, State, Waiting, WaitingApp
from weft_runtime.trust import Places

NO_MODULE = b"\0asm\1\0\0\0"
NO_ANSWER = WeftError(Problem.OS_ERROR, "no weft-appd is listening on '/x'", "start it")
STATUS = DaemonStatus(__version__, 7, 1.5, "/bin/true", None, 3, 1, 2, "journal", (), (), None, 0)
LOADED = {"LoadState": "loaded"}
RUNNING = {
    UNIT: {**LOADED, "ActiveState": "active", "MainPID": "7"},
    SOCKET_UNIT: {**LOADED, "ActiveState": "active"},
}


def system(
    *,
    unit: Mapping[str, str] = {},
    units: Mapping[str, Mapping[str, str]] = {},
    environ: Mapping[str, str] = {},
) -> Scene:
    return Scene(
        SYSTEM_SOCKET, True, units or {UNIT: unit}, environ, {"HOME": "/nonexistent"}, NO_ANSWER, 0.001
    )


def users_own(socket: Path, *, environ: Mapping[str, str] = {}) -> Scene:
    return Scene(socket, False, {}, environ, {"HOME": "/nonexistent"}, NO_ANSWER, 0.001)


def myself() -> Account:
    return Account("me", os.geteuid(), os.getegid())


def test_the_socket() -> None:
    (finding,) = daemon.socket(system(unit={**LOADED, "ActiveState": "active"}))
    assert finding == problem(NO_ANSWER.message, "the daemon's user is not there", finding.mend or "")
    assert finding.mend is not None
    assert finding.mend.startswith("systemd-sysusers && ")
    assert daemon.socket(system()._replace(answer=STATUS)) == [
        ok(f"{SYSTEM_SOCKET}: weft-appd, pid 7, answers within 1 ms, 3 sessions")
    ]


def test_a_daemon_of_another_version() -> None:
    assert daemon.versions(system()._replace(answer=STATUS)) == daemon.versions(system())
    (other,) = daemon.versions(system()._replace(answer=STATUS._replace(version="0.0.1")))
    assert other.status is Status.NOTE
    assert other.what.endswith(", but weft-appd 0.0.1 is running")
    assert other.mend == "systemctl reload weft-appd"


def test_the_engine_is_that_of_the_daemon(tmp_path: Path) -> None:
    asked = script(tmp_path / "asked", "echo 'asked 1'")
    guessed = script(tmp_path / "guessed", "echo 'guessed 1'")
    scene = system(environ={"WEFT_RUNTIME_BIN": guessed})
    assert daemon.engine(scene) == [ok("guessed 1")]
    assert daemon.engine(scene._replace(answer=STATUS._replace(runtime=asked))) == [ok("asked 1")]
    without = STATUS._replace(runtime=None, runtime_problem="there is none")
    (finding,) = daemon.engine(scene._replace(answer=without))
    assert (finding.status, finding.what, finding.why) == (Status.PROBLEM, "there is none", "no app runs")


def test_where_sessions_come_from() -> None:
    missed = users_own(Path("/nonexistent"))._replace(answer=STATUS)
    (found,) = daemon.launches(missed)
    assert found.status is Status.NOTE
    assert found.what.startswith("there is no fork server now: each launch executes the runtime")
    assert found.mend == "weft-appd --reload"
    there = STATUS._replace(fork_server=9, spares=2)
    assert daemon.launches(missed._replace(answer=there)) == [ok("by the fork server, pid 9; 2 forks ready")]
    off = system(environ={"WEFT_FORK_SERVER": "false"})._replace(answer=STATUS)
    assert daemon.launches(off) == [ok("each executes the runtime: fork_server is off")]


@pytest.mark.parametrize(
    ("unit", "finding"),
    [
        ({}, ok("systemd does not run this machine, so nobody looks after weft-appd")),
        (
            {"LoadState": "not-found"},
            problem("there is no weft-appd.service", None, "apt-get install --reinstall ./weft-runtime_*.deb"),
        ),
        (
            {**LOADED, "ActiveState": "active", "MainPID": "7", "NRestarts": "1"},
            ok("weft-appd.service is active, pid 7, 1 restart"),
        ),
        (
            {**LOADED, "ActiveState": "inactive", "Result": "success"},
            note("weft-appd.service is stopped, and so are its sockets", None, f"systemctl start {SERVICES}"),
        ),
        (
            {"LoadState": "masked", "ActiveState": "inactive"},
            problem(
                "weft-appd.service is masked", "nothing can start it",
                f"systemctl unmask weft-appd.service && systemctl start {SERVICES}",
            ),
        ),
    ],
)  # fmt: skip
def test_the_service(unit: Mapping[str, str], finding: Finding) -> None:
    assert units.service(system(unit=unit)) == [finding]


def test_a_service_that_has_failed() -> None:
    failed = {**LOADED, "ActiveState": "failed", "Result": "watchdog", "NRestarts": "5"}
    (finding,) = units.service(system(unit=failed))
    assert finding.what == "weft-appd.service is failed"
    assert (finding.why or "").startswith("result: watchdog, 5 restarts")
    assert finding.mend == f"{RESET}; systemctl start {SERVICES}"


def test_what_an_operator_has_stopped_has_no_open_door_and_nothing_failed() -> None:
    stopped = {**LOADED, "ActiveState": "inactive", "Result": "success"}
    both = {UNIT: stopped, SOCKET_UNIT: stopped}
    assert system(units=both).is_stopped
    assert not system(units={**both, SOCKET_UNIT: {**stopped, "ActiveState": "active"}}).is_stopped
    assert not system(units={**both, SOCKET_UNIT: {**stopped, "ActiveState": "failed"}}).is_stopped
    assert not system(units={**both, UNIT: {**stopped, "Result": "exit-code"}}).is_stopped
    (finding,) = daemon.socket(system(units=both))
    assert (finding.status, finding.what) == (Status.NOTE, "not open: weft-appd is stopped")
    (door,) = units.service(system(units={**both, SOCKET_UNIT: {**stopped, "ActiveState": "active"}}))
    assert (door.status, door.what) == (Status.PROBLEM, "weft-appd.service is inactive")


@pytest.mark.parametrize(
    ("service", "socket", "active", "status"),
    [
        ("enabled", "enabled", True, Status.OK),
        ("disabled", "disabled", True, Status.PROBLEM),
        ("disabled", "disabled", False, Status.NOTE),
        ("disabled", "enabled", True, Status.NOTE),
        ("enabled", "disabled", True, Status.NOTE),
        ("masked", "masked", False, Status.NOTE),
    ],
)
def test_what_starts_at_the_next_boot(service: str, socket: str, active: bool, status: Status) -> None:
    state = {**LOADED, "ActiveState": "active" if active else "inactive"}
    pair = {UNIT: {**state, "UnitFileState": service}, SOCKET_UNIT: {**state, "UnitFileState": socket}}
    (finding,) = units.boot(system(units=pair))
    assert finding.status is status
    assert (finding.mend is None) == (status is Status.OK)


@pytest.mark.parametrize(
    ("state", "enabled", "status"),
    [
        ("active", "enabled", Status.OK),
        ("active", "disabled", Status.NOTE),
        ("inactive", "disabled", Status.OK),
        ("inactive", "enabled", Status.PROBLEM),
        ("failed", "enabled", Status.PROBLEM),
        ("failed", "disabled", Status.PROBLEM),
    ],
)
def test_the_websocket(state: str, enabled: str, status: Status) -> None:
    unit = {**LOADED, "ActiveState": state, "UnitFileState": enabled, "Listen": "127.0.0.1:1 (Stream)"}
    (finding,) = units.websocket(system(units={**RUNNING, WEBSOCKET_UNIT: unit}))
    assert finding.status is status
    assert (finding.mend is None) == (status is Status.OK)


def test_the_websocket_of_a_daemon_that_is_stopped_need_not_be_open() -> None:
    stopped = {**LOADED, "ActiveState": "inactive", "Result": "success", "UnitFileState": "enabled"}
    every = {UNIT: stopped, SOCKET_UNIT: stopped, WEBSOCKET_UNIT: stopped}
    assert units.websocket(system(units=every)) == [ok("weft-appd-ws.socket is enabled, inactive")]


def test_spans_of_systemctl() -> None:
    spans = {
        "30s": 30,
        "1min 30s": 90,
        "4min": 240,
        "100ms": 0.1,
        "1.500s": 1.5,
        "1h": 3600,
        "0": 0,
        "1w 2d": 777600,
    }
    assert {text: starts.seconds(text) for text in spans} == spans
    assert starts.seconds("infinity") == math.inf
    assert [starts.seconds(text) for text in ("", "x", "1fortnight", "1min x")] == [None] * 4


TIMES = {
    "TimeoutStartUSec": "30s", "TimeoutStopUSec": "5s", "RestartUSec": "1s", "StartLimitIntervalUSec": "4min",
    "StartLimitBurst": "5", "Restart": "on-failure",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, 0),
        ({"TimeoutStartUSec": "1min"}, 1),
        ({"TimeoutStartUSec": "1min", "StartLimitIntervalUSec": "5min 31s"}, 0),
        ({"TimeoutStartUSec": "1min", "StartLimitIntervalUSec": "5min 30s"}, 1),
        ({"RestartUSec": "30s"}, 1),
        ({"StartLimitIntervalUSec": "0"}, 1),
        ({"StartLimitIntervalUSec": "infinity", "TimeoutStartUSec": "1h"}, 0),
        ({"TimeoutStartUSec": "infinity"}, 0),
        ({"TimeoutStartUSec": "1min", "Restart": "no"}, 0),
        ({"TimeoutStartUSec": "1min", "StartLimitBurst": "3"}, 0),
        ({"TimeoutStartUSec": "of another systemd"}, 0),
    ],
)
def test_a_start_limit_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, str], found: int
) -> None:
    name = "weft-app@org.example.one.service"

    def show(units: Sequence[str], properties: str, environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
        assert name in units
        return {unit: {**TIMES, **(changes if unit == name else {})} for unit in units}

    monkeypatch.setattr(programs, "show", show)
    assert len(starts.start_limits(system(), [name])) == found
    # Of all services alike there is one finding.
    monkeypatch.setattr(programs, "show", lambda units, *_: {unit: {**TIMES, **changes} for unit in units})
    told = starts.start_limits(system(), [name, "weft-app@org.example.two.service"])
    assert [finding.what.partition(" ")[0] for finding in told] == ["weft-app@.service"] * found


def test_a_daemon_of_a_user_needs_no_unit(tmp_path: Path) -> None:
    view = users_own(tmp_path)
    for check in (
        units.service,
        units.boot,
        units.websocket,
        units.apps,
        users.users,
        users.view,
        storage.disks,
    ):
        assert [finding.status for finding in check(view)] == [Status.OK]


def test_the_group_of_a_socket_that_is_not_there(tmp_path: Path) -> None:
    (finding,) = users.group(users_own(tmp_path / "none"))
    assert finding == ok(f"not known: {tmp_path / 'none'}: No such file or directory")


def test_the_group_of_a_socket_of_ones_own(tmp_path: Path) -> None:
    assert [finding.status for finding in users.group(users_own(tmp_path))] == [Status.OK]


def test_a_user_that_is_missing() -> None:
    unit = {**LOADED, "User": "nobody-of-that-name", "Group": "nobody-of-that-name"}
    found = users.users(system(units={UNIT: unit, SOCKET_UNIT: {"SocketGroup": "nobody-of-that-name"}}))
    texts = [finding.what for finding in found]
    assert texts[:2] == ["there is no user 'nobody-of-that-name'", "there is no group 'nobody-of-that-name'"]
    assert all((finding.mend or "").startswith("systemd-sysusers") for finding in found)


def test_packages_that_can_be_launched(tmp_path: Path) -> None:
    install(tmp_path, NO_MODULE)
    (tmp_path / "no-package").mkdir()
    found = packages.packages(users_own(tmp_path, environ={"WEFT_APP_STORE": str(tmp_path)}))
    assert found == [ok(f"1 app in {tmp_path}")]


def test_packages_that_are_broken_are_all_told(tmp_path: Path) -> None:
    for name in ("org.example.a", "org.example.b"):
        install(tmp_path, NO_MODULE, app_id=name, toml="[package]\n")
    (install(tmp_path, NO_MODULE, app_id="org.example.c") / "app.wasm").unlink()
    found = packages.packages(users_own(tmp_path, environ={"WEFT_APP_STORE": str(tmp_path)}))
    assert [finding.status for finding in found] == [Status.PROBLEM] * 3
    assert found[0].what.startswith(f"{tmp_path}/org.example.a/wapp.toml: ")
    assert found[2].what == f"app.wasm not found at {tmp_path}/org.example.c/app.wasm"
    assert found[1].mend == f"WEFT_APP_STORE={tmp_path} weft-pack uninstall org.example.b"


def test_an_older_package_that_hides_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = (tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(scene, "SYSTEM_STORES", stores)
    for store, version in zip(stores, ("1.10.0", "1.9.0"), strict=True):
        package = install(store, NO_MODULE)
        (package / "wapp.toml").write_text((package / "wapp.toml").read_text().replace("1.2.3", version))
        store.chmod(0o755)
    assert [finding.status for finding in packages.packages(system())] == [Status.OK]
    stores[0].rename(tmp_path / "x")
    stores[1].rename(stores[0])
    (tmp_path / "x").rename(stores[1])
    (finding,) = packages.packages(system())
    assert finding.status is Status.NOTE
    assert finding.what == f"{APP_ID} 1.9.0 in {stores[0]} hides the newer 1.10.0 in {stores[1]}"


def test_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = tmp_path / "none"
    named = packages.packages(users_own(tmp_path, environ={"WEFT_APP_STORE": str(none)}))
    assert named == [note(f"none: {none}", "install apps there", f"mkdir -p {none}")]
    # The check of the settings says so.
    named = packages.packages(system(environ={"WEFT_APP_STORE": str(none)}))
    assert named == [ok(f"none: {none} is not there")]
    monkeypatch.setattr(scene, "SYSTEM_STORES", (none,))
    assert packages.packages(system()) == [note(f"none: {none}", "install apps there", f"mkdir -p {none}")]


def test_apps_in_the_callers_own_store_are_pointed_out(tmp_path: Path) -> None:
    own = tmp_path / "home/.local/share/weft/apps"
    own.mkdir(parents=True)
    install(own, NO_MODULE)
    store = tmp_path / "store"
    store.mkdir()
    view = users_own(tmp_path, environ={"WEFT_APP_STORE": str(store)})._replace(
        caller={"HOME": str(tmp_path / "home")}
    )
    (finding,) = packages.packages(view)
    assert finding.what == f"0 apps in {store}; 1 app in {own}, which this weft-appd does not read"
    assert (finding.status, finding.why) == (Status.NOTE, f"install them into {store}")


def test_a_store_of_the_system_that_others_can_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (finding,) = packages.packages(system(environ={"WEFT_APP_STORE": str(tmp_path)}))
    assert finding.status is Status.PROBLEM
    assert finding.what == f"{tmp_path} can be written by others than root"


def test_a_way_is_barred_where_a_directory_above_is(place_of_all: Path) -> None:
    """By the mode, for who is somebody else: root tries it as that user, on a real device."""
    place = place_of_all / "a/b"
    place.mkdir(parents=True)
    file = place / "file"
    file.write_text("x")
    file.chmod(0o644)
    for directory in (place, place.parent):
        directory.chmod(0o755)
    stranger = Account("stranger", os.geteuid() + 7, os.getegid() + 7)
    member = stranger._replace(groups=(os.stat(file).st_gid,))
    assert stranger.barrier(file) is None
    file.chmod(0o640)
    assert stranger.barrier(file) == file
    assert member.barrier(file) is None
    place.chmod(0o750)
    assert stranger.barrier(file) == place
    place.parent.chmod(0o700)
    assert member.barrier(file) == place.parent


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_looks_as_the_other_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    tmp_path.chmod(0o700)
    stranger = Account("stranger", 12345, 12345)
    assert stranger.call(lambda: [os.geteuid(), os.getegid(), os.getgroups(), os.access(tmp_path, os.X_OK)]) == [
        12345, 12345, [], False
    ]  # fmt: skip
    assert os.geteuid() == 0
    with pytest.raises(WeftError, match="looking at it as stranger failed: PermissionError"):
        stranger.call(lambda: (tmp_path / "file").read_text())


@pytest.mark.parametrize(
    ("there", "finding"),
    [
        ("cpuset cpu io memory pids\n", ok("cpu, memory, pids are there")),
        (
            "cpu pids\n",
            note(
                "memory not there: apps run without these limits",
                "see Delegate= of the unit, and cgroup_enable= of the kernel's command line",
                "cat /proc/cmdline /sys/fs/cgroup/cgroup.controllers",
            ),
        ),
        (
            None,
            note(
                "there is no unified cgroup hierarchy: apps run without limits",
                "the kernel's command line says otherwise: systemd.unified_cgroup_hierarchy=1",
                "cat /proc/cmdline /sys/fs/cgroup/cgroup.controllers",
            ),
        ),
    ],
)
def test_controllers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str | None, finding: Finding
) -> None:
    monkeypatch.setattr(daemon, "CGROUPS", tmp_path)
    group = tmp_path / "system.slice/weft-appd.service"
    group.mkdir(parents=True)
    if there is not None:
        (group / "cgroup.controllers").write_text(there)
    view = system(unit={"ControlGroup": "/system.slice/weft-appd.service"})
    assert daemon.controllers(view) == [finding]
    if there is not None:  # what the daemon says counts more
        asked = view._replace(answer=STATUS._replace(controllers=("cpu", "pids")))
        assert daemon.controllers(asked)[0].what == "memory not there: apps run without these limits"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("echo runs 1.2", Status.OK, "runs 1.2"),
        ("echo 'x (stub: no engine)'", Status.PROBLEM, "x (stub: no engine)"),
        ("echo 'x[7]: err: no such thing' >&2; exit 3", Status.PROBLEM, "RUNTIME --version: no such thing"),
        ("exit 3", Status.PROBLEM, "RUNTIME --version: it ends with status 3"),
    ],
)
def test_the_engine(tmp_path: Path, text: str, status: Status, said: str) -> None:
    runtime = script(tmp_path / "runtime", text)
    (finding,) = daemon.engine(users_own(tmp_path, environ={"WEFT_RUNTIME_BIN": runtime}))
    assert (finding.status, finding.what) == (status, said.replace("RUNTIME", runtime))
    assert (finding.mend is None) == (status is Status.OK)


def test_a_setting_is_that_of_the_environment_else_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "appd.toml"
    monkeypatch.setattr(scene, "CONFIG_FILE", file)
    view = users_own(tmp_path, environ={"WEFT_APP_STORE": "/a"})
    assert (view.setting("app_store", "WEFT_APP_STORE"), view.setting("x", "X")) == ("/a", None)
    file.write_text('app_store = "/b"\nx = "/c"\ny = 1\n')
    assert (view.setting("app_store", "WEFT_APP_STORE"), view.setting("x", "X")) == ("/a", "/c")
    assert view.setting("y", "Y") is None
    file.write_text("[")
    assert view.setting("x", "X") is None


@pytest.mark.parametrize(
    ("wrong", "lines"),
    [
        ("max_sessions = 'many'", {2}),
        ("frobs = 1", {2}),
        ("restore = tru", {2}),
        ("max_sessions = 'many'\nfrobs = 1\nidle_timeout = 'x'", {2, 3, 4}),
        ("restore = true\nrestore = true", {3}),
        ("[", {2}),
    ],
)
def test_the_lines_of_a_file_that_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, lines: set[int]
) -> None:
    file = tmp_path / "appd.toml"
    for module in (settings, scene):
        monkeypatch.setattr(module, "CONFIG_FILE", file)
    file.write_text(f"stop_grace = 3\n{wrong}\n# the end\n")
    command = settings._correction(system(), "it is wrong")
    numbers = ";".join(f"{number}s/^/#/" for number in sorted(lines))
    assert command.startswith(f"sed -i '{numbers}' {file} && ")
    file.write_bytes(b"\xff")
    assert settings._correction(system(), "it is wrong").startswith(f"mv {file} {file}.wrong")


def test_the_variables_of_a_unit(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# A=1\nB='2 3'\n\n;C=4\nD=5=6\n")
    unit = {"Environment": 'A=1 "X=a b" D=1', "EnvironmentFiles": f"{file} (ignore_errors=no)"}
    assert environment(unit) == {"A": "1", "X": "a b", "B": "2 3", "D": "5=6"}
    assert environment({"Environment": "'"}) == {}


def test_the_data_of_apps_belongs_to_the_daemons_user(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "org.example.a").mkdir(parents=True)
    (root / "org.example.b").touch()
    view = system(environ={"WEFT_DATA_ROOT": str(root)})._replace(account=myself())
    (finding,) = storage.data(view)
    assert finding.what == f"{root}/org.example.b is no directory"
    (root / "org.example.b").unlink()
    assert storage.data(view) == [ok(f"1 app with data in {root}")]
    (root / "org.example.a").chmod(0o500)
    (finding,) = storage.data(view)
    assert finding.what == f"{root}/org.example.a cannot be written: its mode is 500"
    other = view._replace(account=Account("other", os.geteuid(), os.getegid())._replace(uid=os.geteuid()))
    assert storage.data(other)[0].mend == (
        f"chown -hR {os.geteuid()}:{os.getegid()} {root}/org.example.a && chmod -R u+rwX {root}/org.example.a"
    )


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
    monkeypatch.setattr(trust, "Places", lambda: places)
    view = system(environ={"WEFT_APP_STORE": str(tmp_path / "store")})
    assert trust.trust(view) == [ok("policy 'warn', 0 trusted keys, 0 revoked")]
    config.write_text('policy = "require"')
    (finding,) = trust.trust(view)
    assert (finding.status, finding.what) == (Status.PROBLEM, "policy 'require', and no key is trusted")
    for directory, seed in zip(directories, (b"1", b"2"), strict=True):
        (directory / "one.pub").write_text(signature.public_key(seed * 32).hex())
        (directory / "one.pub").chmod(0o644)
    assert trust.trust(view) == [ok("policy 'require', 1 trusted key, 1 revoked")]
    for bad in (directories[0] / "bad.pub", directories[1] / "any name"):
        bad.touch(0o666)
        bad.chmod(0o666)
    (directories[0] / "worse.pub").write_text("nonsense")
    (directories[0] / "worse.pub").chmod(0o644)
    found = trust.trust(view)
    assert [finding.what for finding in found] == [
        f"{directories[1]}/any name can be written by others: its mode is 666",
        f"{directories[0]}/bad.pub can be written by others: its mode is 666",
        f"{directories[0]}/worse.pub does not hold 64 hexadecimal digits",
    ]
    assert {finding.status for finding in found} == {Status.PROBLEM}
    assert (
        found[0].mend
        == f"chown root:root '{directories[1]}/any name' && chmod 644 '{directories[1]}/any name'"
    )
    assert found[2].mend == f"rm {directories[0]}/worse.pub"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("policy", "warn"),
        ("policy = require", "require"),
        ('Policy = "off"', "off"),
        ("# require\n[", "warn"),
    ],
)
def test_a_policy_that_is_put_right_is_never_less_than_what_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, rule: str
) -> None:
    config = tmp_path / "pack.toml"
    config.write_text(text)
    config.chmod(0o644)
    places = Places(config, [], [], os.geteuid(), tmp_path / "none")
    monkeypatch.setattr(trust, "Places", lambda: places)
    (finding,) = trust.trust(system())
    assert finding.mend == f"echo 'policy = \"{rule}\"' >{config}"


def test_what_waits_to_be_started_again(tmp_path: Path) -> None:
    usable, other = tmp_path / "usable.json", tmp_path / "other.json"
    usable.write_text('["org.example.a"]')
    other.write_text("{")
    view = system()._replace(waiting=Waiting((), (), None))
    assert daemon.restore(system()) == [ok("not known: weft-appd does not say")]
    assert daemon.restore(view) == [ok("0 apps to be started again, none in vain")]
    begun = WaitingApp("org.example.b", None, 1.0, 0, 2.0)
    tried = WaitingApp("org.example.a", "no engine", 1.0, 2, 2.0)
    assert daemon.restore(view._replace(waiting=Waiting((begun,), (), None)))[0].status is Status.OK
    refused = (RefusedList(str(usable), "too often"), RefusedList(str(other), "it is no list"))
    assert daemon.restore(view._replace(waiting=Waiting((begun, tried, tried), refused, "disk full"))) == [
        problem(
            "org.example.a waits to be started again, tried 2 times",
            "no engine",
            "weftctl restore org.example.a",
        ),
        problem(f"the apps in {usable} were not started again", "too often", "weftctl restore"),
        problem(f"the apps in {other} were not started again", "it is no list", "weftctl restore --forget"),
        problem(
            "the list of the apps to start again is not saved", "disk full", "systemctl reload weft-appd"
        ),
    ]
