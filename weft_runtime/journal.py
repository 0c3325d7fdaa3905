# SPDX-License-Identifier: Apache-2.0
"""The log: entries with fields in the journal, or readable lines on standard error."""

import os
import select
import stat
import sys
from collections.abc import Callable
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

from weft_runtime import forms
from weft_runtime.backlog import Backlog
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import quote
from weft_runtime.forms import about, is_journal, journal_form, stderr_form
from weft_runtime.ids import AppId
from weft_runtime.limits import KIB
from weft_runtime.settings import LogSettings, LogTarget

if TYPE_CHECKING:
    import _socket

JOURNAL_SOCKET = Path(forms.JOURNAL_SOCKET)

STDERR_WAIT_MS = 250
"""How long a line of a program that begins or ends waits for a full pipe behind standard error before it is dropped: a
reader that has stopped reading must not stop the program, and two lines must fit into the second a stop may take."""

FLUSH_S = 0.25
"""Seconds by which a log that waits may delay an end, for the same reasons."""

_DATAGRAM_MAX = 64 * KIB
"""Bytes that go out in a datagram: half of the least that the kernel holds for a socket, so that there is room for one
whenever the kernel says that there is some."""


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
    COMPILE_LIMIT = "compile-limit"
    TOO_COSTLY = "too-costly"
    DOWNGRADED = "downgraded"
    SUPERVISOR_LOST = "supervisor-lost"
    NOT_TRUSTED = "not-trusted"
    CHANGED = "changed-after-signing"
    CAPABILITY_REFUSED = "capability-refused"
    LIMIT_EXCEEDED = "limit-exceeded"
    OUT_OF_MEMORY = "out-of-memory"
    NOT_READY = "not-ready"
    SETTINGS_INVALID = "settings-invalid"
    USAGE = "usage"
    INTERNAL_ERROR = "internal-error"
    CODE_NOT_KEPT = "code-not-kept"

    PACKAGE_INSTALLED = "package-installed"
    PACKAGE_UPGRADED = "package-upgraded"
    PACKAGE_ROLLED_BACK = "package-rolled-back"
    PACKAGE_REMOVED = "package-removed"

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
    SAVE_FAILED = "save-failed"
    RESTORE_WAITS = "restore-waits"
    NUMBERS_FAILED = "numbers-failed"
    NUMBERS_UNKNOWN = "numbers-unknown"
    NO_RUNTIME = "no-runtime"
    TASK_FAILED = "task-failed"

    LOG_LOST = "log-lost"
    FORK_SERVER_LOST = "fork-server-lost"


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
    Event.SUPERVISOR_LOST: "405871bfd644419aa39759b5185d4313",
    Event.STUB: "24e087d9a44b4290b08891f185a22ed0",
    Event.CODE_REJECTED: "3af54e34692049a49b2c931641720614",
    Event.COMPILE_LIMIT: "5a83ed5ce00848bb8bda91742599ba48",
    Event.TOO_COSTLY: "fdfbf25440ff4561ab1ca2be223af74f",
    Event.DOWNGRADED: "5d1d7c0f9a3e4a9c8f2b64f1a70f3be6",
    Event.RELOAD_FAILED: "eb8e90bb41bd47099855990ccd8b9ef5",
    Event.RESTORE_REFUSED: "23817af036ea4c7cbdf7c49ca23f7d68",
    Event.LAUNCH_REFUSED: "f95e483bc2e04ddc9fa56e386618fed6",
    Event.SESSION_ENDED: "d99f249ab2034dc991d418321bc4222b",
    Event.OUTPUT_DROPPED: "acc4ef3275724efc897232217fb681dc",
    Event.SAVE_FAILED: "687d1014cd654b1a97b3fd8f8e2adb55",
    Event.RESTORE_WAITS: "a87977e9923a4274af66338de1f709e2",
    Event.NUMBERS_FAILED: "d0b508d9204041d8ba173abed67b54c7",
    Event.NUMBERS_UNKNOWN: "7a70c1608cea40ae97aa3260282bcc22",
    Event.LOG_LOST: "89c24adededc4fe9ad0ebebb1a6bac46",
    Event.FORK_SERVER_LOST: "1d3741c7c92a45c99989608bae113b86",
    Event.NOT_TRUSTED: "e3a88fca67214a92962efb6875cdbac6",
    Event.CHANGED: "9ef31242b51b4ee0883db1b3e98d8e9b",
    Event.CAPABILITY_REFUSED: "0e4da20d6b0040dead3a5c5283b7f94e",
    Event.LIMIT_EXCEEDED: "f85bd13c2bd840a9b148d96121c1609a",
    Event.OUT_OF_MEMORY: "a0deddc6d2894580a17948704db8c89e",
    Event.NOT_READY: "47a87b220d4d46829cd9688493c8e2ea",
    Event.SETTINGS_INVALID: "0bd751e412694aeba0a56dcaa9c6e6ba",
    Event.USAGE: "e15db1a423514f7b841b27aa7fe65131",
    Event.INTERNAL_ERROR: "acbfd3311b2f4d4c878c2e3eb7c0cf34",
    Event.CODE_NOT_KEPT: "56e3a28d9aa14623aa7801a8b0f624a0",
    Event.PACKAGE_INSTALLED: "436dd009943d4027ae9f5bc339ce3110",
    Event.PACKAGE_UPGRADED: "6cb3f82da7704764bf6ed7d047c488db",
    Event.PACKAGE_ROLLED_BACK: "cbe9c422e74f4701961838062dd6cc5d",
    Event.PACKAGE_REMOVED: "8444e7b8b7aa4f3f800737dafeca4d9f",
    Event.NO_RUNTIME: "b77c07a4998540728ef82468d90df270",
    Event.TASK_FAILED: "58718bcb23d84fccb5a65b63fff653d1",
    Event.SESSION_READY: "13d0f4f35d3348a383dc2dac39790b92",
}

UNASKED_END = "5cdc4d54609840aca364ac591d066ed0"
"""MESSAGE_ID of the end of a session that nobody has asked for and that was no success: an Event.SESSION_ENDED too."""

STEPS = frozenset(
    {
        Event.STARTING, Event.LOADED, Event.DAEMON_READY, Event.DAEMON_STOPPING, Event.RELOADED,
        Event.SESSION_LAUNCHED, Event.OUTPUT,
    }
)  # fmt: skip
"""Events that ask nothing of anybody, and so have no MESSAGE_ID."""

NAMELESS = frozenset(
    {
        Event.ENGINE_MISSING, Event.FAILED, Event.SETTINGS_INVALID, Event.USAGE, Event.INTERNAL_ERROR,
        Event.RELOAD_FAILED, Event.RESTORE_REFUSED, Event.SAVE_FAILED, Event.NO_RUNTIME, Event.TASK_FAILED,
        Event.NUMBERS_FAILED, Event.NUMBERS_UNKNOWN, Event.LOG_LOST, Event.FORK_SERVER_LOST,
    }
)  # fmt: skip
"""Events that need not be about an app: their texts name none."""

Sink = Callable[[Level, str, dict[str, str]], None]
"""Takes one entry: its level, its message and its other fields."""


class Log:
    """Writes entries at or above a level. Standard logging is not used: it has no place for fields.

    Messages are shown as they are, so whoever logs puts text from outside through `escape` first. Nobody writes the
    app or its session into a message: each entry that has them as fields begins with them.
    """

    def __init__(self, sink: Sink, level: Level = Level.INFO, *, is_native: bool = False) -> None:
        self._sink = sink
        self.is_native = is_native
        """Whether entries go to the journal natively."""
        self.backlog: Backlog | None = None
        """Where entries wait; None where each is written at once."""
        self.fields: dict[str, str] = {}
        """Those of every entry."""
        self._held: list[tuple[Level, str, dict[str, str]]] | None = None
        self.level = level

    def bind(self, **fields: str) -> None:
        """Add fields to every entry from now on."""
        self.fields |= fields

    def entry(self, level: Level, message: str, event: Event | None = None, **fields: str) -> None:
        """Write one entry. Never raises: a log that is full or gone must not end the program."""
        if level > self.level:
            return
        if event is not None:
            fields["WEFT_EVENT"] = event
        fields = self.fields | fields
        # Without the app, a text that is about one would name nobody.
        if event in MESSAGE_IDS and ("WEFT_APP_ID" in fields or event in NAMELESS):
            fields.setdefault("MESSAGE_ID", MESSAGE_IDS[event])
        if event is not Event.OUTPUT:  # which stays as the app wrote it: its identifier names the app
            message = _about(fields) + message
        if self._held is not None:
            if level >= Level.INFO:
                self._held.append((level, message, fields))
                return
            self.release()
        self._sink(level, message, fields)

    def flush(self) -> None:
        """Give what waits a moment to go out, before an end."""
        if self.backlog is not None:
            self.backlog.flush(FLUSH_S)

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


def open_log(identifier: str, settings: LogSettings, *, has_loop: bool = False) -> Log:
    """The log that `settings` ask for; `identifier` is its SYSLOG_IDENTIFIER. Nobody who writes to it waits.

    With `has_loop` that holds for standard error too where it is a file, on a disk that may not answer.

    Where the journal is asked for and cannot be had, the log says so once, on standard error. Raises
    WeftError(CONFIG_INVALID) for a wrong `$WEFT_LOG_LEVEL`.
    """
    try:
        level = Level.parse(settings.level or "info")
    except ValueError as error:
        raise WeftError(Problem.CONFIG_INVALID, f"$WEFT_LOG_LEVEL: {error}") from None
    on_journal = is_journal(settings.journal_stream)
    to_journal = settings.target is LogTarget.JOURNAL or (settings.target is LogTarget.AUTO and on_journal)
    if to_journal and JOURNAL_SOCKET.is_socket():
        log, form = Log(_unused, level, is_native=True), journal_form(identifier)
        log.backlog = Backlog(_Journal(), lambda count: form(*_lost(log, count, "the journal")))
    else:
        log, form = Log(_unused, level), stderr_form(identifier, with_priority=on_journal)
        channel = _StandardError(files_block=has_loop)
        log.backlog = Backlog(channel, lambda count: form(*_lost(log, count, "standard error")))
    put = log.backlog.put
    log._sink = lambda level, message, fields: put(form(level, message, fields))
    if to_journal and not log.is_native:
        problem = f"there is no {JOURNAL_SOCKET}"
        log.notice(f"cannot log to the journal natively, logging to standard error: {problem}")
    return log


def output_identifier(app_id: str, session_id: int) -> str:
    """SYSLOG_IDENTIFIER of what an app writes in a session."""
    return f"{app_id}/{session_id}"


def _about(fields: dict[str, str]) -> str:
    """What an entry with `fields` begins with: the app, and the session where there is one."""
    app_id, session_id = fields.get("WEFT_APP_ID"), fields.get("WEFT_SESSION_ID")
    if app_id is None:
        return ""
    if not isinstance(app_id, AppId):  # which was judged
        try:
            AppId.parse(app_id)
        except ValueError:
            # Whatever somebody has asked for: it must not look like the beginning of another entry.
            app_id = quote(app_id)
    return about(app_id, session_id)


class _Journal:
    """The socket of the journal.

    The library's sendv() is of no use: its socket waits for a journal that does not read, and the binding keeps the
    interpreter's lock meanwhile, so that not even another thread goes on.
    """

    never_blocks = True

    def __init__(self) -> None:
        # Made at the first entry: a fork that is to become a session needs one of its own.
        self._socket: _socket.socket | None = None

    def send(self, entry: bytes) -> bytes:
        is_new = self._socket is None
        try:
            self._send(entry)
            return b""
        except BlockingIOError:
            return entry
        except OSError:
            # The socket was closed and made anew at the other side: another connection finds the new one.
            self._close()
            if is_new:
                raise
            return self.send(entry)

    def wait(self, seconds: float) -> None:
        waiting = select.poll()
        if self._socket is not None:
            waiting.register(self._socket, select.POLLOUT)
        waiting.poll(seconds * 1000)

    def _send(self, entry: bytes) -> None:
        if self._socket is None:
            import _socket  # noqa: PLC0415 - `socket`, which is made of it, costs each launch 3 ms

            self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            # Connected, so that poll(2) tells whether there is room at the other side.
            self._socket.connect(os.fspath(JOURNAL_SOCKET))
        if len(entry) > _DATAGRAM_MAX:
            self._send_file(self._socket, entry)
        else:
            self._socket.send(entry)

    def _send_file(self, connection: "_socket.socket", entry: bytes) -> None:
        """The same for a long one: in a file that nobody can change any more."""
        import fcntl  # noqa: PLC0415 - seldom needed
        from _socket import SCM_RIGHTS, SOL_SOCKET  # noqa: PLC0415

        file = os.memfd_create("weft-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(file, entry)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            descriptors = file.to_bytes(4, sys.byteorder)
            connection.sendmsg([b""], [(SOL_SOCKET, SCM_RIGHTS, descriptors)])
        finally:
            os.close(file)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _StandardError:
    """Descriptor 2, as long as it takes a line at once."""

    def __init__(self, *, files_block: bool) -> None:
        try:
            self.never_blocks = not (files_block and stat.S_ISREG(os.fstat(2).st_mode))
        except OSError:
            self.never_blocks = True

    def send(self, entry: bytes) -> bytes:
        return _write_what_fits(entry, 0)

    def wait(self, seconds: float) -> None:
        waiting = select.poll()
        waiting.register(2, select.POLLOUT)
        waiting.poll(seconds * 1000)


def _unused(_level: Level, _message: str, _fields: dict[str, str]) -> None:
    raise AssertionError("a log has a sink before it is used")


def _lost(log: Log, count: int, reader: str) -> tuple[Level, str, dict[str, str]]:
    """The entry about entries that are lost."""
    what = "1 entry of the log was" if count == 1 else f"{count} entries of the log were"
    fields = {"WEFT_EVENT": Event.LOG_LOST, "MESSAGE_ID": MESSAGE_IDS[Event.LOG_LOST]}
    fields["WEFT_LOST"] = str(count)
    fields = log.fields | fields
    return Level.WARNING, f"{_about(fields)}{what} lost: {reader} did not read", fields


def stderr_sink(identifier: str, *, with_priority: bool) -> Sink:
    """Lines on standard error, of a program that begins or ends: each waits for its reader, but briefly."""
    form = stderr_form(identifier, with_priority=with_priority)

    def sink(level: Level, message: str, fields: dict[str, str]) -> None:
        try:
            _write_what_fits(form(level, message, fields), STDERR_WAIT_MS)
        except OSError:
            pass  # closed, full or broken: there is nowhere left to say so

    return sink


def _write_what_fits(data: bytes, patience_ms: int) -> bytes:
    """Write to standard error, and wait for each piece that long at most; what is left. Raises OSError."""
    waiting = select.poll()
    waiting.register(2, select.POLLOUT)
    # Once writable, a pipe takes PIPE_BUF bytes without blocking: more goes out piece by piece.
    while data and waiting.poll(patience_ms):
        try:
            data = data[os.write(2, data[: select.PIPE_BUF]) :]
        except BlockingIOError:
            break
    return data
