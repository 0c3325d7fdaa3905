# SPDX-License-Identifier: Apache-2.0
"""The log: entries with fields in the journal, or readable lines on standard error."""

import os
import select
from collections.abc import Callable
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Self

from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import quote
from weft_runtime.settings import LogSettings, LogTarget

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")

STDERR_WAIT_MS = 250
"""How long a line waits for a full pipe behind standard error before it is dropped: a reader that has
stopped reading must not stop the program, and two lines must fit into the second a stop may take."""


class Level(IntEnum):
    """Priorities of syslog(3)."""

    EMERG = 0
    ALERT = 1
    CRIT = 2
    ERR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7

    @classmethod
    def parse(cls, name: str) -> Self:
        """Raises ValueError unless `name` is one of the names of syslog(3), "error" included, in any case."""
        levels = {level.name.lower(): level for level in cls}
        level = levels.get("err" if name.lower() == "error" else name.lower())
        if level is None:
            raise ValueError(f"{quote(name)} is not a log level: expected one of {', '.join(levels)}")
        return level


class Event(StrEnum):
    """What happened, as `WEFT_EVENT`."""

    STARTING = "starting"
    LOADED = "loaded"
    READY = "ready"
    EXITED = "exited"
    TRAPPED = "trapped"
    STOPPED = "stopped"
    PACKAGE_NOT_FOUND = "package-not-found"
    PACKAGE_INVALID = "package-invalid"
    ENGINE_MISSING = "engine-missing"
    FAILED = "failed"
    STUB = "stub"
    CODE_REJECTED = "code-rejected"
    DOWNGRADED = "downgraded"

    DAEMON_READY = "daemon-ready"
    DAEMON_STOPPING = "daemon-stopping"
    RELOADED = "reloaded"
    RELOAD_FAILED = "reload-failed"
    RESTORE_REFUSED = "restore-refused"
    LAUNCH_REFUSED = "launch-refused"
    SESSION_LAUNCHED = "session-launched"
    SESSION_READY = "session-ready"
    SESSION_ENDED = "session-ended"
    OUTPUT = "output"
    OUTPUT_DROPPED = "output-dropped"


# Only what an operator acts on has an id; infra/systemd/catalog has an entry for each.
MESSAGE_IDS = {
    Event.READY: "02a8a9b6982e41b9bb2e09dc20ecd266",
    Event.EXITED: "1b3a3f3bf9774f29961c4f84fb1e93ae",
    Event.TRAPPED: "33c9661825d74d6482b6878f10fa8af4",
    Event.STOPPED: "c45ce56f8c3e4c99a8923e4820459f9c",
    Event.PACKAGE_NOT_FOUND: "531cca4962294f8bb3d4dfba91c17e47",
    Event.PACKAGE_INVALID: "e00b460b302040f688c9cc1b2377a5b2",
    Event.ENGINE_MISSING: "a6fa6109c69747acb6a9ebfdbf2ee32d",
    Event.FAILED: "2bca5bf579c3437d82763c2ef15a643e",
    Event.STUB: "24e087d9a44b4290b08891f185a22ed0",
    Event.CODE_REJECTED: "3af54e34692049a49b2c931641720614",
    Event.DOWNGRADED: "5d1d7c0f9a3e4a9c8f2b64f1a70f3be6",
    Event.RELOAD_FAILED: "eb8e90bb41bd47099855990ccd8b9ef5",
    Event.RESTORE_REFUSED: "23817af036ea4c7cbdf7c49ca23f7d68",
    Event.LAUNCH_REFUSED: "f95e483bc2e04ddc9fa56e386618fed6",
    Event.SESSION_ENDED: "d99f249ab2034dc991d418321bc4222b",
    Event.OUTPUT_DROPPED: "acc4ef3275724efc897232217fb681dc",
}

Sink = Callable[[Level, str, dict[str, str]], None]
"""Takes one entry: its level, its message and its other fields."""


class Log:
    """Writes entries at or above a level. Standard logging is not used: it has no place for fields.

    Messages are shown as they are, so whoever logs puts text from outside through `escape` first.
    """

    def __init__(self, sink: Sink, level: Level = Level.INFO, *, is_native: bool = False) -> None:
        self._sink = sink
        self.is_native = is_native
        """Whether entries go to the journal natively."""
        self._fields: dict[str, str] = {}
        self._held: list[tuple[Level, str, dict[str, str]]] | None = None
        self.level = level

    def bind(self, **fields: str) -> None:
        """Add fields to every entry from now on."""
        self._fields |= fields

    def entry(self, level: Level, message: str, event: Event | None = None, **fields: str) -> None:
        """Write one entry. Never raises: a log that is full or gone must not end the program."""
        if level > self.level:
            return
        if event is not None:
            fields["WEFT_EVENT"] = event
            if event in MESSAGE_IDS:
                fields["MESSAGE_ID"] = MESSAGE_IDS[event]
        if self._held is not None:
            if level >= Level.INFO:
                self._held.append((level, message, self._fields | fields))
                return
            self.release()
        self._sink(level, message, self._fields | fields)

    def hold(self) -> None:
        """Let entries wait that nobody acts on, until `release` or one that is worse: the first one takes its time."""
        self._held = []

    def release(self) -> None:
        """Write what waits, in order, and wait no more."""
        held, self._held = self._held or (), None
        for entry in held:
            self._sink(*entry)

    def debug(self, message: str) -> None:
        self.entry(Level.DEBUG, message)

    def notice(self, message: str) -> None:
        self.entry(Level.NOTICE, message)

    def warning(self, message: str, event: Event | None = None) -> None:
        self.entry(Level.WARNING, message, event)


def open_log(identifier: str, settings: LogSettings) -> Log:
    """The log that `settings` ask for; `identifier` is its SYSLOG_IDENTIFIER.

    Where the journal is asked for and cannot be had, the log says so once, on standard error. Raises
    WeftError(CONFIG_INVALID) for a wrong `$WEFT_LOG_LEVEL`.
    """
    try:
        level = Level.parse(settings.level or "info")
    except ValueError as error:
        raise WeftError(Problem.CONFIG_INVALID, f"$WEFT_LOG_LEVEL: {error}") from None
    on_journal = _is_journal(settings.journal_stream)
    if settings.target is LogTarget.JOURNAL or (settings.target is LogTarget.AUTO and on_journal):
        # Checked here because libsystemd drops entries without a word where there is no journal.
        try:
            if not JOURNAL_SOCKET.is_socket():
                raise ImportError(f"there is no {JOURNAL_SOCKET}")
            return Log(journal_sink(identifier), level, is_native=True)
        except ImportError as error:
            log = Log(stderr_sink(identifier, with_priority=on_journal), level)
            log.notice(f"cannot log to the journal natively, logging to standard error: {error}")
            return log
    return Log(stderr_sink(identifier, with_priority=on_journal), level)


def journal_sink(identifier: str) -> Sink:
    """Entries by the journal's native protocol. Raises ImportError without systemd-python."""
    # Not systemd.journal: that is this plus 16 ms of imports, at every launch.
    from systemd._journal import sendv  # noqa: PLC0415

    def sink(level: Level, message: str, fields: dict[str, str]) -> None:
        entry = {"MESSAGE": message, "PRIORITY": str(int(level)), "SYSLOG_IDENTIFIER": identifier, **fields}
        try:
            sendv(*(f"{name}={value}".encode(errors="backslashreplace") for name, value in entry.items()))
        except OSError:
            pass  # the journal is gone or refuses: there is nowhere left to say so

    return sink


def stderr_sink(identifier: str, *, with_priority: bool) -> Sink:
    """Readable lines on standard error; with the `<N>` prefix of sd-daemon(3) where a journal reads them."""
    pid = os.getpid()

    def sink(level: Level, message: str, fields: dict[str, str]) -> None:
        app, session = fields.get("WEFT_APP_ID"), fields.get("WEFT_SESSION_ID")
        who = f" {app}/{session}:" if session else f" {app}:" if app else ""
        text = f"{identifier}[{pid}]:{who} {level.name.lower()}: {message}"
        if with_priority:
            text = "\n".join(f"<{int(level)}>{line}" for line in text.split("\n"))
        _write_stderr(f"{text}\n".encode(errors="backslashreplace"))

    return sink


def _is_journal(journal_stream: str | None) -> bool:
    """Whether standard error is what `$JOURNAL_STREAM` names (systemd.exec(5))."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return journal_stream == f"{stderr.st_dev}:{stderr.st_ino}"


def _write_stderr(data: bytes) -> None:
    waiting = select.poll()
    waiting.register(2, select.POLLOUT)
    try:
        # Once writable, a pipe takes PIPE_BUF bytes without blocking: more goes out piece by piece.
        while data and waiting.poll(STDERR_WAIT_MS):
            data = data[os.write(2, data[: select.PIPE_BUF]) :]
    except OSError:
        pass  # closed, full or broken: there is nowhere left to say so
