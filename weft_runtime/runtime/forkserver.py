# SPDX-License-Identifier: Apache-2.0
"""The fork server: this program with the engine loaded, of which each session of a supervisor is a fork.

It neither runs nor compiles anything and has one thread, so that a fork of it is as good as a new process. The
conversation with the supervisor is in fork_protocol.py.
"""

import gc
import json  # noqa: F401 - a session imports it at its end, for its report
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from weft_runtime import fork_protocol, settings
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.fork_protocol import Request
from weft_runtime.runtime import cgroup, program
from weft_runtime.runtime.app import Runner
from weft_runtime.runtime.ending import Ending, Outcome
from weft_runtime.runtime.lookout import Lookout
from weft_runtime.runtime.sibling import SiblingFork
from weft_runtime.runtime.title import Title


def serve(name: str, *, needs_engine: bool) -> NoReturn:
    """Fork sessions for the supervisor at the other end of descriptor 3 until it closes that.

    Raises WeftError where this program or this machine cannot.
    """
    try:
        supervisor = socket.socket(fileno=fork_protocol.SERVER_FD)
        supervisor.set_inheritable(False)
        sibling, title = SiblingFork(), Title()
    except OSError as error:
        # For good, unlike what may go wrong from here on: so the status is that of an option that is not known.
        raise WeftError(Problem.USAGE, f"cannot be a fork server: {error}") from None
    try:
        runner = program.find_runner(needs_engine=needs_engine)
        rehearse = runner.rehearsal(settings.runtime_settings().engine)
    except OSError as error:
        raise WeftError(Problem.OS_ERROR, f"cannot be a fork server: {error}") from None
    # From here on nothing is made that lasts: what there is stays where it is, in pages shared with every fork.
    gc.collect()
    gc.freeze()
    supervisor.send(fork_protocol.hello(_files()))
    while True:
        request = fork_protocol.receive(supervisor)
        if request is None:
            os._exit(0)
        try:
            pid = sibling.fork()
        except OSError as error:
            supervisor.send(fork_protocol.failed(error))
        else:
            if pid == 0:
                supervisor.close()
                session = _Session(name, needs_engine, request, title, runner, rehearse)
                program.conclude(session.course)
            supervisor.send(fork_protocol.forked(pid))
        for fd in request.descriptors:
            os.close(fd)


class _Session(NamedTuple):
    """The child: what it is to become."""

    program: str
    needs_engine: bool
    request: Request
    title: Title
    runner: Runner
    rehearse: Callable[[], None]

    def course(self, ending: Ending) -> Outcome:
        """From the fork to the end of the session. Raises WeftError."""
        order = self.request.descriptors.order
        try:
            self._take_place()
            prepared = program.prepare(ending)
            ending.phase = "waiting for an app"
            if not self._is_awaited():
                self.rehearse()
            lookout = Lookout(
                prepared.environment.stores,
                lambda package: self.runner.lay_groundwork(package, prepared.code),
            )
            if self.request.likely and not self._is_awaited():
                lookout.look(self.request.likely)
                lookout.close()
            # From here on a stop is answered as in any run.
            ending.watch_signals()
            argv = fork_protocol.read_order(order, lookout.look)
        except OSError as error:
            raise from_os_error("become a session", error) from None
        if argv is None:
            os._exit(0)
        os.close(order)
        self.title.set([self.program, *argv])
        return program.go(self.program, argv, prepared, needs_engine=self.needs_engine, lookout=lookout)

    def _take_place(self) -> None:
        os.setpgid(0, 0)
        if self.request.procs:
            # Now, because that can take 10 ms and more, and before anything of the app is here.
            cgroup.enter(Path(self.request.procs))
        null = os.open(os.devnull, os.O_RDONLY)
        _, stdout, stderr, report = self.request.descriptors
        for fd, place in ((null, 0), (stdout, 1), (stderr, 2), (report, 3)):
            os.dup2(fd, place)
            os.close(fd)
        self.title.set([self.program, "(spare)"])

    def _is_awaited(self) -> bool:
        """Whether the order has come already."""
        waiting = select.poll()
        waiting.register(self.request.descriptors.order, select.POLLIN)
        return bool(waiting.poll(0))


def _files() -> Sequence[str]:
    """What this program is made of: when one of these has changed, it is another one."""
    packages = ("weft_runtime", "wasmtime")
    files = {sys.executable, sys.argv[0]}
    for name, module in sys.modules.items():
        if name.partition(".")[0] in packages and isinstance(path := getattr(module, "__file__", None), str):
            files.add(path)
    # The time of a directory changes when one of its files is replaced, as by dpkg and pip.
    return sorted({os.fspath(Path(path).parent) if path.endswith(".py") else path for path in files})
