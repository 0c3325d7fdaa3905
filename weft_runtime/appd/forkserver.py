# SPDX-License-Identifier: Apache-2.0
"""The fork server of a daemon, as the process that it is: started, asked, ended.

Whatever goes wrong here costs a launch nothing but time: the supervisor executes the runtime instead.
"""

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from weft_runtime import fork_protocol
from weft_runtime.appd import child as processes
from weft_runtime.appd.cgroups import SessionGroup
from weft_runtime.appd.child import Child
from weft_runtime.errors import ExitStatus
from weft_runtime.fork_protocol import ProtocolError
from weft_runtime.integrity import SETTLED_NS, Identity

HELLO_TIMEOUT_S = 30.0
"""Seconds until a program that says neither hello nor anything else is ended, and tried again; ours needs a tenth of one."""

SILENCE_TIMEOUT_S = 5.0
"""Seconds from the end of a conversation until the program is gone, if it is about to end anyway."""

ANSWER_TIMEOUT_S = 0.5
"""Seconds for a fork, which takes some milliseconds. The daemon's whole loop waits for it: one that is as late is killed,
and the next one is not started at once."""

# What a shell ends with for a program that could not be executed or was killed, and statuses of ours that tell of the
# device and not of the program.
_BY_THE_DEVICE = frozenset(
    {126, 127, *range(129, 160), ExitStatus.SOFTWARE, ExitStatus.OS_ERROR, ExitStatus.TRY_AGAIN}
)

# A program that is not even started to its end may say so with any status.
_SHORTAGES = (
    "MemoryError", *(os.strerror(number) for number in (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN))
)  # fmt: skip
Call = Callable[..., None]
"""Takes what is being done, a function and its arguments."""


class ForkServer:
    """One fork server, from its start until it ends or is closed."""

    def __init__(
        self, program: Path, environment: Mapping[str, str], on_hello: Callable[[], None], call: Call
    ) -> None:
        """Start it. `on_hello` is called once it can fork; whatever happens is handled by `call`. Raises OSError."""
        self.program = program
        self.has_said_hello = False
        self.is_none = False
        """Whether it has said, by whatever it did, that it is no fork server."""
        self.made_by = b""
        """What code it takes, as the cache of compiled code calls it."""
        self._is_closed = False
        self._on_hello = on_hello
        self._silence: asyncio.TimerHandle | None = None
        self._identities: dict[str, Identity | None] = {}
        self._begun = time.time_ns() - SETTLED_NS
        self._was_changed = False
        """Whether one of the program's files was, since it was started: nobody knows which of the two it has read."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                command = [os.fspath(program), fork_protocol.OPTION]
                self.child = processes.spawn(command, environment, third=theirs.fileno())
            except OSError:
                self._socket.close()
                raise
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, call, "the hello of the fork server", self._hello)
        # A program that takes the option for an app and says READY need not be waited for.
        loop.add_reader(self.child.stdout, call, "the hello of the fork server", self._has_output)

    @property
    def is_current(self) -> bool:
        """Whether the program's files are those that it was started from."""
        return not self._was_changed and all(
            identity == _identity(path) for path, identity in self._identities.items()
        )

    def ask(self, group: SessionGroup | None) -> None:
        """Ask for a process in `group`, or on its way there. Raises OSError."""
        procs = "" if group is None else os.fspath(group.procs)
        fork_protocol.send(self._socket, fork_protocol.request(procs))

    def answer(self) -> tuple[Child, socket.socket]:
        """The process that was asked for, and where to send its plan. Raises ProtocolError or OSError."""
        message, fds = fork_protocol.receive(self._socket)
        try:
            pid = fork_protocol.parse_answer(message, fds)
        except ProtocolError:
            for fd in fds:
                os.close(fd)
            raise
        *rest, order = fds
        return processes.forked(pid, rest), socket.socket(fileno=order)

    def expect_answer(self, call: Callable[[], None] | None) -> None:
        """Have `call` called when there is an answer, or not any more."""
        if self._is_closed:
            return
        loop = asyncio.get_running_loop()
        if call is None:
            loop.remove_reader(self._socket.fileno())
        else:
            loop.add_reader(self._socket.fileno(), call)

    def close(self) -> None:
        """End it, without waiting for that. Asked again it does nothing."""
        if self._hang_up():
            processes.abandon(self.child)

    def collect(self) -> str:
        """What it has to say, now that it has ended."""
        self._hang_up()
        result = processes.reap(self.child)
        text = processes.read_text(self.child.stderr)
        processes.close(self.child)
        is_word = result.status is not None and result.status not in _BY_THE_DEVICE
        if is_word and not any(shortage in text for shortage in _SHORTAGES):
            self.is_none = True
        how = f"by {result.signal}" if result.signal else f"with status {result.status}"
        return f"it ended {how}{text and ': '}{text}"

    def _hang_up(self) -> bool:
        """End the conversation; False if it is over already."""
        if self._is_closed:
            return False
        self._is_closed = True
        self._expect_nothing()
        asyncio.get_running_loop().remove_reader(self.child.pidfd)
        self._socket.close()
        return True

    def give_up(self) -> None:
        """It has had its time: it is ended, which says nothing of what it is."""
        processes.kill_group(self.child)

    def _expect_nothing(self) -> None:
        loop = asyncio.get_running_loop()
        for readable in (self._socket, self.child.stdout):
            loop.remove_reader(readable)
        if self._silence is not None:
            self._silence.cancel()

    def _says_none(self) -> None:
        """By its own word it is no fork server."""
        self.is_none = True
        self._expect_nothing()
        processes.kill_group(self.child)

    def _has_output(self) -> None:
        try:
            data = os.read(self.child.stdout, 1)
        except OSError:
            return
        if data:
            self._says_none()
        else:  # closed, as by its end
            asyncio.get_running_loop().remove_reader(self.child.stdout)

    def _hello(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            message = self._socket.recv(fork_protocol.MESSAGE_MAX)
        except OSError:
            message = b""
        if not message:
            # As by its end, which comes next then. Whoever lives on has closed what it would not talk by.
            loop.remove_reader(self._socket)
            self._silence = loop.call_later(SILENCE_TIMEOUT_S, self._says_none)
            return
        try:
            self.made_by, files = fork_protocol.parse_hello(message)
        except ProtocolError:
            self._says_none()
            return
        self._expect_nothing()
        self._identities = {path: _identity(path) for path in (*files, os.fspath(self.program))}
        # Not "at the beginning or later": a device without a clock that runs on finds itself before its files were made.
        times = [identity.changed for identity in self._identities.values() if identity is not None]
        self._was_changed = any(self._begun <= changed <= time.time_ns() for changed in times)
        self.has_said_hello = True
        self._on_hello()


def _identity(path: str) -> Identity | None:
    with contextlib.suppress(OSError):
        return Identity.of(os.stat(path))
    return None
