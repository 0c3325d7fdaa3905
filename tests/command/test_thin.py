# SPDX-License-Identifier: Apache-2.0
"""A session that follows a plan: what the kernel sees of it, how it is stopped, and who goes on where it does not."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wasmtime

from tests.command.conftest import PROGRAMS
from tests.command.guests import FOREVER, guest, leave, leave_on_error, say, writing
from tests.command.harness import WAIT_SECONDS, eventually, is_asleep
from tests.command.thin import End, Supervisor, end_of, environment, plan_of
from tests.packages import APP_ID, install, wat
from weft_runtime import fork_protocol, limits
from weft_runtime.appd import child as processes
from weft_runtime.appd.child import Child
from weft_runtime.errors import ExitStatus
from weft_runtime.plan import Plan
from weft_runtime.runtime.arguments import Preopen
from weft_runtime.thin import forkserver
from weft_runtime.thin.session import CODE_FD, REPORT_FD

PROGRAM = PROGRAMS / "weft-runtime-wasmtime"

HEAVY = {
    "re",
    "enum",
    "typing",
    "pathlib",
    "json",
    "argparse",
    "tomllib",
    "signal",
    "socket",
    "collections",
    "wasmtime",
}
"""Modules that a fork server does without; each fork would share, and sometimes copy, what they make."""


class App:
    """One app in a store, its code in a file, and a fork server."""

    def __init__(self, store: Path, module: bytes, supervisor: Supervisor) -> None:
        install(store, module)
        self.supervisor = supervisor
        self.plan = plan_of(store, PROGRAM)
        self.code = store.parent / "compiled"
        self.code.write_bytes(wasmtime.Module(wasmtime.Engine(), module).serialize())
        self.code_fd = os.open(self.code, os.O_RDONLY)

    def follow(self, meanwhile: Callable[[Child], None] = lambda child: None) -> End:
        """Let a process that waits follow the plan; `meanwhile` is done before it has it."""
        child, order = self.supervisor.fork()
        meanwhile(child)
        with order:
            fork_protocol.send(order, self.plan.encode(), [self.code_fd])
        return end_of(child)


@pytest.fixture
def supervisor(store: Path, tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(PROGRAM, environment(store, tmp_path)) as supervisor:
        yield supervisor


@pytest.fixture
def app(store: Path, supervisor: Supervisor) -> Iterator[Callable[[bytes], App]]:
    made: list[App] = []

    def app(module: bytes) -> App:
        made.append(App(store, module, supervisor))
        return made[-1]

    yield app
    for each in made:
        os.close(each.code_fd)


Make = Callable[[bytes], App]


def files(pid: int) -> dict[int, str]:
    return {int(entry.name): os.fspath(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def kill(child: Child) -> None:
    processes.kill_group(child)
    processes.reap(child)
    processes.close(child)


def until_ready(child: Child) -> None:
    assert select.select([child.stdout], [], [], WAIT_SECONDS)[0]
    assert os.read(child.stdout, 6) == b"READY\n"


def test_a_process_that_waits_has_nothing_but_its_streams_its_report_and_its_socket(
    supervisor: Supervisor,
) -> None:
    child, order = supervisor.fork()
    eventually(lambda: is_asleep(child.pid), "it waits")
    held = files(child.pid)
    assert {fd: path.partition(":")[0] for fd, path in held.items()} == {
        0: "/dev/null", 1: "pipe", 2: "pipe", 3: "socket", 5: "pipe"
    }  # fmt: skip
    # The daemon reads them in its loop.
    assert not any(map(os.get_blocking, (child.stdout, child.stderr, child.report)))
    order.close()
    end = end_of(child)
    assert end == End(0, None, b"", "", b"")


def test_a_session_has_its_streams_its_report_and_its_code(app: Make) -> None:
    one = app(guest(FOREVER))
    child = one.supervisor.follow(one.plan, one.code_fd)
    until_ready(child)
    held = {fd: path.partition(":")[0] for fd, path in files(child.pid).items()}
    assert [held.pop(fd) for fd in (0, 1, 2, REPORT_FD)] == ["/dev/null", "pipe", "pipe", "pipe"]
    assert CODE_FD in held
    # The engine opens it once more, and maps from that.
    assert {*held.values()} == {os.fspath(one.code)}
    assert os.getpgid(child.pid) == child.pid
    title = Path(f"/proc/{child.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert title == [b"weft-runtime-wasmtime", APP_ID.encode(), b"7"]
    kill(child)


def test_standard_input_may_come_with_the_plan(app: Make, tmp_path: Path) -> None:
    one = app(guest(FOREVER))
    text = tmp_path / "text"
    text.touch()
    child, order = one.supervisor.fork()
    with order, text.open() as file:
        fork_protocol.send(order, one.plan.encode(), [one.code_fd, file.fileno()])
    until_ready(child)
    assert files(child.pid)[0] == os.fspath(text)
    assert list(files(child.pid).values()).count(os.fspath(text)) == 1
    kill(child)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_a_guest_that_never_comes_back(app: Make, number: signal.Signals) -> None:
    one = app(guest(FOREVER))
    child = one.supervisor.follow(one.plan, one.code_fd)
    until_ready(child)
    os.kill(child.pid, number)
    assert end_of(child) == End(None, number.name, b"", "", b"")


def test_a_session_outlives_the_fork_server(store: Path, tmp_path: Path) -> None:
    with Supervisor(PROGRAM, environment(store, tmp_path)) as supervisor:
        one = App(store, guest(leave(3)), supervisor)
        child, order = supervisor.fork()
    with order:
        fork_protocol.send(order, one.plan.encode(), [one.code_fd])
    end = end_of(child)
    os.close(one.code_fd)
    assert (end.status, end.stdout) == (3, b"READY\n")


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign"])
def test_code_that_the_engine_refuses_is_left_to_the_full_runtime(app: Make, damage: str) -> None:
    one = app(guest(say("hello\n") + leave(3)))
    content = {"empty": b"", "cut": one.code.read_bytes()[:1000], "foreign": b"\x7fELF" + bytes(9000)}[
        damage
    ]
    with one.code.open("wb") as file:
        file.write(content)
    end = one.follow()
    assert (end.status, end.stdout) == (3, b"READY\nhello\n")
    assert b'"exited"' in end.report


PLAIN = '(func (export "_start"))'


@pytest.mark.parametrize(
    "fields",
    [
        '(func (export "weft_ready"))',
        '(func (export "_start") (param i32))',
        '(func (export "_start") (result i32) (i32.const 0))',
        '(memory (export "_start") 1)',
        '(global (export "_start") i32 (i32.const 0))',
        '(table (export "_start") 1 funcref)',
        f'{PLAIN} (func (export "weft_ready") (param i32))',
        f'{PLAIN} (func (export "weft_ready") (result i32) (i32.const 0))',
        f'{PLAIN} (memory (export "weft_ready") 1)',
        f'(import "elsewhere" "function" (func)) {PLAIN}',
    ],
)
def test_an_app_that_cannot_be_started_is_left_to_the_full_runtime(app: Make, fields: str) -> None:
    """Its code has come into a cache without having been judged."""
    one = app(wat(fields))
    full = end_of(one.supervisor.execute(one.plan))
    assert full.status == ExitStatus.DATA
    assert one.follow() == full


@pytest.mark.parametrize("place", [0, 1])
def test_a_directory_that_is_not_there_is_left_to_the_full_runtime(
    app: Make, store: Path, tmp_path: Path, place: int
) -> None:
    one = app(guest(say("hello\n")))
    preopens = [Preopen(os.fspath(tmp_path), "/data", True)]
    preopens.insert(place, Preopen(os.fspath(tmp_path / "nowhere"), "/nowhere", False))
    one.plan = plan_of(store, PROGRAM, preopens=tuple(preopens))
    full = end_of(one.supervisor.execute(one.plan))
    assert f"preopen the directory '{tmp_path}/nowhere'" in full.report.decode()
    assert one.follow() == full


def test_the_full_runtime_gets_nothing_that_a_plan_came_with(app: Make) -> None:
    one = app(guest(FOREVER))
    os.truncate(one.code, 0)
    child = one.supervisor.follow(one.plan, one.code_fd)
    until_ready(child)
    held = files(child.pid)
    assert os.fspath(one.code) not in held.values()
    assert not [path for path in held.values() if path.startswith("socket:")]
    assert "TOKIO_WORKER_THREADS" not in Path(f"/proc/{child.pid}/environ").read_text()
    kill(child)


def test_a_runtime_that_has_vanished_is_told(app: Make) -> None:
    one = app(guest(""))
    one.plan = Plan.decode(one.plan.prepared().encode(b"7", (b"/nowhere", APP_ID.encode(), b"7")))
    os.truncate(one.code, 0)
    end = one.follow()
    assert (end.status, end.stderr) == (127, "cannot execute the runtime: No such file or directory\n")


def test_a_control_group_that_cannot_be_entered_is_the_end(supervisor: Supervisor, tmp_path: Path) -> None:
    child, order = supervisor.fork(os.fspath(tmp_path / "nowhere/cgroup.procs"))
    end = end_of(child)
    order.close()
    assert end.status == ExitStatus.OS_ERROR
    assert b"cannot become a session: No such file or directory" in end.report


def test_nobody_reads_ready(app: Make) -> None:
    one = app(guest(""))
    null = os.open(os.devnull, os.O_RDONLY)

    def leave_it(child: Child) -> None:
        os.dup2(null, child.stdout)

    end = one.follow(leave_it)
    os.close(null)
    assert end.status == ExitStatus.OS_ERROR
    assert b'"reason": "cannot write READY to standard output: Broken pipe"' in end.report


def test_a_reader_that_has_gone_is_an_errno_for_the_app(app: Make) -> None:
    one = app(guest(leave_on_error("(call $write (i32.const 2) (i32.const 1024) (i32.const 4))")))
    null = os.open(os.devnull, os.O_RDONLY)

    def leave_it(child: Child) -> None:
        os.dup2(null, child.stderr)

    end = one.follow(leave_it)
    os.close(null)
    assert end.status not in (0, None)
    assert end.stdout == b"READY\n"


def test_a_supervisor_that_has_gone_is_told(app: Make) -> None:
    """Nobody reads the report then: the log alone has it."""
    one = app(guest(f"{say('x')} {writing(1, 100)} {leave(3)}"))
    child = one.supervisor.follow(one.plan, one.code_fd)
    until_ready(child)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd in (child.report, child.stdout):
        os.dup2(null, fd)
    end = end_of(child)
    os.close(null)
    assert end.status not in (0, None)
    assert "weft-appd has gone and took no output any more" in end.stderr


def test_a_pipe_that_is_full_is_waited_for(app: Make) -> None:
    one = app(guest(writing(1, 100)))
    end = one.follow()
    assert (end.status, len(end.stdout)) == (0, 6 + 100 * 4096)


def test_limits_come_with_the_plan(app: Make) -> None:
    """They are the plan's and not the process's: here one page less than what the app begins with."""
    one = app(guest(""))
    fields = {name: getattr(one.plan, name) for name in Plan.__slots__}
    one.plan = Plan(**{**fields, "memory": 4 * 65536 - 1})
    end = one.follow()
    assert end.status == ExitStatus.DATA
    assert b"memory minimum size of 4 pages exceeds memory limits" in end.report


def test_a_stack_that_is_too_small_is_no_fork_servers(supervisor: Supervisor) -> None:
    size = limits.STACK.value // 1024 - 4
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        argv = ["/bin/sh", "-c", f'ulimit -S -s {size} && exec "$0" --fork-server', os.fspath(PROGRAM)]
        end = end_of(processes.spawn(argv, supervisor.environ, third=theirs.fileno()))
    assert end.status == ExitStatus.USAGE
    assert "cannot be a fork server: the stack limit of this process is" in end.stderr


def test_an_engine_that_does_not_say_what_it_takes_is_no_fork_servers() -> None:
    """Or else no session would ever follow a plan, and nobody would know why."""

    def fails() -> bytes:
        raise OSError("the engine does not compile here")

    assert forkserver._ask_a_child(lambda: b"digest") == b"digest"
    for question in (fails, lambda: b""):
        with pytest.raises(OSError, match="does not say"):
            forkserver._ask_a_child(question)


def test_a_fork_server_imports_next_to_nothing() -> None:
    code = "import weft_runtime.runtime.main, weft_runtime.thin.forkserver, sys; print(*sys.modules)"
    bare, forking = (
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import sys; sys.path = {sys.path!r}; {text}"],
            capture_output=True, text=True, check=True,
        ).stdout.split()
        for text in ("print(*sys.modules)", code)
    )  # fmt: skip
    assert {name.partition(".")[0] for name in {*forking} - {*bare}} & HEAVY == set()
