# SPDX-License-Identifier: Apache-2.0
"""The command line of this process as ps(1) shows it."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

# Fields of /proc/PID/stat (proc(5)), counted from the one after the name, which is the third.
_ARG_START, _ARG_END = 48 - 3, 49 - 3


class Title:
    """The memory that the kernel shows as /proc/PID/cmdline.

    A fork shows the command line of its parent; only prctl(PR_SET_MM) could point to another one, which needs a
    capability. So the text is put where the old one is, and is cut where that ends.
    """

    def __init__(self) -> None:
        """Raises OSError where the place is not known."""
        fields = (
            Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
        )
        self._start = int(fields[_ARG_START])
        self._size = int(fields[_ARG_END]) - self._start
        if self._start <= 0 or self._size <= 0:
            raise OSError("the kernel does not tell where the command line is")

    def set(self, argv: Sequence[str]) -> None:
        """Show `argv`, as much of it as there is room for."""
        text = b"".join(os.fsencode(argument) + b"\0" for argument in argv)
        # The last byte stays 0: with another one there, the kernel would show the environment too.
        ctypes.memmove(self._start, text[: self._size - 1].ljust(self._size, b"\0"), self._size)
