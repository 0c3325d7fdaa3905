# SPDX-License-Identifier: Apache-2.0
"""Runs the real command in a process of its own and says what came of it."""

import array
import fcntl
import os
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol, TypedDict, Unpack

import pytest

from tests.packages import APP_ID

RUN_SECONDS = 45  # of a whole run: only what has come to a halt takes so long
WAIT_SECONDS = 20  # for what takes a fraction of a second on an idle machine
POLL_SECONDS = 0.005
STOP_SECONDS = 1.0  # the promise: a stop signal ends the process within one second
ATTEMPTS = 3  # a machine busy with other things may miss that second, but not three times in a row

SESSION = "7"

_LOG_LINE = re.compile(rf"weft-runtime\[\d+\]: ([a-z]+: )(?:{re.escape(APP_ID)}(?:\[{SESSION}\])?: )?(.*)")

Stream = int | IO[bytes]


class Finished(NamedTuple):
    """How a run ended; `status` is minus the signal's number where a signal ended it."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def log(self) -> list[str]:
        """Our own lines on standard error, each as "LEVEL: MESSAGE", without the app and its session."""
        return [
            match[1] + match[2] for line in self.stderr.split("\n") if (match := _LOG_LINE.fullmatch(line))
        ]

    @property
    def end(self) -> str:
        """The last line of the log: why it ended."""
        return self.log[-1]


class How(TypedDict, total=False):
    """What is unusual about a run: the arguments instead of APP_ID and SESSION, changes to the environment, and so on."""

    args: Sequence[str]
    program: str
    wrapper: Sequence[str]
    env: Mapping[str, str | None]
    cwd: Path | None
    stdin: Stream
    stdout: Stream
    stderr: Stream
    pass_fds: Sequence[int]
    bug: bool


class Run(Protocol):
    """Runs the command to its end; `options` follow the two positional arguments.

    Unless a `bug` is what is wanted, there must be no traceback; and no process may be left in any case.
    """

    def __call__(self, *options: str, **how: Unpack[How]) -> Finished: ...


class Running:
    """The command while it runs: its standard output is a pipe, its standard error a file, unless asked
    otherwise.
    """

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        self.process = process
        self._stderr = stderr
        self.stdout = b""
        """What has been read so far."""

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="surrogateescape")

    def read_until(self, end: bytes) -> None:
        """Read standard output until it ends in `end`, and not a byte more."""
        while not self.stdout.endswith(end):
            byte = self._read(1)
            assert byte, f"ended without {end!r}: {self.stdout!r}, {self.stderr}"
            self.stdout += byte

    def wait(self) -> Finished:
        """Read standard output to its end and wait for the process."""
        while self.process.stdout is not None and (data := self._read(65536)):
            self.stdout += data
        return Finished(self.process.wait(WAIT_SECONDS), self.stdout, self.stderr)

    def stop(self, number: signal.Signals) -> Finished | None:
        """Send a signal and wait for the end, reading nothing until then; None if it took longer than
        promised.
        """
        self.process.send_signal(number)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        return self.wait()

    def _read(self, size: int) -> bytes:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        assert select.select([fd], [], [], WAIT_SECONDS)[0], f"nothing more after {self.stdout[-1000:]!r}"
        return os.read(fd, size)


class Start(Protocol):
    """Starts the command and reads its standard output up to and including `until`."""

    def __call__(
        self,
        *options: str,
        until: bytes = b"READY\n",
        wrapper: Sequence[str] = (),
        env: Mapping[str, str | None] = {},
        stdout: Stream = subprocess.PIPE,
        stderr: Stream | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Running: ...


def eventually(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until `condition` holds; `what` says what was waited for in vain."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(POLL_SECONDS)


def stop(begin: Callable[[], Running], number: signal.Signals) -> Finished:
    """Begin a run and stop it by a signal, which must take no longer than promised."""
    for _ in range(ATTEMPTS):
        if (done := begin().stop(number)) is not None:
            return done
    pytest.fail(f"{number.name} did not end the process within {STOP_SECONDS} s")


def is_asleep(pid: int) -> bool:
    """Whether the main thread of a process waits in the kernel."""
    return _stat(pid)[0] == "S"


def members(session: int) -> list[int]:
    """The processes of a session (setsid(2)) that are still alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, sid = _stat(int(entry.name))[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(sid) == session and state not in "ZX":
                found.append(int(entry.name))
    return found


def bytes_in(fd: int) -> int:
    """How many bytes wait in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def fill_pipe(fd: int) -> bytes:
    """Fill a pipe to its last byte; returns what was written. The descriptor is left blocking."""
    written = b""
    os.set_blocking(fd, False)
    for size in (fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ), 1):
        try:
            while True:
                written += b"." * os.write(fd, b"." * size)
        except BlockingIOError:
            pass
    os.set_blocking(fd, True)
    return written


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s stat from the third on: state, ppid, pgrp, session, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
