# SPDX-License-Identifier: Apache-2.0
"""The forms of an entry of the log, as bytes.

Nothing is imported here but what every interpreter has loaded: a run that follows a plan logs by this alone.
"""

import os

JOURNAL_SOCKET = "/run/systemd/journal/socket"

LEVEL_NAMES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""Of the priorities of syslog(3), by their numbers."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Form = Callable[[int, str, dict[str, str]], bytes]
    """Makes the bytes of one entry: of its level, its message and its other fields."""


def journal_form(identifier: str) -> "Form":
    """Entries in the journal's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/)."""

    def form(level: int, message: str, fields: dict[str, str]) -> bytes:
        entry = {"MESSAGE": message, "PRIORITY": str(int(level)), "SYSLOG_IDENTIFIER": identifier, **fields}
        text = "".join([f"{name}={value}\n" for name, value in entry.items()])
        if text.count("\n") == len(entry):  # as a rule each value is one line
            return text.encode(errors="backslashreplace")
        return b"".join(
            [_field(name.encode(), value.encode(errors="backslashreplace")) for name, value in entry.items()]
        )

    return form


def stderr_form(identifier: str, *, with_priority: bool) -> "Form":
    """Readable lines; with the `<N>` prefix of sd-daemon(3) where a journal reads them."""
    pid = os.getpid()

    def form(level: int, message: str, fields: dict[str, str]) -> bytes:
        writer = fields.get("SYSLOG_IDENTIFIER")
        text = f"{identifier}[{pid}]: {LEVEL_NAMES[level]}: {f'{writer}: ' if writer else ''}{message}"
        if with_priority:
            text = "\n".join([f"<{int(level)}>{line}" for line in text.split("\n")])
        return f"{text}\n".encode(errors="backslashreplace")

    return form


def about(app_id: str, session_id: str | None) -> str:
    """What the message of an entry about an app, and perhaps its session, begins with."""
    return f"{app_id}: " if session_id is None else f"{app_id}[{session_id}]: "


def is_journal(journal_stream: str | None) -> bool:
    """Whether standard error is what `$JOURNAL_STREAM` names (systemd.exec(5))."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return journal_stream == f"{stderr.st_dev}:{stderr.st_ino}"


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:
        return name + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name + b"=" + value + b"\n"
