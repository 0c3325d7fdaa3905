# SPDX-License-Identifier: Apache-2.0
"""Asking for the background compiler, which the daemon cannot start from its sandbox: `weft-compile.path` looks at a file."""

import asyncio
import os
import time
from pathlib import Path

from weft_runtime.appd.tasks import Tasks
from weft_runtime.escape import printable
from weft_runtime.journal import Log

FILE_NAME = "compile-request"

INTERVAL_S = 10.0
"""Seconds between two requests: one is for all apps that are not compiled."""

# No link, and no waiting for the reader of a FIFO: sessions can write to the directory.
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Background:
    """The requests of one daemon. Nobody reads what is in the file: that it was written is the request."""

    def __init__(self, directory: Path, log: Log, tasks: Tasks) -> None:
        self._file = directory / FILE_NAME
        self._tasks = tasks
        self._log = log
        self._next = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def request(self) -> None:
        """Ask for it, now or in some seconds."""
        if self._timer is None:
            delay = max(0.0, self._next - time.monotonic())
            self._timer = self._tasks.later(delay, "the request to compile", self._write)

    def _write(self) -> None:
        self._timer = None
        self._next = time.monotonic() + INTERVAL_S
        try:
            fd = os.open(self._file, _WRITE, 0o600)
            try:
                os.write(fd, b"1\n")
            finally:
                os.close(fd)
        except OSError as error:
            path = printable(str(self._file))
            self._log.warning(f"cannot ask for the background compiler by '{path}': {error.strerror}")
