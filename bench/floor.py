# SPDX-License-Identifier: Apache-2.0
"""What a launch by the fork server is made of, below what we can change: pages, and waking up.

It speaks to a fork server as the daemon does, and reads from /proc what each stage of a session has cost.
"""

import ctypes
import mmap
import os
import select
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bench import app, machine, modules
from bench.app import App
from bench.measure import BenchError
from bench.report import table
from weft_runtime import fork_protocol, limits
from weft_runtime.plan import Plan
from weft_runtime.runtime import cgroup

ROUNDS, QUICK_ROUNDS = 30, 2
PAUSE_S = 0.05
"""Between launches: as long as in the table of targets."""

SETTLE_S = 0.1
"""For a process to be there and wait for its plan."""

TOGETHER = 4
"""Processes that enter a control group at the same time: as many as *sustained* launches at a time."""

PAGES = 4096
PAGE = mmap.PAGESIZE
MICRO, MILLI = 1e6, 1e3
_MADV_NOHUGEPAGE = 15


class Stage(NamedTuple):
    """What a session's process has cost until a moment, medians."""

    until: str
    faults: float
    own_kib: float
    """Pages that are its own: what it has written since the fork."""
    cpu_ms: float
    """Of all its threads."""


class Pages(NamedTuple):
    """KiB that a session which sleeps has of its own, by what they are mapped for."""

    heap: int
    """The C library's: the engine's, and what is large of the interpreter's."""
    objects: int
    """Whatever else is mapped without a file: the interpreter's objects, and the stacks of other threads."""
    interpreter: int
    """Of its data: types, and what it remembers of them."""
    libraries: int
    """Of the data of all libraries, and of the app's compiled code."""
    stack: int


class Floor(NamedTuple):
    """All of it, medians."""

    rounds: int
    page_us: float
    """To write to a page that is shared with the parent, the first time."""
    wake_us: float
    """From a byte written into a pipe until who waits for it runs, after a pause."""
    fork_ms: float
    """From the request to the number of the process."""
    order_ms: float
    """From the plan to READY."""
    group_ms: float | None
    """For a process to enter a control group; None where this user cannot make one."""
    groups_ms: float | None
    """For `TOGETHER` processes to enter one each at the same time, until the last one has."""
    server_kib: float
    """What a fork has to share: the memory that the fork server has written."""
    stages: list[Stage]
    pages: Pages


def run(scratch: Path, *, quick: bool) -> Floor:
    """Raises BenchError."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    hello = app.install_example(scratch)
    sleeper = app.install_module(scratch, "bench.floor.sleeper", modules.sleeping())
    forks, orders = [], []
    stages: dict[str, list[tuple[int, int, float]]] = {}
    with _fork_server(hello.module.parents[1], scratch) as (server, pid):
        server_kib = _own_kib(pid)
        plan, code_fd = _plan(hello, scratch)
        for number in range(-1, rounds):
            fork_s, order_s, seen = _session(server, plan, code_fd)
            if number < 0:
                continue
            forks.append(fork_s)
            orders.append(order_s)
            for name, cost in seen.items():
                stages.setdefault(name, []).append(cost)
        os.close(code_fd)
        pages = _asleep(server, *_plan(sleeper, scratch))
    return Floor(
        rounds=rounds,
        page_us=statistics.median(_page_s() for _ in range(rounds)) * MICRO,
        wake_us=_wake_s(rounds) * MICRO,
        fork_ms=statistics.median(forks) * MILLI,
        order_ms=statistics.median(orders) * MILLI,
        group_ms=_group_ms(rounds, 1),
        groups_ms=_group_ms(rounds, TOGETHER),
        server_kib=server_kib,
        stages=[
            Stage(name, *(statistics.median(values) for values in zip(*costs, strict=True)))
            for name, costs in stages.items()
        ],
        pages=pages,
    )


@contextmanager
def _fork_server(store: Path, scratch: Path) -> Iterator[tuple[socket.socket, int]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = os.fspath(machine.runtime_command())
    environment = _environment(store, scratch)
    with ours:
        with theirs:
            pid = os.posix_spawn(
                command, [command, fork_protocol.OPTION], environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), fork_protocol.SERVER_FD)],
            )  # fmt: skip
        try:
            fork_protocol.parse_hello(fork_protocol.receive(ours)[0])
            yield ours, pid
        except fork_protocol.ProtocolError as error:
            raise BenchError(f"no fork server: {error}") from None
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _environment(store: Path, scratch: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "WEFT_APP_STORE": os.fspath(store),
        "WEFT_LOG": "stderr",
        "WEFT_LOG_LEVEL": "warning",
        "CACHE_DIRECTORY": os.fspath(scratch / "cache"),
    }


def _plan(hello: App, scratch: Path) -> tuple[bytes, int]:
    """The plan of a session, and its code, which a run before it has left. Raises BenchError."""
    command = (os.fspath(machine.runtime_command()), hello.id, "1")
    before = {*scratch.glob("cache/code/*.code")}
    environment = _environment(hello.module.parents[1], scratch)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        while running.stdout.readline() == b"READY\n":
            pass
        running.kill()
    new = {*scratch.glob("cache/code/*.code")} - before
    if len(new) != 1:
        raise BenchError(f"{hello.id} has left no compiled code")
    plan = Plan(
        app_id=hello.id.encode(), session_id=b"1", argv=(hello.module.name.encode(),), environment=(), preopens=(),
        ready=b"", memory=limits.MEMORY.value, memories=limits.MEMORIES.value, tables=limits.TABLES.value,
        table_elements=limits.TABLE_ELEMENTS.value, command=tuple(text.encode() for text in command),
    )  # fmt: skip
    return plan.encode(), os.open(new.pop(), os.O_RDONLY)


def _session(
    server: socket.socket, plan: bytes, code_fd: int
) -> tuple[float, float, dict[str, tuple[int, int, float]]]:
    """Seconds of the fork, seconds from the plan to READY, and what it had cost by then."""
    begun = time.perf_counter()
    fork_protocol.send(server, fork_protocol.request(""))
    answer, fds = fork_protocol.receive(server)
    fork_s = time.perf_counter() - begun
    pid = fork_protocol.parse_answer(answer, fds)
    pidfd, stdout, stderr, report, order_fd = fds
    os.set_blocking(stdout, True)
    time.sleep(SETTLE_S)
    seen = {"it waits for its plan": _cost(pid)}
    begun = time.perf_counter()
    with socket.socket(fileno=order_fd) as order:
        fork_protocol.send(order, plan, [code_fd])
    if os.read(stdout, 6) != b"READY\n":
        raise BenchError("a session is not ready")
    order_s = time.perf_counter() - begun
    while os.read(stdout, PAGE):
        pass
    for fd in (pidfd, stdout, stderr, report):
        os.close(fd)
    _, _, usage = os.wait4(pid, 0)
    seen["its end"] = (usage.ru_minflt, 0, (usage.ru_utime + usage.ru_stime) * MILLI)
    time.sleep(PAUSE_S)
    return fork_s, order_s, seen


def _asleep(server: socket.socket, plan: bytes, code_fd: int) -> Pages:
    """What a session that sleeps has of its own."""
    fork_protocol.send(server, fork_protocol.request(""))
    answer, fds = fork_protocol.receive(server)
    pid = fork_protocol.parse_answer(answer, fds)
    *rest, order_fd = fds
    with socket.socket(fileno=order_fd) as order:
        fork_protocol.send(order, plan, [code_fd])
    stdout, said = rest[1], b""
    os.set_blocking(stdout, True)
    while not said.endswith(modules.SAYS):
        if not (data := os.read(stdout, PAGE)):
            raise BenchError("a session does not sleep")
        said += data
    time.sleep(SETTLE_S)
    kib: dict[str, int] = {}
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = words[5] if len(words) > len(Pages._fields) else ""
        elif words[0] == "Private_Dirty:":
            kib[_kind(name)] = kib.get(_kind(name), 0) + int(words[1])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for fd in (*rest, code_fd):
        os.close(fd)
    return Pages(**{field: kib.get(field, 0) for field in Pages._fields})


def _kind(name: str) -> str:
    if not name.startswith("/"):
        return {"[heap]": "heap", "[stack]": "stack"}.get(name, "objects")
    return "interpreter" if "/python3" in name and ".so" not in name else "libraries"


def _cost(pid: int) -> tuple[int, int, float]:
    """Page faults, KiB of its own and CPU milliseconds of a process."""
    process = Path(f"/proc/{pid}")
    faults = int((process / "stat").read_text().rpartition(") ")[2].split()[7])
    threads = (int((thread / "schedstat").read_text().split()[0]) for thread in (process / "task").iterdir())
    return faults, _own_kib(pid), sum(threads) / 1e6


def _own_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))


def _page_s() -> float:
    """Seconds for the first write to a page after a fork, less those for the second."""
    memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(PAGES * PAGE), _MADV_NOHUGEPAGE)

    def write() -> float:
        begun = time.perf_counter()
        for place in range(0, PAGES * PAGE, PAGE):
            memory[place] = 1
        return time.perf_counter() - begun

    write()
    return _in_a_child(lambda: (write() - write()) / PAGES)


def _in_a_child(measure: Callable[[], float]) -> float:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, repr(measure()).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        value = float(file.read())
    os.waitpid(pid, 0)
    return value


def _wake_s(rounds: int) -> float:
    """Half of what a byte takes to another process and back, which has slept since the last one."""
    there, back = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(there[1])
        while os.read(there[0], 1):
            os.write(back[1], b"x")
        os._exit(0)
    times = []
    for _ in range(rounds):
        select.select([], [], [], PAUSE_S)
        begun = time.perf_counter()
        os.write(there[1], b"x")
        os.read(back[0], 1)
        times.append((time.perf_counter() - begun) / 2)
    for fd in (*there, *back):
        os.close(fd)
    os.waitpid(pid, 0)
    return statistics.median(times)


def _group_ms(rounds: int, count: int) -> float | None:
    """Milliseconds for `count` processes to enter a control group each, medians; None where that cannot be done."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    root = next((Path(mount) for _, mount, kind, *_ in mounts if kind == "cgroup2"), None)
    if root is None or not os.access(root, os.W_OK):
        return None
    groups = [root / f"weft-bench-{os.getpid()}-{number}" for number in range(count)]
    times = []
    try:
        for group in groups:
            group.mkdir()
        for _ in range(rounds):
            time.sleep(PAUSE_S)
            times.append(_enter(groups))
    except OSError:
        return None
    finally:
        for group in groups:
            with suppress(OSError):
                group.rmdir()
    return statistics.median(times) * MILLI


def _enter(groups: Sequence[Path]) -> float:
    """Seconds from a word to one process for each of `groups` until all are in there. Raises OSError."""
    begin, begun = os.pipe()
    pids = []
    for group in groups:
        pid = os.fork()
        if pid == 0:
            os.close(begun)
            os.read(begin, 1)
            try:
                cgroup.enter(group / "cgroup.procs")
            except OSError:
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    os.close(begin)
    started = time.perf_counter()
    os.close(begun)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    took = time.perf_counter() - started
    if any(statuses):
        raise OSError
    return took


def show(result: Floor) -> str:
    rows = [
        (stage.until, f"{stage.faults:.0f}", f"{stage.own_kib:.0f}" if stage.own_kib else "-", f"{stage.cpu_ms:.2f}")
        for stage in result.stages
    ]  # fmt: skip
    return "\n".join(
        (
            f"What a launch is made of, medians of {result.rounds} sessions of hello",
            "",
            table(("a fork, until", "page faults", "own KiB", "CPU ms"), rows),
            "",
            f"A page that becomes the fork's own: {result.page_us:.2f} us. Waking up who waits: {result.wake_us:.0f} us.",
            f"The fork: {result.fork_ms:.2f} ms. From the plan to READY: {result.order_ms:.2f} ms.",
            "Entering a control group cannot be measured here."
            if result.group_ms is None
            else f"Entering a control group: {result.group_ms:.1f} ms; {TOGETHER} processes one each, at the same time:"
            f" {result.groups_ms:.1f} ms until the last one has.",
            "A session that sleeps has written, KiB: "
            + ", ".join(f"{name} {kib}" for name, kib in result.pages._asdict().items()),
            f"The fork server has written {result.server_kib:.0f} KiB, which its forks share until they write to them.",
        )
    )
