# SPDX-License-Identifier: Apache-2.0
"""The daemon with the runtime that it is made for, and real modules."""

import re
from pathlib import Path

import pytest

from tests import packages
from tests.appd import compiled
from tests.appd.conftest import Make
from tests.appd.harness import REAL_RUNTIME, Appd, eventually, kill_orphans, state_of
from tests.command.foreign import KINDS
from tests.pack.command import pack
from tests.packages import APP_ID, PROC_EXIT, printing, wat
from weft_runtime.protocol import AppState, LaunchAck, LaunchApp, SessionInfo, State, TerminateApp

pytestmark = pytest.mark.sessions

CRASHES = 25

_WASI = "wasi_snapshot_preview1"
SLEEPING = wat(
    f'(import "{_WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))'
    '(memory (export "memory") 1)'
    '(func (export "_start") (i32.store8 (i32.const 8) (i32.const 0)) (i32.store (i32.const 16) (i32.const 1))'
    " (i64.store (i32.const 24) (i64.const -1))"
    " (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200))))"
)

# Says READY, and computes without end.
BUSY = wat('(func (export "_start") (loop $on (br $on)))')

# Creates the file "f" in the first directory that it was given and exits with the errno.
CREATING = wat(
    f'(import "{_WASI}" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))'
    f'{PROC_EXIT} (memory (export "memory") 1) (data (i32.const 8) "f")'
    '(func (export "_start") (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 1)'
    " (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16))))"
)
SUCCESS, PERM = 0, 63


@pytest.fixture
def real(start: Make) -> Appd:
    return start(WEFT_RUNTIME_BIN=str(REAL_RUNTIME))


def ended(appd: Appd, module: bytes) -> SessionInfo:
    packages.install(appd.store, module)
    return appd.until_stopped(appd.launch())


def test_an_app_runs_and_its_output_is_logged(real: Appd) -> None:
    end = ended(real, printing("hello\nworld\n"))
    assert (end.exit_status, end.reason) == (0, "the app exited with status 0")
    assert end.ready is not None
    real.until_logged("ended ", 1)
    lines = real.messages(1)
    assert [line for line in lines if line in ("info: hello", "info: world")] == [
        "info: hello",
        "info: world",
    ]
    assert not any("READY" in line for line in lines)


def test_compiled_code_is_kept_for_the_next_session(start: Make, tmp_path: Path) -> None:
    appd = start(WEFT_RUNTIME_BIN=str(REAL_RUNTIME), CACHE_DIRECTORY=str(tmp_path / "cache"))
    entries = {*tmp_path.glob("cache/code/*.code")}  # a fork server has one
    ended(appd, printing("hello\n"))
    (entry,) = {*tmp_path.glob("cache/code/*.code")} - entries
    before = entry.stat()
    appd.until_stopped(appd.launch())
    assert entry.stat().st_ino == before.st_ino
    # One that is damaged is told of, and costs the session nothing.
    entry.write_bytes(b"x" * 1000)
    end = appd.until_stopped(appd.launch())
    assert (end.exit_status, end.ready is not None) == (0, True)
    assert f"{entry} is truncated, or no compiled code, ignoring this compiled code" in appd.find(
        "ignoring", 3
    )
    assert entry.stat().st_size == before.st_size


def test_the_exit_status_is_the_apps_own(real: Appd) -> None:
    end = ended(real, printing("no\n", fd=2, then="(call $exit (i32.const 3))"))
    assert (end.exit_status, end.reason) == (3, "the app exited with status 3")
    real.until_logged("warning: no", 1)


def test_a_hundred_crashes_have_a_hundred_reasons(real: Appd) -> None:
    packages.install(real.store, wat('(func $f unreachable) (func (export "_start") call $f)'))
    real.control.send(*(LaunchApp(APP_ID, 0) for _ in range(CRASHES)))
    assert [real.control.receive() for _ in range(CRASHES)] == [
        LaunchAck(number, APP_ID) for number in range(1, CRASHES + 1)
    ]
    for number in range(1, CRASHES + 1):
        end = real.until_stopped(number)
        assert end.exit_status == 134
        assert end.reason is not None
        assert re.match(r"the app trapped in _start: .*unreachable", end.reason)
        assert real.find("ended with status 134", number).endswith(f": {end.reason}")


def test_an_app_that_cannot_start_is_never_ready_and_says_why(real: Appd) -> None:
    end = ended(real, wat(""))
    assert (end.exit_status, end.ready) == (165, None)
    assert end.reason is not None
    assert "exports no _start" in end.reason


@pytest.mark.parametrize("name", ["go", "node add-on", "reactor"])
def test_the_reason_is_in_the_words_of_a_check(real: Appd, name: str) -> None:
    end = ended(real, KINDS[name][0])
    (complaint, *_) = pack("check", real.store / APP_ID).problems
    assert end.exit_status == 165
    assert end.reason is not None
    message, _, hint = complaint.partition(": ")[2].rpartition(" [")
    assert end.reason.startswith(f"{real.store}/{APP_ID}/app.wasm {message}")
    assert end.reason.endswith(f" [{hint}")


def test_an_app_is_stopped_while_it_sleeps(real: Appd) -> None:
    packages.install(real.store, SLEEPING)
    session = real.launch()
    real.until_ready(session)
    assert real.control.ask(TerminateApp(session)) == AppState(session, State.STOPPED)
    end = real.sessions[session]
    assert end.signal == "SIGTERM"
    assert end.reason is not None
    assert end.reason.endswith(": stopped by SIGTERM")


@pytest.mark.parametrize(("access", "errno"), [("rw", SUCCESS), ("read", PERM)])
def test_a_data_directory_is_as_writable_as_the_package_asks(make: Make, access: str, errno: int) -> None:
    appd = make(WEFT_RUNTIME_BIN=str(REAL_RUNTIME))
    appd.environ["WEFT_DATA_ROOT"] = str(appd.directory / "data")
    appd.start()
    toml = packages.manifest().replace("[runtime]", f'capabilities = ["fs:{access}:app-data"]\n[runtime]')
    packages.install(appd.store, CREATING, toml=toml)
    assert appd.until_stopped(appd.launch()).exit_status == errno
    assert (appd.directory / "data" / APP_ID / "f").exists() == (errno == SUCCESS)


def test_without_settings_it_is_found_beside_the_daemon(make: Make, tmp_path: Path) -> None:
    appd = make()
    del appd.environ["WEFT_RUNTIME_BIN"]
    appd.start()
    assert appd.find(" serves ").endswith(f", runtime {REAL_RUNTIME}")
    eventually(lambda: not appd.children, "nothing runs yet")
    assert ended(appd, printing("")).exit_status == 0


@pytest.mark.parametrize("module", [BUSY, SLEEPING], ids=["busy", "sleeping"])
def test_no_session_outlives_a_daemon_that_was_killed(real: Appd, module: bytes) -> None:
    compiled.install(real, module)
    sessions = [real.launch() for _ in range(2)]
    real.until_ready(*sessions)
    pids = [pid for session in real.sessions.values() if (pid := session.pid) is not None]
    assert len(pids) == len(sessions)
    real.disconnect()
    real.process.kill()
    real.process.wait()
    try:
        eventually(lambda: all(state_of(pid) in "ZX" for pid in pids), "they have ended")
    finally:
        kill_orphans()
    real.start()
