# SPDX-License-Identifier: Apache-2.0
"""A command on a terminal, as a person sees it."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

from tests.command.device import PROGRAMS, Device
from tests.command.harness import WAIT_SECONDS


def width(line: str) -> int:
    return sum(2 if ord(char) >= 0x1100 else 1 for char in line)


class OnTerminal:
    """A command on a terminal of its own, as its controlling one."""

    def __init__(self, device: Device, *args: str, shell: Sequence[str] = ()) -> None:
        self.fd, theirs = pty.openpty()
        self.resize(80, 24)
        self.settings = termios.tcgetattr(theirs)
        self.shown = b""
        self.theirs = theirs
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *shell, PROGRAMS / "weftctl", *args],
            env={**device.environ, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text: bytes, count: int = 1) -> None:
        """Wait until it has been shown so often."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.shown.count(text) < count:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} is not shown: {self.shown[-2000:]!r}"
            assert self.process.poll() is None, self.shown
            self.read(min(left, 0.1))

    def read(self, seconds: float) -> None:
        """Take what is shown within that time."""
        if select.select([self.fd], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                self.shown += os.read(self.fd, 1 << 16)

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def end(self) -> int:
        """Its status; and the terminal is as it was."""
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while self.process.poll() is None and time.monotonic() < deadline:
                self.read(0.05)
            status = self.process.wait(0.1)
        finally:
            self.process.kill()
            self.process.wait()
        self.read(0)
        assert termios.tcgetattr(self.theirs) == self.settings
        assert self.shown.count(b"\x1b[?1049h") == self.shown.count(b"\x1b[?1049l")
        assert self.shown.rstrip().endswith(b"\x1b[?7h\x1b[?25h\x1b[?1049l")
        os.close(self.theirs)
        os.close(self.fd)
        return status

    @property
    def frames(self) -> list[list[str]]:
        """What was drawn, without colours, a list of lines each; the last may not be whole."""
        text = re.sub(rb"\x1b\[[0-9;]*m", b"", self.shown).decode(errors="replace")
        return [
            [line.removesuffix("\x1b[K") for line in frame.split("\x1b[J")[0].replace("\r", "").split("\n")]
            for frame in text.split("\x1b[H")[1:]
        ]
