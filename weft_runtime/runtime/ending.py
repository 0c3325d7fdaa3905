# SPDX-License-Identifier: Apache-2.0
"""How the process ends: once, by whoever comes first, with its reason told before it is gone."""

import _thread  # `threading` costs each launch 1 ms, and all that is used here is below it
import os
import select
import signal
from collections.abc import Callable
from signal import Signals
from typing import NamedTuple, NoReturn

from weft_runtime import statusline
from weft_runtime.errors import ExitStatus, Problem, WeftError, stack_of
from weft_runtime.escape import printable
from weft_runtime.journal import Event, Level, Log
from weft_runtime.ready import COMPILING
from weft_runtime.runtime.main import STOP_SIGNALS
from weft_runtime.runtime.parent import has_reader

STOP_GRACE_S = 0.6
"""A stop is promised within one second, whatever log, pipe or service manager is stuck by then."""

REPORT_WAIT_MS = 250

STATUS_REASON_MAX = 200
"""Characters of the reason in STATUS=, which is one line of `systemctl status`."""


class Outcome(NamedTuple):
    """Why and how the process ends. `reason` is one safe line; `detail` may follow it in the log."""

    event: Event
    exit_status: int
    reason: str
    level: Level
    detail: str = ""
    problem: Problem | None = None
    stopped_by: Signals | None = None


def exited(status: int, note: str = "") -> Outcome:
    """The guest's own end, by returning from `_start` or by proc_exit(`status`)."""
    reason = f"the app exited with status {status}{note}"
    return Outcome(Event.EXITED, status, reason, Level.INFO if status == 0 else Level.WARNING)


def trapped(where: str, kind: str, cause: str, backtrace: str) -> Outcome:
    """The engine stopped the guest. `where` is what it was running."""
    reason = f"the app trapped in {where}: {kind}: {cause}"
    return Outcome(Event.TRAPPED, ExitStatus.TRAP, reason, Level.ERR, backtrace)


_EVENTS = {
    Problem.USAGE: Event.USAGE,
    Problem.MANIFEST_INVALID: Event.PACKAGE_INVALID,
    Problem.PACKAGE_INVALID: Event.PACKAGE_INVALID,
    Problem.MODULE_INVALID: Event.PACKAGE_INVALID,
    Problem.MODULE_NOT_FOUND: Event.PACKAGE_INVALID,
    Problem.LIMIT_EXCEEDED: Event.LIMIT_EXCEEDED,
    Problem.PACKAGE_NOT_FOUND: Event.PACKAGE_NOT_FOUND,
    Problem.ENGINE_MISSING: Event.ENGINE_MISSING,
    Problem.COMPILE_LIMIT: Event.COMPILE_LIMIT,
    Problem.COMPILE_STARVED: Event.COMPILE_LIMIT,
    Problem.COMPILE_MEMORY: Event.COMPILE_LIMIT,
    Problem.NOT_TRUSTED: Event.NOT_TRUSTED,
    Problem.CHANGED: Event.CHANGED,
    Problem.CAPABILITY_REFUSED: Event.CAPABILITY_REFUSED,
    Problem.OUT_OF_MEMORY: Event.OUT_OF_MEMORY,
    Problem.CONFIG_INVALID: Event.SETTINGS_INVALID,
    Problem.INTERNAL_ERROR: Event.INTERNAL_ERROR,
}
"""All others are of the device: Event.FAILED."""

DETAIL_MAX = 16 * 1024
"""Characters of a detail that a report has: a pipe takes 64 KiB, and a longer backtrace is of a recursion."""


def failed(error: WeftError) -> Outcome:
    """A failure of ours, or of what we were given."""
    event = _EVENTS.get(error.problem, Event.FAILED)
    return Outcome(event, error.exit_status, str(error), Level.ERR, problem=error.problem)


def bug(error: BaseException) -> Outcome:
    """An exception that nobody expected: the only one that is logged with its traceback."""
    reason = f"internal error: {type(error).__name__}: {printable(str(error))}"
    return Outcome(
        Event.INTERNAL_ERROR,
        ExitStatus.SOFTWARE,
        reason,
        Level.CRIT,
        stack_of(error),
        Problem.INTERNAL_ERROR,
    )


def without_supervisor(outcome: Outcome) -> Outcome:
    """An end that is no fault of the app: whatever it wrote met a broken pipe (EPIPE, write(2))."""
    reason = f"weft-appd has gone and took no output any more; {outcome.reason}"
    return outcome._replace(event=Event.SUPERVISOR_LOST, reason=reason, level=Level.NOTICE)


class Ending:
    """Ends the process. `phase` says what it is doing, for the log line of a stop."""

    def __init__(self, log: Log) -> None:
        self.phase = "starting"
        self.log = log
        self.report_fd: int | None = None
        self.is_supervised = False
        """Whether a supervisor tells the course of the run, of what the report says: then there is one entry for one fact,
        and it comes when what the app has written is in the log."""
        self.awaits_ready: Callable[[], bool] = lambda: False
        """Whether the service manager waits for READY."""
        self.last_words: Callable[[Outcome], None] = lambda outcome: None
        """Called before the log line: tells the service manager."""
        self.drain: Callable[[float | None], None] = lambda timeout: None
        """Called first: passes on what the guest has written, for that many seconds at most."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called last where a stop signal ends the process, if there is time."""
        self._claim = _thread.allocate_lock()

    @property
    def course(self) -> Level:
        """The level at which the course of the run is told."""
        return Level.DEBUG if self.is_supervised else Level.INFO

    def watch_signals(self) -> None:
        """End the process when a stop signal arrives, in a thread: the guest has the main one.

        A Python handler would wait for the main thread, which does not come back while the guest runs.
        The signals must be blocked in every thread, the engine's own included (main.py).
        """
        try:
            _thread.start_new_thread(self._wait_for_signal, ())
        except RuntimeError as error:
            raise WeftError(Problem.OS_ERROR, f"cannot start a thread: {error}") from None

    def tell_delay(self) -> None:
        """Tell the supervisor that the time until READY does not count now. One that does not read gets none of it."""
        if self.report_fd is not None:
            _write_report(self.report_fd, f'{{"event": "{COMPILING}"}}\n'.encode(), wait_ms=0)

    def finish(self, outcome: Outcome) -> NoReturn:
        """Tell `outcome` and end with it. The first caller wins; a stop that comes second hurries it."""
        if outcome.stopped_by is not None:
            told = _thread.allocate_lock()
            told.acquire()
            _thread.start_new_thread(self._tell_and_release, (outcome, told))
            told.acquire(timeout=STOP_GRACE_S)
            _die_by(outcome.stopped_by)
        self._tell(outcome, drain_timeout=None)
        # Not sys.exit(): tearing down the engine and the interpreter takes longer than many a guest,
        # and has nothing left to flush; the engine's threads do not like it either.
        os._exit(outcome.exit_status)

    def _wait_for_signal(self) -> None:
        number = Signals(signal.sigwait(STOP_SIGNALS))
        reason = f"stopped by {number.name} while {self.phase}"
        event, level = Event.STOPPED, Level.NOTICE
        if self.awaits_ready():
            event, level, reason = Event.NOT_READY, Level.WARNING, f"{reason}, before READY"
        self.finish(Outcome(event, 128 + number, reason, level, stopped_by=number))

    def _tell_and_release(self, outcome: Outcome, told: _thread.LockType) -> None:
        try:
            self._tell(outcome, STOP_GRACE_S / 2)
            self.on_stop()
        finally:
            told.release()

    def _tell(self, outcome: Outcome, drain_timeout: float | None) -> None:
        self.drain(drain_timeout)
        self._claim.acquire()  # for good: whoever comes second waits here until the first has ended the process
        self.log.release()
        if outcome.event in (Event.EXITED, Event.TRAPPED) and outcome.exit_status and self._is_orphan():
            outcome = without_supervisor(outcome)
        self.last_words(outcome)
        is_told = self.report_fd is not None and _report(self.report_fd, outcome, whole=self.is_supervised)
        level = Level.DEBUG if is_told and self.is_supervised else outcome.level
        fields = {"WEFT_EXIT_STATUS": str(outcome.exit_status), "WEFT_REASON": outcome.reason}
        if outcome.problem is not None:
            fields["WEFT_PROBLEM"] = outcome.problem
        message = f"{outcome.reason}\n{outcome.detail}" if outcome.detail else outcome.reason
        self.log.entry(level, message, outcome.event, **fields)
        # Last, since it may have to wait.
        self.log.flush()

    def _is_orphan(self) -> bool:
        """Whether nobody is left who reads the report, nor what the app writes."""
        return self.report_fd is not None and not has_reader(self.report_fd) and not has_reader(1)


def _die_by(number: Signals) -> NoReturn:
    """End by the signal itself, so that whoever waits sees what happened."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    os.kill(os.getpid(), number)
    # Only the first process of a PID namespace gets here: the kernel does not apply defaults to it.
    os._exit(128 + number)


def _report(fd: int, outcome: Outcome, *, whole: bool) -> bool:
    import json  # noqa: PLC0415 - for nothing but this

    report = {
        "event": outcome.event,
        "exit_status": outcome.exit_status,
        "signal": outcome.stopped_by.name if outcome.stopped_by else None,
        "reason": outcome.reason,
        "problem": outcome.problem,
    }
    if whole:
        report["detail"] = outcome.detail[:DETAIL_MAX]
    # A supervisor that does not read gets no report, rather than a process that does not end.
    return _write_report(fd, json.dumps(report).encode() + b"\n", wait_ms=REPORT_WAIT_MS)


def _write_report(fd: int, line: bytes, *, wait_ms: int) -> bool:
    """Whether it could be written."""
    waiting = select.poll()
    waiting.register(fd, select.POLLOUT)
    try:
        return bool(waiting.poll(wait_ms)) and os.write(fd, line) == len(line)
    except OSError:
        return False  # whoever asked for the report is gone


def status_line(outcome: Outcome, version: str | None = None) -> str:
    """`outcome` as the assignment STATUS= of sd_notify(3); `version` is the app's, once it is known."""
    return statusline.status_line(outcome.reason[:STATUS_REASON_MAX], version)
