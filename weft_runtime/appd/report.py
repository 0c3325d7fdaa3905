# SPDX-License-Identifier: Apache-2.0
"""What a session's runtime says by its report (`WEFT_REPORT_FD`): that it compiles, and at last why it ended."""

import json
import os
from typing import Any, NamedTuple

from weft_runtime.decode import Table
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.journal import Event
from weft_runtime.ready import COMPILING

SIZE_MAX = 64 * 1024
"""Bytes that are kept: what a pipe holds, so that no child ever waits for us to read it."""

_READ_SIZE = 4096
"""Bytes a time before the end: whoever floods the report leaves room for everybody else."""


DETAIL_LINES_MAX = 100
"""Lines of a detail that are logged: a backtrace of the engine has 20, a traceback of ours some more."""

# What is told apart from the end of the session.
_TOLD = frozenset(
    {
        Event.TRAPPED, Event.PACKAGE_NOT_FOUND, Event.PACKAGE_INVALID, Event.ENGINE_MISSING, Event.FAILED,
        Event.COMPILE_LIMIT, Event.LIMIT_EXCEEDED, Event.NOT_TRUSTED, Event.CHANGED, Event.CAPABILITY_REFUSED,
        Event.OUT_OF_MEMORY, Event.SETTINGS_INVALID, Event.USAGE, Event.INTERNAL_ERROR,
    }
)  # fmt: skip


class Account(NamedTuple):
    """What a runtime said of its end; each text is safe to log."""

    reason: str | None = None
    """None from a foreign runtime, or one that was killed."""
    event: Event | None = None
    """What is to be told apart from the end; None where there is nothing, or the runtime has told it itself."""
    problem: str | None = None
    detail: str = ""


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

    def account(self) -> Account:
        """What the last line says."""
        lines = (self.unread + self._read(SIZE_MAX)).splitlines()
        try:
            last = Table(_values(lines[-1] if lines else b""), "report", Problem.INTERNAL_ERROR)
            reason, detail = last.optional_string("reason"), last.optional_string("detail")
            event, problem = last.optional_string("event"), last.optional_string("problem")
        except WeftError:
            return Account()
        if reason is None:
            return Account()
        if detail is None or event not in _TOLD:
            return Account(printable(reason))
        safe = [printable(line) for line in detail.splitlines()[:DETAIL_LINES_MAX]]
        problem = None if problem is None else printable(problem, 64)
        return Account(printable(reason), Event(event), problem, "\n".join(safe))

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
