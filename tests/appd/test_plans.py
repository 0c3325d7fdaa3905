# SPDX-License-Identifier: Apache-2.0
"""Sessions that follow a plan: which ones do, and that nothing stale is run."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import packages
from tests.appd.conftest import Make
from tests.appd.harness import HELPERS, REAL_RUNTIME, Appd, eventually
from tests.appd.test_real_runtime import SLEEPING
from tests.command.guests import guest, sleep
from tests.packages import APP_ID, manifest, printing
from weft_runtime.integrity import SETTLED_NS
from weft_runtime.protocol import Error, ErrorCode, LaunchApp, State, TerminateApp


@pytest.fixture
def appd(start: Make, tmp_path: Path) -> Appd:
    appd = start(
        WEFT_RUNTIME_BIN=str(REAL_RUNTIME), CACHE_DIRECTORY=str(tmp_path / "cache"),
        WEFT_DATA_ROOT=str(tmp_path / "data"), WEFT_FORK_SERVER="true",
    )  # fmt: skip
    eventually(lambda: len(appd.helpers) == HELPERS, "processes wait")
    return appd


def settle() -> None:
    """Wait until what was changed just now cannot be changed again without a trace."""
    time.sleep(2 * SETTLED_NS / 1e9)


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]


def follows_a_plan(appd: Appd, app_id: str = APP_ID) -> bool:
    """Launch the app, which sleeps, and end it; whether it was a fork that followed a plan."""
    session = appd.launch(app_id)
    appd.until_ready(session)
    pid = appd.sessions[session].pid
    assert pid is not None
    argv = command_line(pid)
    appd.control.ask(TerminateApp(session))
    # A program that is executed is shown with its interpreter.
    is_fork = argv[0] == REAL_RUNTIME.name
    assert argv[not is_fork :][1:3] == [app_id, str(session)]
    return is_fork


def until_followed(appd: Appd) -> None:
    """Launch a sleeping app until its sessions follow a plan that is remembered."""
    for _ in range(3):
        settle()
        is_fork = follows_a_plan(appd)
    assert is_fork


def output(appd: Appd) -> str:
    """What a session of the app prints to its end."""
    settle()
    session = appd.launch()
    assert appd.until_stopped(session).exit_status == 0
    appd.until_logged("ended ", session)
    (line,) = {"info: one", "info: two", "info: hello"}.intersection(appd.messages(session))
    return line.removeprefix("info: ")


def test_an_app_is_compiled_by_the_first_session_and_the_next_ones_follow_a_plan(appd: Appd) -> None:
    packages.install(appd.store, SLEEPING)
    settle()
    assert not follows_a_plan(appd)
    assert [follows_a_plan(appd) for _ in range(3)] == [True, True, True]


def test_a_launch_says_the_same_whether_its_plan_is_remembered_or_not(appd: Appd) -> None:
    package = packages.install(appd.store, SLEEPING)
    until_followed(appd)
    number = max(appd.sessions)
    told = [appd.find("launched by", session).partition(": version ")[2] for session in (1, number)]
    assert told == [f"1.2.3 from {package}"] * 2


def test_a_data_directory_that_is_gone_is_made_again(appd: Appd, tmp_path: Path) -> None:
    toml = manifest().replace("[runtime]", 'capabilities = ["fs:rw:app-data"]\n[runtime]')
    packages.install(appd.store, SLEEPING, toml=toml)
    until_followed(appd)
    data = tmp_path / "data" / APP_ID
    shutil.rmtree(data)
    assert follows_a_plan(appd)
    assert data.is_dir()


def _exchange(package: Path, module: bytes) -> None:
    """Upgrade as weft-pack does: another directory takes the place of the package."""
    new = package.with_name("new")
    shutil.copytree(package, new)
    (new / "app.wasm").write_bytes(module)
    settle()
    package.rename(package.with_name("old"))
    new.rename(package)


def _replace(package: Path, module: bytes) -> None:
    new = package / "new.wasm"
    new.write_bytes(module)
    settle()
    new.rename(package / "app.wasm")


def _write(package: Path, module: bytes) -> None:
    (package / "app.wasm").write_bytes(module)


def _touch_nothing_but_the_bytes(package: Path, module: bytes) -> None:
    """The same size, and the time of the change set back."""
    file = package / "app.wasm"
    before = file.stat()
    assert len(module) == before.st_size
    file.write_bytes(module)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [_exchange, _replace, _write, _touch_nothing_but_the_bytes])
def test_the_app_that_is_installed_is_the_one_that_runs(
    appd: Appd, change: Callable[[Path, bytes], None]
) -> None:
    package = packages.install(appd.store, printing("one\n"))
    assert [output(appd) for _ in range(4)] == ["one"] * 4
    change(package, printing("two\n"))
    assert [output(appd) for _ in range(4)] == ["two"] * 4


def test_changed_arguments_are_those_of_the_next_session(appd: Appd) -> None:
    package = packages.install(appd.store, SLEEPING)
    until_followed(appd)
    (package / "wapp.toml").write_text(manifest(runtime='ready = "export"'))
    session = appd.launch()
    end = appd.until_stopped(session)
    assert end.reason is not None
    assert "exports no weft_ready" in end.reason


def test_a_package_that_is_gone_is_not_launched(appd: Appd) -> None:
    package = packages.install(appd.store, SLEEPING)
    until_followed(appd)
    shutil.rmtree(package)
    answer = appd.control.ask(LaunchApp(APP_ID, 0))
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.PACKAGE_NOT_FOUND


@pytest.mark.parametrize("change", ["cut", "other bytes", "gone", "others may write"])
def test_code_that_is_not_what_was_judged_is_never_run(appd: Appd, tmp_path: Path, change: str) -> None:
    packages.install(appd.store, printing("hello\n"))
    assert [output(appd) for _ in range(3)] == ["hello"] * 3
    (code,) = tmp_path.glob("cache/code/*.code")
    match change:
        case "cut":
            os.truncate(code, 1000)
        case "other bytes":
            code.write_bytes(b"x" * code.stat().st_size)
        case "gone":
            code.unlink()
        case _:
            code.chmod(0o666)
    assert [output(appd) for _ in range(3)] == ["hello"] * 3


@pytest.mark.parametrize(("change", "signal"), [("cut", "SIGBUS"), ("replaced", None), ("gone", None)])
def test_code_that_changes_below_a_session_ends_that_one_at_most(
    appd: Appd, tmp_path: Path, change: str, signal: str | None
) -> None:
    """An entry is replaced or removed as a whole by all of ours; whoever cuts one ends who has it mapped, and nobody else."""
    packages.install(appd.store, SLEEPING, app_id="org.example.other")
    packages.install(appd.store, guest(f"(loop $l {sleep(50_000_000)} (br $l))"))
    other = appd.launch("org.example.other")
    appd.until_ready(other)
    before = set(tmp_path.glob("cache/code/*.code"))
    until_followed(appd)
    (code,) = set(tmp_path.glob("cache/code/*.code")) - before
    session = appd.launch()
    appd.until_ready(session)
    match change:
        case "cut":
            os.truncate(code, 0)
        case "replaced":
            new = code.with_name("new")
            new.write_bytes(b"x" * code.stat().st_size)
            new.rename(code)
        case _:
            code.unlink()
    if signal is not None:
        end = appd.until_stopped(session)
        assert (end.signal, end.reason) == (signal, f"killed by {signal}")
        appd.until_logged(f"ended by {signal} ", session)
    # Whatever became of it, the next launch finds out by itself.
    assert not follows_a_plan(appd)
    states = {number: appd.sessions[number].state for number in (other, session)}
    assert states == {other: State.RUNNING, session: State.STOPPED if signal else State.RUNNING}
    until_followed(appd)


@pytest.mark.parametrize(
    "settings", [{"WEFT_FORK_SERVER": "false"}, {"WEFT_ENGINE": "pulley"}, {"WEFT_LOG_LEVEL": "debug"}]
)
def test_who_asks_for_something_else_gets_the_full_runtime(
    start: Make, tmp_path: Path, settings: dict[str, str]
) -> None:
    appd = start(
        WEFT_RUNTIME_BIN=str(REAL_RUNTIME), CACHE_DIRECTORY=str(tmp_path / "cache"), **settings
    )  # fmt: skip
    packages.install(appd.store, SLEEPING)
    settle()
    assert [follows_a_plan(appd) for _ in range(3)] == [False] * 3


def test_a_program_in_the_place_of_the_runtime_gets_its_command_line(start: Make, tmp_path: Path) -> None:
    """Though it has the runtime's fork server: what it changes for its sessions nobody else knows."""
    program = tmp_path / "wrapper"
    program.write_text(f'#!/bin/sh\nexec {REAL_RUNTIME} "$@"\n')
    program.chmod(0o755)
    appd = start(WEFT_RUNTIME_BIN=str(program), CACHE_DIRECTORY=str(tmp_path / "cache"))
    packages.install(appd.store, SLEEPING)
    settle()
    assert [follows_a_plan(appd) for _ in range(3)] == [False] * 3


def test_a_plan_that_is_too_long_for_a_message_is_not_sent(appd: Appd) -> None:
    """Each of these characters has seven in the log; and what the app is given has 32 KiB as well."""
    deep = appd.directory / "/".join(["\u06dd" * 127] * 14)
    deep.mkdir(parents=True)
    appd.stop()
    store = deep / "store"
    appd.environ |= {"WEFT_APP_STORE": str(store), "WEFT_DATA_ROOT": str(deep / "data")}
    appd.start()
    eventually(lambda: len(appd.helpers) == HELPERS, "processes wait")
    server = min(appd.helpers)
    arguments = f'args = ["{"x" * 32_000}"]'
    toml = manifest(runtime=arguments).replace("[runtime]", 'capabilities = ["fs:rw:app-data"]\n[runtime]')
    packages.install(store, SLEEPING, toml=toml)
    for _ in range(3):
        settle()
        assert not follows_a_plan(appd)
    assert min(appd.helpers) == server


def test_many_apps_in_turns_follow_their_own_plans(appd: Appd) -> None:
    names = [f"org.example.app{number}" for number in range(4)]
    for number, name in enumerate(names):
        packages.install(appd.store, SLEEPING + bytes([0, 2, 1, number]), app_id=name)
    for _ in range(3):
        settle()
        followed = [follows_a_plan(appd, name) for name in names]
    assert followed == [True] * len(names)


def test_a_stop_is_worded_by_the_daemon_for_both_ways(appd: Appd) -> None:
    packages.install(appd.store, SLEEPING)
    until_followed(appd)
    reasons = {session.reason for session in appd.sessions.values()}
    assert len(reasons) == 1
    (reason,) = reasons
    assert reason is not None
    assert reason.endswith(": stopped by SIGTERM")
