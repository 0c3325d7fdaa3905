# SPDX-License-Identifier: Apache-2.0
"""Sessions that are forks: the same as executed ones in every way, and never lost with the fork server."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import packages
from tests.appd import compiled
from tests.appd.conftest import Make
from tests.appd.harness import (
    HELPERS,
    REAL_RUNTIME,
    WAIT_SECONDS,
    Appd,
    children,
    eventually,
    is_gone,
    kill_orphans,
    memory,
    state_of,
)
from tests.appd.test_real_runtime import SLEEPING
from tests.appd.test_soak import GROWTH_MAX, HISTORY_MAX
from tests.packages import printing, wat
from weft_runtime.appd.forkserver import HELLO_TIMEOUT_S
from weft_runtime.appd.spares import SPARES
from weft_runtime.protocol import (
    AppState,
    DaemonStatus,
    LaunchApp,
    QueryStatus,
    State,
    Subscribe,
    TerminateApp,
)

IN_A_ROW = 10_000 if os.environ.get("WEFT_SOAK") == "1" else 100
AT_ONCE = 4
LAUNCHES = 500 if os.environ.get("WEFT_SOAK") == "1" else 20

# Writes 32 letters that WASI's random numbers choose.
RANDOM = wat(
    '(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))'
    '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
    '(memory (export "memory") 1) (data (i32.const 0) "\\10\\00\\00\\00\\21\\00\\00\\00") (data (i32.const 48) "\\0a")'
    '(func (export "_start") (local $i i32) (drop (call $random (i32.const 16) (i32.const 32)))'
    " (loop $next (i32.store8 (i32.add (i32.const 16) (local.get $i)) (i32.add (i32.const 97)"
    " (i32.rem_u (i32.load8_u (i32.add (i32.const 16) (local.get $i))) (i32.const 26))))"
    " (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 32))))"
    " (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))"
)


@pytest.fixture
def forking(make: Make) -> Appd:
    """A daemon with a fork server and all the processes that wait."""
    appd = make(WEFT_RUNTIME_BIN=str(REAL_RUNTIME), WEFT_FORK_SERVER="true")
    compiled.install(appd, SLEEPING)
    appd.start()
    until_full(appd)
    return appd


def own(make: Make, program: Path) -> Appd:
    """A place for a daemon of which `program` is the runtime of the same installation: no other follows plans."""
    appd = make(WEFT_RUNTIME_BIN=str(program), WEFT_FORK_SERVER="true")
    *wrapper, daemon = appd.program
    beside = program.with_name("weft-appd")
    if not beside.exists():
        shutil.copy2(daemon, beside)
    appd.program = (*wrapper, os.fspath(beside))
    return appd


def until_full(appd: Appd) -> None:
    eventually(lambda: len(appd.helpers) == HELPERS and server_of(appd) is not None, "processes wait")


def server_of(appd: Appd) -> int | None:
    """The fork server: the one helper whose command line says so, and which is not about to become a spare."""
    found = []
    for pid in appd.helpers:
        with contextlib.suppress(OSError):  # it has just ended
            if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"--fork-server\0"):
                found.append(pid)
    return found[0] if len(found) == 1 else None


def another(appd: Appd, known: int | None) -> int:
    """The fork server that comes after the one that is `known`."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [pid for pid in [server_of(appd)] if pid is not None and pid != known]
        return bool(found)

    eventually(look, "another one", 2 * WAIT_SECONDS)
    return found[0]


def spares_of(appd: Appd) -> list[int]:
    """The processes that wait for a session, and the next ones on their way there."""
    server = server_of(appd)
    return [pid for pid in appd.helpers if pid != server]


def running(appd: Appd) -> tuple[int, int]:
    """Launch the app and wait until it is ready; its session and its process."""
    session = appd.launch()
    appd.until_ready(session)
    pid = appd.sessions[session].pid
    assert pid is not None
    return session, pid


def was_forked(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"weft-runtime-wasmtime\0")


def traits(pid: int, appd: Appd) -> dict[str, object]:
    """What the system says of a session's process, as far as it can be the same below another daemon."""
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    stat = (process / "stat").read_text().rpartition(") ")[2].split()
    files = {}
    for entry in (process / "fd").iterdir():
        # What the engine has open for itself is its own affair.
        if int(entry.name) <= 3:
            files[int(entry.name)] = os.fspath(entry.readlink()).partition(":")[0]
    return {
        "environment": (process / "environ").read_bytes().replace(os.fsencode(appd.directory), b"HERE"),
        "directory": (process / "cwd").readlink() == appd.directory,
        "name": (process / "comm").read_text(),
        "is a child of the daemon": int(stat[1]) == appd.process.pid,
        "leads its group": int(stat[2]) == pid,
        "terminal session": int(stat[3]),
        "nice": stat[16],
        "files": files,
        "limits": (process / "limits").read_text(),
        "out of memory": (process / "oom_score_adj").read_text(),
        "group": (process / "cgroup").read_text(),
        **{name: status[name] for name in ("SigIgn", "SigCgt", "Umask", "Uid", "Gid", "Seccomp")},
    }


def test_a_fork_has_one_thread_and_blocks_no_signal(forking: Appd) -> None:
    """The end by a signal needs neither: the default action ends a guest whatever it does."""
    _, pid = running(forking)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert int(status["SigBlk"], 16) == 0
    # The engine has one more for the guest that sleeps.
    assert int(status["Threads"]) <= 2


def test_a_fork_is_what_an_executed_process_is(forking: Appd, start: Make) -> None:
    plain = start(WEFT_RUNTIME_BIN=str(REAL_RUNTIME), WEFT_FORK_SERVER="false")
    compiled.install(plain, SLEEPING)
    (_, forked), (_, executed) = running(forking), running(plain)
    assert was_forked(forked)
    assert not was_forked(executed)

    def differences() -> dict[str, object]:
        ours, theirs = traits(forked, forking), traits(executed, plain)
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}

    # While one of its threads starts, all signals are blocked in a process.
    eventually(
        lambda: not differences(), lambda: f"a fork has what an executed process has: {differences()}"
    )


def test_ps_shows_the_app(forking: Appd) -> None:
    session, pid = running(forking)
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert arguments == [b"weft-runtime-wasmtime", packages.APP_ID.encode(), str(session).encode()]


def test_the_status_tells_of_it(forking: Appd) -> None:
    found = forking.control.ask(QueryStatus())
    assert isinstance(found, DaemonStatus)
    assert (found.fork_server, found.spares) == (server_of(forking), SPARES)


def test_it_is_stopped_and_waited_for_as_any_other(forking: Appd) -> None:
    session, pid = running(forking)
    assert forking.control.ask(TerminateApp(session)) == AppState(session, State.STOPPED)
    assert is_gone(pid)
    assert forking.sessions[session].signal == "SIGTERM"


def test_two_sessions_have_different_random_numbers(forking: Appd) -> None:
    shutil.rmtree(forking.store / packages.APP_ID)
    compiled.install(forking, RANDOM)
    texts = set()
    for _ in range(3):
        session = forking.launch()
        forking.until_stopped(session)
        forking.until_logged("ended ", session)
        (text,) = (line for line in forking.messages(session) if len(line) == len("info: ") + 32)
        texts.add(text)
    assert len(texts) == 3


def test_the_fork_server_has_one_thread_and_nothing_of_an_app(forking: Appd) -> None:
    running(forking)
    until_full(forking)
    server = server_of(forking)
    assert len([*Path(f"/proc/{server}/task").iterdir()]) == 1
    assert packages.APP_ID not in Path(f"/proc/{server}/maps").read_text()
    # Its streams and the socket, and what is in the places of those of a fork; others while it forks.
    null, files = "/dev/null", Path(f"/proc/{server}/fd")

    def is_idle() -> bool:
        open_now = {int(entry.name): os.fspath(entry.readlink()) for entry in files.iterdir()}
        return open_now == {
            0: null, 3: null, 4: null, 5: null, 1: open_now[11], 2: open_now[12],
            10: open_now[10], 11: open_now[11], 12: open_now[12],
        }  # fmt: skip

    eventually(is_idle, "it keeps nothing open")


def test_a_session_has_few_pages_of_its_own(forking: Appd) -> None:
    session, pid = running(forking)
    forking.until_logged("ready", session)
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))
    # With Python 3.11, which needs most. Where the fork server has followed no plan itself there are 150 KiB more.
    assert own <= 850, f"{own} KiB"


def test_without_it_every_session_is_executed(start: Make) -> None:
    appd = start(WEFT_RUNTIME_BIN=str(REAL_RUNTIME), WEFT_FORK_SERVER="false")
    compiled.install(appd, SLEEPING)
    _, pid = running(appd)
    assert not was_forked(pid)
    assert appd.helpers == []
    found = appd.control.ask(QueryStatus())
    assert isinstance(found, DaemonStatus)
    assert (found.fork_server, found.spares) == (None, 0)


def test_a_runtime_in_place_of_that_of_the_release_is_executed_and_not_asked(
    start: Make, tmp_path: Path
) -> None:
    program = tmp_path / "weft-runtime-wasmtime"
    asked = tmp_path / "asked"
    program.write_text(f'#!/bin/sh\n[ "$1" != --fork-server ] || touch {asked}\nexec {REAL_RUNTIME} "$@"\n')
    program.chmod(0o755)
    appd = start(WEFT_RUNTIME_BIN=str(program), WEFT_FORK_SERVER="true")
    compiled.install(appd, SLEEPING)
    assert not was_forked(running(appd)[1])
    assert not asked.exists()
    assert appd.helpers == []


def test_more_launches_at_once_than_processes_wait_are_all_forks(forking: Appd) -> None:
    sessions = [forking.launch() for _ in range(3 * HELPERS)]
    forking.until_ready(*sessions)
    assert sessions == list(range(1, 3 * HELPERS + 1))
    assert all(was_forked(pid) for session in forking.sessions.values() if (pid := session.pid))


@pytest.mark.soak
def test_thousands_of_forks_lose_nothing_and_leave_no_trace(forking: Appd) -> None:
    shutil.rmtree(forking.store / packages.APP_ID)
    compiled.install(forking, printing("hello\n", then="(call $exit (i32.const 7))"))
    control = forking.connect()
    control.ask(Subscribe(None))
    server = server_of(forking)
    assert server is not None
    before: tuple[int, int] | None = None
    for done in range(0, IN_A_ROW, AT_ONCE):
        control.send(*(LaunchApp(packages.APP_ID, 0) for _ in range(AT_ONCE)))
        stopped = 0
        while stopped < AT_ONCE:
            stopped += isinstance(control.receive(), AppState)
        if before is None and done >= min(HISTORY_MAX, IN_A_ROW // 2):
            before = memory(forking.process.pid), memory(server)
    control.close()
    eventually(lambda: forking.log_text.count("ended with status 7") >= IN_A_ROW, "all ends are logged")
    assert forking.log_text.count("launched by") == IN_A_ROW
    assert forking.log_text.count("ended with status 7") == IN_A_ROW
    assert forking.log_text.count(": hello\n") == IN_A_ROW
    until_full(forking)
    assert server_of(forking) == server
    forking.disconnect()
    forking.check_descriptors()
    assert before is not None
    after = memory(forking.process.pid), memory(server)
    assert after[0] - before[0] < GROWTH_MAX
    assert after[1] - before[1] < GROWTH_MAX / 8


@pytest.mark.soak
def test_killed_at_any_moment_it_takes_no_launch_with_it(forking: Appd) -> None:
    first = running(forking)
    for number in range(LAUNCHES):
        server = server_of(forking)
        session = forking.launch()
        if server is not None:
            # Sooner or later after the launch: before it forks, while it does, and when it has.
            for _ in range(number % 20 * 20):
                is_gone(server)
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)
        forking.until_ready(session)
        forking.control.ask(TerminateApp(session))
    assert state_of(first[1]) not in "ZX"
    eventually(lambda: "the fork server of" in forking.log_text, "its end is told")
    ends = forking.sessions
    assert all(ends[session].signal == "SIGTERM" for session in ends if session != first[0])


def test_one_that_was_killed_is_replaced(forking: Appd) -> None:
    server = server_of(forking)
    assert server is not None
    os.kill(server, signal.SIGKILL)
    assert "starting another: it ended by SIGKILL" in forking.find("the fork server of")
    # What it has forked before waits on.
    assert was_forked(running(forking)[1])
    eventually(lambda: server_of(forking) not in (None, server), "there is a new one")
    until_full(forking)
    assert was_forked(running(forking)[1])


def test_one_that_hangs_is_killed_and_costs_a_launch_a_moment(forking: Appd) -> None:
    server = server_of(forking)
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    sessions = [forking.launch() for _ in range(HELPERS)]
    forking.until_ready(*sessions)
    forking.find("cannot fork a session, executing the runtime instead: timed out")
    eventually(lambda: is_gone(server), "the one that hangs is gone")


def test_a_process_that_waits_and_is_killed_is_replaced(forking: Appd) -> None:
    spare = spares_of(forking)[0]
    os.kill(spare, signal.SIGKILL)
    forking.find("a process that waited for session")
    session, pid = running(forking)
    assert session == 1
    assert was_forked(pid)


def with_a_copy(make: Make, tmp_path: Path) -> tuple[Path, Appd]:
    """A program that may be replaced, and a daemon with processes of it that wait."""
    program = tmp_path / "weft-runtime-wasmtime"
    shutil.copy2(REAL_RUNTIME, program)
    appd = own(make, program)
    compiled.install(appd, SLEEPING)
    appd.start()
    until_full(appd)
    return program, appd


def test_a_program_that_was_replaced_gets_a_new_one(make: Make, tmp_path: Path) -> None:
    program, appd = with_a_copy(make, tmp_path)
    before = server_of(appd)
    new = tmp_path / "new"
    shutil.copy2(REAL_RUNTIME, new)
    new.rename(program)
    running(appd)
    appd.find(f"{program} has changed: starting its fork server anew")
    until_full(appd)
    assert server_of(appd) != before


def test_a_program_that_was_replaced_while_it_started_gets_a_new_one(make: Make, tmp_path: Path) -> None:
    """Nobody knows then whether what runs is the one of before."""
    program, flag = tmp_path / "weft-runtime-wasmtime", tmp_path / "replace"
    first, rest = REAL_RUNTIME.read_text().split("\n", 1)
    replacing = f"import os\nif os.path.exists({str(flag)!r}):\n    os.unlink({str(flag)!r})\n    os.utime(__file__)\n"
    program.write_text(f"{first}\n{replacing}{rest}")
    program.chmod(0o755)
    flag.touch()
    appd = own(make, program)
    compiled.install(appd, SLEEPING)
    appd.start()
    until_full(appd)
    before = server_of(appd)
    _, pid = running(appd)
    assert not was_forked(pid)
    appd.find(f"{program} has changed: starting its fork server anew")
    until_full(appd)
    assert server_of(appd) != before
    _, pid = running(appd)
    assert was_forked(pid)


@contextlib.contextmanager
def seized(pid: int) -> Iterator[None]:
    """A debugger has the process: nobody else can collect it before the debugger is gone."""
    code = "import ctypes, sys; print(ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0), flush=True); input()"
    command = [sys.executable, "-c", code, str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as debugger:
        assert debugger.stdout is not None
        assert debugger.stdout.readline() == "0\n"
        try:
            yield
        finally:
            debugger.kill()


def test_the_end_of_one_keeps_nobody_waiting(make: Make, tmp_path: Path) -> None:
    program, appd = with_a_copy(make, tmp_path)
    before = appd.helpers
    with contextlib.ExitStack() as debuggers:
        for pid in before:
            debuggers.enter_context(seized(pid))
        os.utime(program, (1, 1))
        running(appd)
        appd.find(f"{program} has changed: starting its fork server anew")
        assert {state_of(pid) for pid in before} == {"Z"}
    eventually(lambda: all(map(is_gone, before)), "they are collected")


def test_a_reload_has_a_new_one_and_the_sessions_live_on(forking: Appd) -> None:
    session, pid = running(forking)
    until_full(forking)
    before = forking.helpers
    assert forking.run("--reload").status == 0
    assert state_of(pid) not in "ZX"
    eventually(lambda: not set(before) & set(forking.helpers), "those of before are gone")
    until_full(forking)
    other, forked = running(forking)
    assert (session, other) == (1, 2)
    assert was_forked(forked)


def test_a_refused_reload_keeps_it(forking: Appd) -> None:
    before = forking.helpers
    forking.expected_errors.append("reload refused")
    forking.config.write_text("nonsense = 1\n")
    assert forking.run("--reload").status != 0
    until_full(forking)
    assert forking.helpers == before


def test_nothing_of_it_outlives_a_daemon_that_was_killed(forking: Appd) -> None:
    helpers = forking.helpers
    forking.kill()
    eventually(lambda: all(map(is_gone, helpers)), "all have ended by themselves")
    forking.start()


@pytest.mark.parametrize("is_asking", [False, True])
def test_nothing_begins_below_a_daemon_that_was_killed(forking: Appd, is_asking: bool) -> None:
    server = server_of(forking)
    assert server is not None
    if is_asking:
        os.kill(server, signal.SIGSTOP)  # it is asked for the next process, and does not answer
    forking.launch()
    forking.disconnect()
    forking.process.kill()
    forking.process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGCONT)
    try:
        eventually(lambda: all(state_of(pid) in "ZX" for pid in children(os.getpid())), "all are gone")
    finally:
        kill_orphans()
    forking.start()


def misbehaving(directory: Path, *, times: int, how: str) -> Path:
    """A runtime whose fork server misbehaves the first `times` that it is started, in the words of a shell."""
    program = directory / "weft-runtime-wasmtime"
    program.write_text(
        f"""#!/bin/sh
if [ "$1" = --fork-server ]; then
    echo x >>{directory}/starts
    [ $(wc -l <{directory}/starts) -gt {times} ] || {{ {how}; }}
fi
exec {REAL_RUNTIME} "$@"
"""
    )
    program.chmod(0o755)
    return program


# Each says something else than hello, or ends by itself and gives no reason that could be gone the next time.
WORDS = [
    "exit 1", "exit 0", "exit 164", "exit 169", "echo READY; exec sleep 1000",
    "exec dd if=/dev/zero bs=1000 count=1 >&3", "exec sleep 1000 3>&-",
]  # fmt: skip


@pytest.mark.parametrize("words", WORDS)
def test_a_program_that_is_none_is_executed(make: Make, tmp_path: Path, words: str) -> None:
    program = misbehaving(tmp_path, times=1, how=words)
    appd = own(make, program)
    compiled.install(appd, SLEEPING)
    appd.start()
    assert not was_forked(running(appd)[1])
    appd.find(f"{program} offers no fork server, each session executes it")


# What happens to a program, and is not its own word.
MISHAPS = [
    "kill -KILL $$", "kill -SEGV $$", "exit 137", "exit 126", "exit 171",
    "echo MemoryError >&2; exit 1", "echo 'cannot map: Cannot allocate memory' >&2; exit 127",
]  # fmt: skip


@pytest.mark.parametrize("mishap", MISHAPS)
def test_one_that_does_not_come_up_is_tried_again(make: Make, tmp_path: Path, mishap: str) -> None:
    program = misbehaving(tmp_path, times=3, how=mishap)
    appd = own(make, program)
    compiled.install(appd, SLEEPING)
    appd.start()
    appd.find(f"warning: the fork server of {program} did not come up, starting another: it ended ")
    # Meanwhile each session executes the runtime.
    assert not was_forked(running(appd)[1])
    appd.find(f"notice: the fork server of {program} is there again")
    assert (tmp_path / "starts").read_text() == 4 * "x\n"
    until_full(appd)
    assert was_forked(running(appd)[1])
    # It is told once, however often it is tried.
    assert appd.log_text.count("did not come up") == 1


def test_one_that_hangs_before_its_hello_is_tried_again(make: Make, tmp_path: Path) -> None:
    (tmp_path / "starts").touch()
    program = tmp_path / "weft-runtime-wasmtime"
    hang = f"[ $(wc -l <{tmp_path}/starts) != 2 ] || exec sleep 1000"
    program.write_text(f'#!/bin/sh\necho x >>{tmp_path}/starts\n{hang}\nexec {REAL_RUNTIME} "$@"\n')
    program.chmod(0o755)
    appd = own(make, program)
    appd.start()
    until_full(appd)
    server = server_of(appd)
    assert server is not None
    os.kill(server, signal.SIGKILL)
    eventually(lambda: appd.has("is there again"), "it is tried again", HELLO_TIMEOUT_S + 2 * WAIT_SECONDS)
    assert (tmp_path / "starts").read_text() == 3 * "x\n"
    until_full(appd)


def test_one_that_cannot_be_started_for_now_is_tried_again(make: Make, tmp_path: Path) -> None:
    """As where memory or descriptors are short; here its interpreter is not there yet."""
    program = tmp_path / "weft-runtime-wasmtime"
    shell = tmp_path / "sh"
    program.write_text(f'#!{shell}\nexec {REAL_RUNTIME} "$@"\n')
    program.chmod(0o755)
    appd = own(make, program)
    compiled.install(appd, SLEEPING)
    appd.start()
    appd.find(f"warning: the fork server of {program} cannot be started: No such file or directory")
    shell.symlink_to("/bin/sh")
    appd.find(f"notice: the fork server of {program} is there again")
    until_full(appd)
    assert was_forked(running(appd)[1])


def test_one_whose_successor_is_killed_as_well_comes_back(forking: Appd) -> None:
    server = None
    for _ in range(4):
        # Each second one before it can have said hello.
        server = another(forking, server)
        os.kill(server, signal.SIGKILL)
    eventually(lambda: forking.has("is there again"), "it is there again", 2 * WAIT_SECONDS)
    until_full(forking)
    assert was_forked(running(forking)[1])
