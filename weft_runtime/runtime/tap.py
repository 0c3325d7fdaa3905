# SPDX-License-Identifier: Apache-2.0
"""Listening in on the guest's standard output for its READY line, without changing a byte."""

import os
import threading
from collections.abc import Callable

from weft_runtime.ready import ReadyScanner

_CHUNK = 64 * 1024
"""Bytes of one read: the size of a pipe."""


class StdoutTap:
    """A pipe in place of descriptor 1, and a thread that passes its bytes on to the real one."""

    def __init__(self, on_ready: Callable[[], None]) -> None:
        """Take the place of standard output; `on_ready` is called once the READY line has passed."""
        self._on_ready = on_ready
        self._real = os.dup(1)
        self._source, pipe = os.pipe()
        os.dup2(pipe, 1, inheritable=False)
        os.close(pipe)
        self._thread = threading.Thread(target=self._pass_on, name="stdout", daemon=True)
        self._thread.start()

    def close(self, timeout: float | None) -> None:
        """Take what the guest wrote so far as all, and wait `timeout` seconds until it is out."""
        # Descriptor 1 was the only way into the pipe: without it, the thread sees the end.
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, 1, inheritable=False)
        os.close(null)
        self._thread.join(timeout)

    def _pass_on(self) -> None:
        scanner = ReadyScanner()
        while data := os.read(self._source, _CHUNK):
            if not self._write(data):
                # Whoever read has gone, or the disk is full: the guest learns it as EPIPE.
                os.close(self._source)
                return
            if scanner.feed(data):
                self._on_ready()
        if scanner.end():
            self._on_ready()

    def _write(self, data: bytes) -> bool:
        try:
            while data:
                data = data[os.write(self._real, data) :]
        except OSError:
            return False
        return True
