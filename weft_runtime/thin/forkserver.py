# SPDX-License-Identifier: Apache-2.0
"""The fork server: a process with the engine's library open, of which each session of a supervisor is a fork.

It neither runs nor loads anything of an app and has one thread, so that a fork of it is as good as a new process. The
conversation with the supervisor is in fork_protocol.py.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from _socket import AF_UNIX, SOCK_SEQPACKET, socket, socketpair

from weft_runtime import fork_protocol
from weft_runtime import plan as plans
from weft_runtime.runtime import cgroup
from weft_runtime.thin import library, outdated, practice
from weft_runtime.thin.session import CODE_FD, REPORT_FD, Machine, Session, end_by, follow
from weft_runtime.thin.sibling import SiblingFork
from weft_runtime.thin.title import Title

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

_M_ARENA_MAX = -8
"""Of mallopt(3)."""

_FD_END = 2**20
"""More than the number of any descriptor."""

_REPORT_FD = CODE_FD + 1
"""Where the report is while the socket is in its place."""

_SUPERVISOR_FD, _OUTPUT_FD, _ERROR_FD = 10, 11, 12
"""Where the fork server has its own descriptors, out of the way of those that a fork finds in their places."""

_PLACES = (1, 2, _REPORT_FD)
"""Of a fork's standard output, standard error and report."""

_WAITING = b"(spare)"

_LOST = 170
"""ExitStatus.SOFTWARE, of a child that could not even tell what is wrong with it."""


class ForkServer:
    """All that a fork of this process shares."""

    def __init__(self, name: str) -> None:
        """Take the place of the program `name`. Raises OSError where this machine or kernel cannot."""
        self._name = os.fsencode(name)
        for fd, own in ((fork_protocol.SERVER_FD, _SUPERVISOR_FD), (1, _OUTPUT_FD), (2, _ERROR_FD)):
            os.dup2(fd, own, inheritable=False)
        self._order = socket(fileno=fork_protocol.SERVER_FD)
        self._supervisor = socket(fileno=_SUPERVISOR_FD)
        self._title = Title()
        self._restore()
        self._sibling = SiblingFork()
        # A session has one thread that computes, and each arena of the C library costs it pages.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
        self._machine = Machine()
        self._made_by = _ask_a_child(self._machine.library.compatibility)
        self._session = Session(self._machine)
        self._practise()

    def serve(self) -> NoReturn:
        """Fork sessions for the supervisor until it closes its side, or is gone. Raises OSError."""
        # From here on nothing is made that lasts: what there is stays where it is, in pages shared with every fork.
        gc.collect()
        gc.freeze()
        try:
            fork_protocol.send(self._supervisor, fork_protocol.hello(self._made_by, _files()))
            while message := fork_protocol.receive(self._supervisor)[0]:
                try:
                    self._answer(fork_protocol.parse_request(message))
                except OSError as error:
                    fork_protocol.send(self._supervisor, fork_protocol.failed(error))
        except ConnectionError:
            pass  # it is gone, with a request or an answer under way
        os._exit(0)

    def _practise(self) -> None:
        """Do what a fork does between its plan and its end, with a machine that does nothing. Raises OSError."""
        still = practice.machine(self._machine)
        here, there = socketpair(AF_UNIX, SOCK_SEQPACKET)
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for _ in range(practice.TIMES):
            self._sibling.end_with_parent()
            for place in _PLACES:
                os.dup2(nowhere, place)
            fork_protocol.send(here, practice.PLAN, [nowhere])
            plan, fds = fork_protocol.receive(there)
            self._follow(Session(still), plan, fds)
            os.close(fds[0])
        self._restore()
        os.close(nowhere)
        here.close()
        there.close()

    def _answer(self, procs: str) -> None:
        """Make a process that waits for its plan. Raises OSError."""
        # All that can be done before the fork: what a fork writes to for the first time costs it a page.
        ours: list[int] = []
        try:
            for place in _PLACES:
                source, target = os.pipe()
                ours.append(source)
                os.set_blocking(source, False)
                os.dup2(target, place)
                os.close(target)
            here, there = socketpair(AF_UNIX, SOCK_SEQPACKET)
            ours.append(here.detach())
            os.dup2(there.fileno(), fork_protocol.SERVER_FD)
            there.close()
            self._title.set((self._name, _WAITING))
            pid = self._sibling.fork()
            if pid == 0:
                self._become(procs)
            ours.insert(0, self._sibling.pidfd)
            fork_protocol.send(self._supervisor, fork_protocol.forked(pid), ours)
        finally:
            self._restore()
            for fd in ours:
                os.close(fd)

    def _restore(self) -> None:
        """Have the descriptors that are a fork's to be ours again, or nobody's; no other ever has their numbers."""
        os.dup2(_OUTPUT_FD, 1)
        os.dup2(_ERROR_FD, 2)
        for fd in (fork_protocol.SERVER_FD, CODE_FD, _REPORT_FD):
            os.dup2(0, fd, inheritable=False)
        self._title.restore()

    def _become(self, procs: str) -> NoReturn:
        """The child: from the fork to the end of the session."""
        try:
            os.closerange(CODE_FD, _REPORT_FD)
            os.closerange(_REPORT_FD + 1, _FD_END)
            try:
                if procs:
                    # Now, because that can take 10 ms and more, and before anything of the app is here.
                    cgroup.enter(procs)
                plan, fds = fork_protocol.receive(self._order)
            except Exception:
                os.dup2(_REPORT_FD, REPORT_FD)
                raise
            if not plan:
                os._exit(0)
            os._exit(self._follow(self._session, plan, fds))
        except Exception as error:
            end_by(error)
        finally:
            # Never back into the loop of the fork server.
            os._exit(_LOST)

    def _follow(self, session: Session, plan: bytes, fds: Sequence[int]) -> int:
        """Do what a plan says that came with these descriptors; the exit status."""
        self._take(fds)
        self._title.set((self._name, *plans.command(plan)[1:]))
        return follow(session, plan)

    def _take(self, fds: Sequence[int]) -> None:
        """Put everything where it belongs: the report in place of the socket, and standard input if it has come.

        The code has come first, and so as CODE_FD: that is the lowest number that was free.
        """
        os.dup2(_REPORT_FD, REPORT_FD)
        os.close(_REPORT_FD)
        for fd in fds[1:]:
            os.dup2(fd, 0)
            os.close(fd)


def serve(name: str) -> NoReturn:
    """Fork sessions of the program `name` for the supervisor at the other end of descriptor 3 until it closes that.

    Raises OSError where this program or this machine cannot.
    """
    ForkServer(name).serve()


def _ask_a_child(question: Callable[[], bytes]) -> bytes:
    """What `question` gives in a process of its own. Raises OSError, also where that fails."""
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(target, question())
        finally:
            os._exit(0)
    os.close(target)
    answer = os.read(source, 4096)
    os.close(source)
    os.waitpid(pid, 0)
    if not answer:
        # Without it nobody would ever get a plan, and what waits would wait in vain.
        raise OSError("the engine does not say what compiled code it takes")
    return answer


def _files() -> list[str]:
    """What this program is made of: when one of these has changed, it is another one."""
    engine = library.path()
    return sorted({*outdated.DIRECTORIES, engine.rsplit("/", 2)[0], engine, sys.executable, sys.argv[0]})
