# SPDX-License-Identifier: Apache-2.0
"""A small supervisor: it runs an app by the full runtime, or by a plan and a fork server, and says what came of it."""

import os
import re
import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.command.harness import WAIT_SECONDS, eventually, is_asleep
from tests.packages import APP_ID
from weft_runtime import fork_protocol, limits, store
from weft_runtime.appd import child as processes
from weft_runtime.appd.child import Child
from weft_runtime.ids import AppId
from weft_runtime.plan import Plan
from weft_runtime.runtime.arguments import Preopen

_CHUNK = 65536

# What differs between two runs of the same.
_PID = re.compile(r"weft-runtime\[\d+\]")
_MILLISECONDS = re.compile(r"in \d+ ms")


class End(NamedTuple):
    """All that can be seen of an app that has ended."""

    status: int | None
    signal: str | None
    stdout: bytes
    stderr: str
    report: bytes


def environment(app_store: Path, home: Path) -> dict[str, str]:
    """What an app and its supervisor need, and nothing that makes a run unusual."""
    return {
        "PATH": "/usr/bin:/bin", "WEFT_APP_STORE": str(app_store), "WEFT_LOG": "stderr", "HOME": str(home)
    }  # fmt: skip


def plan_of(
    app_store: Path, program: Path, session: str = "7", *, preopens: tuple[Preopen, ...] = ()
) -> Plan:
    """The plan for the package of APP_ID."""
    package = store.open_package(AppId.parse(APP_ID), (app_store,))
    os.close(package.module_fd)
    manifest = package.manifest
    options = [
        argument
        for preopen in preopens
        for argument in (
            "--preopen" if preopen.writable else "--preopen-ro", f"{preopen.host}::{preopen.guest}"
        )
    ]  # fmt: skip
    return Plan(
        app_id=APP_ID.encode(),
        session_id=session.encode(),
        argv=tuple(text.encode() for text in (manifest.module.rpartition("/")[2], *manifest.args)),
        environment=tuple((name.encode(), value.encode()) for name, value in manifest.env),
        preopens=tuple((os.fsencode(host), guest.encode(), rw) for host, guest, rw in preopens),
        ready=b"" if manifest.ready is None else manifest.ready.encode(),
        memory=limits.MEMORY.value,
        memories=limits.MEMORIES.value,
        table_elements=limits.TABLE_ELEMENTS.value,
        tables=limits.TABLES.value,
        command=tuple(os.fsencode(text) for text in (os.fspath(program), APP_ID, session, *options)),
    )


class Supervisor:
    """One fork server of `program`, in `environ`."""

    def __init__(self, program: Path, environ: Mapping[str, str]) -> None:
        self.program = program
        self.environ = {**environ, "WEFT_REPORT_FD": str(processes.REPORT_FD), "WEFT_SUPERVISED": "1"}
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(WAIT_SECONDS)
        with theirs:
            self.server = processes.spawn(
                [os.fspath(program), fork_protocol.OPTION], self.environ, third=theirs.fileno()
            )
        message, _ = fork_protocol.receive(self.connection)
        assert message, processes.read_text(self.server.stderr)
        self.made_by, self.files = fork_protocol.parse_hello(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self.connection.close()
        # It ends by itself when nobody talks to it any more.
        ended = select.select([self.server.pidfd], [], [], 0 if kind else WAIT_SECONDS)[0]
        text = processes.read_text(self.server.stderr)
        end = processes.reap(self.server)
        processes.close(self.server)
        assert kind or (ended and end.status == 0 and not text), (end, text)

    def fork(self, procs: str = "") -> tuple[Child, socket.socket]:
        """A process that waits, and where to send its plan."""
        fork_protocol.send(self.connection, fork_protocol.request(procs))
        answer, fds = fork_protocol.receive(self.connection)
        pid = fork_protocol.parse_answer(answer, fds)
        # It closes its own ends of the pipes behind the answer.
        eventually(lambda: is_asleep(self.server.pid), "the fork server waits again")
        return processes.forked(pid, fds[:-1]), socket.socket(fileno=fds[-1])

    def follow(self, plan: Plan, code_fd: int) -> Child:
        """A process that follows `plan`."""
        child, order = self.fork()
        with order:
            fork_protocol.send(order, plan.encode(), [code_fd])
        return child

    def execute(self, plan: Plan) -> Child:
        """The full runtime, with the command line of `plan`."""
        return processes.spawn([os.fsdecode(text) for text in plan.command], self.environ)


def end_of(child: Child, meanwhile: Callable[[Child], None] = lambda child: None) -> End:
    """Read all that a process says, until it ends. `meanwhile` is done first."""
    try:
        meanwhile(child)
    except BaseException:
        processes.kill_group(child)
        raise
    names = {child.stdout: "stdout", child.stderr: "stderr", child.report: "report"}
    said = dict.fromkeys(names.values(), b"")
    waiting = select.poll()
    for fd in (*names, child.pidfd):
        waiting.register(fd, select.POLLIN)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        ready = waiting.poll(1000)
        assert ready or time.monotonic() < deadline, said
        for fd, _ in ready:
            if fd == child.pidfd:
                continue
            with suppress(OSError):
                said[names[fd]] += (data := os.read(fd, _CHUNK))
                if not data:
                    waiting.unregister(fd)
        if [fd for fd, _ in ready] == [child.pidfd]:
            break
    result = processes.reap(child)
    processes.close(child)
    stderr = said["stderr"].decode(errors="surrogateescape")
    stderr = _MILLISECONDS.sub("in N ms", _PID.sub("weft-runtime[N]", stderr))
    return End(result.status, result.signal, said["stdout"], stderr, said["report"])
