# SPDX-License-Identifier: Apache-2.0
"""What a session's runtime says by its report (`WEFT_REPORT_FD`): that it compiles, and at last why it ended."""

import json
import os
from typing import Any

from weft_runtime.decode import Table
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.ready import COMPILING

SIZE_MAX = 64 * 1024
"""Bytes that are kept: what a pipe holds, so that no child ever waits for us to read it."""

_READ_SIZE = 4096
"""Bytes a time before the end: whoever floods the report leaves room for everybody else."""


class Report:
    """The lines of one report, which is trusted no further than an app's output."""

    def __init__(self, fd: int) -> None:
        """`fd` is the end of the pipe to read from, non-blocking; it stays the caller's."""
        self._fd = fd
        self.unread = b""
        """What has come since the last whole line that was understood."""
        self.is_open = True
        """Whether more may come."""

    def is_compiling(self) -> bool:
        """Read what is there, without waiting; whether it says anew that the module is being compiled."""
        compiling = False
        *lines, rest = (self.unread + self._read(_READ_SIZE)).split(b"\n")
        kept = []
        for line in lines:
            if COMPILING.encode() in line and _values(line).get("event") == COMPILING:
                compiling = True
            else:
                kept.append(line)
        self.unread = b"\n".join([*kept[-1:], rest])[-SIZE_MAX:]
        return compiling

    def reason(self) -> str | None:
        """The reason in the last line: none from a foreign runtime, or one that was killed."""
        lines = (self.unread + self._read(SIZE_MAX)).splitlines()
        try:
            reason = Table(_values(lines[-1] if lines else b""), "report", Problem.INTERNAL_ERROR)
            text = reason.optional_string("reason")
        except WeftError:
            return None
        return None if text is None else printable(text)

    def _read(self, size: int) -> bytes:
        try:
            data = os.read(self._fd, size)
        except OSError:
            return b""
        self.is_open = self.is_open and bool(data)
        return data


def _values(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
