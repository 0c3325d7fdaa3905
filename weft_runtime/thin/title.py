# SPDX-License-Identifier: Apache-2.0
"""The command line of this process as ps(1) shows it."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Fields of /proc/PID/stat (proc(5)), counted from the one after the name, which is the third.
_ARG_START, _ARG_END = 48 - 3, 49 - 3


class Title:
    """The memory that the kernel shows as /proc/PID/cmdline.

    A fork shows the command line of its parent; only prctl(PR_SET_MM) could point to another one, which needs a
    capability. So the text is put where the old one is, and is cut where that ends.
    """

    def __init__(self) -> None:
        """Raises OSError where the place is not known."""
        fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fields = os.read(fd, 4096).rpartition(b") ")[2].split()
        finally:
            os.close(fd)
        self._start = int(fields[_ARG_START])
        self._size = int(fields[_ARG_END]) - self._start
        if self._start <= 0 or self._size <= 0:
            raise OSError("the kernel does not tell where the command line is")
        self._own = ctypes.string_at(self._start, self._size)

    def set(self, arguments: Iterable[bytes]) -> None:
        """Show `arguments`, as much of them as there is room for."""
        text = b"\0".join(arguments)
        # The last byte stays 0: with another one there, the kernel would show the environment too.
        ctypes.memmove(self._start, text[: self._size - 1].ljust(self._size, b"\0"), self._size)

    def restore(self) -> None:
        """Show what was there before."""
        ctypes.memmove(self._start, self._own, self._size)
