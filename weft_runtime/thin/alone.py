# SPDX-License-Identifier: Apache-2.0
"""A run without a supervisor that follows a plan which one before it has left: a service, or a command.

It tells the log and the service manager what the full runtime would tell them, in the same words. Where something goes
wrong in that, or with the app, the full runtime's own code goes on from there.
"""

from __future__ import annotations

import _signal
import _socket
import _thread
import os
import select
import stat
import time

from weft_runtime import forms, statusline
from weft_runtime.thin.session import Failed, Machine, Session, Unusual, say_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from weft_runtime.journal import Log
    from weft_runtime.remembered import Remembered, Wanted

IDENTIFIER = "weft-runtime"

STOP_SIGNALS = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP)

NOTIFY_TIMEOUT_S = 0.25
"""As in notify.py."""

STATUS_REASON_MAX = 200
"""As in runtime/ending.py."""

ERR, WARNING, NOTICE, INFO = 3, 4, 5, 6
"""Of syslog(3)."""

MESSAGE_IDS = {
    "ready": "02a8a9b6982e41b9bb2e09dc20ecd266",
    "trapped": "33c9661825d74d6482b6878f10fa8af4",
    "failed": "2bca5bf579c3437d82763c2ef15a643e",
    "exited": "1b3a3f3bf9774f29961c4f84fb1e93ae",
    "stopped": "c45ce56f8c3e4c99a8923e4820459f9c",
    "not-ready": "47a87b220d4d46829cd9688493c8e2ea",
}
"""Of the events that are told here, as in journal.py."""

_TARGETS = (None, "", "auto", "journal", "stderr")
"""Of `$WEFT_LOG`."""


def run(wanted: Wanted, known: Remembered) -> None:
    """Follow the plan that is remembered for what is wanted, and end the process; return where something is unusual.

    The signals that ask a process to end must be blocked.
    """
    begun = time.monotonic()
    if not _is_usual() or (code_fd := known.code.open()) is None:
        return
    try:
        log = _Log(wanted)
        log.machine = machine = Machine()
        session = Session(machine)
        session.load(known.plan.encode(), b"/proc/self/fd/%d" % code_fd)
        course = _Run(wanted, known, session, log)
        course.watch_signals()
    except (OSError, Unusual, MemoryError, RuntimeError):  # the last one of a thread that cannot be had
        # With it the full runtime would have one thread where it has several.
        os.environ.pop("TOKIO_WORKER_THREADS", None)
        os.close(code_fd)
        return
    course.follow(round((time.monotonic() - begun) * 1000))


class _Run:
    """From the loaded code to the end of the process."""

    def __init__(self, wanted: Wanted, known: Remembered, session: Session, log: _Log) -> None:
        self._known = known
        self._version = known.plan.version.decode()
        self._session = session
        self._log = log
        self._notify_socket = os.environ.get("NOTIFY_SOCKET") if wanted.is_notifying else None
        self._about = {"WEFT_APP_ID": wanted.app_id}
        if wanted.session_id is not None:
            self._about["WEFT_SESSION_ID"] = wanted.session_id
        self._is_ready = False
        self._claim = _thread.allocate_lock()

    def watch_signals(self) -> None:
        """End the process when a stop signal arrives. Raises RuntimeError where there can be no thread for that."""
        _thread.start_new_thread(self._wait_for_signal, ())

    def follow(self, milliseconds: int) -> NoReturn:
        """Do what the plan says; to load its code has taken so long."""
        plan, log = self._known.plan, self._log
        text = f"starting {self._version} from {plan.package.decode()}"
        log.entry(INFO, text, "starting", WEFT_VERSION=self._version)
        if self._known.notice:
            log.entry(NOTICE, self._known.notice.decode())
        text = f"loaded the compiled code of {plan.module.decode()} in {milliseconds} ms"
        log.entry(INFO, text, "loaded")
        try:
            status = self._session.run(self._announce)
        except Failed as failure:
            if self._session.is_outdated:
                self._end_outdated(failure)
            self._claim.acquire()
            from weft_runtime.runtime import aftermath  # noqa: PLC0415 - all of the full runtime

            service = aftermath.Service(self._version, is_notifying=self._notify_socket is not None)
            aftermath.tell(self._about, failure, service)
        reason = f"the app exited with status {status}"
        self._tell(WARNING if status else INFO, "exited", reason, status)
        os._exit(status)

    def _end_outdated(self, failure: Failed) -> NoReturn:
        status, event, reason, detail = self._session.end_of(failure)
        self._tell(WARNING if event == "exited" else ERR, event, reason, status, detail)
        os._exit(status)

    def _announce(self) -> None:
        say_ready()
        self._is_ready = True
        self._notify("READY=1", "the app is running")
        self._log.entry(INFO, "the app is ready", "ready")

    def _tell(self, level: int, event: str, reason: str, status: int, detail: str = "") -> None:
        """Say how it ends: once, whoever comes first."""
        self._claim.acquire()
        self._notify("STOPPING=1", reason[:STATUS_REASON_MAX])
        message = f"{reason}\n{detail}" if detail else reason
        self._log.entry(level, message, event, WEFT_EXIT_STATUS=str(status), WEFT_REASON=reason)
        self._log.flush()

    def _wait_for_signal(self) -> None:
        number = _signal.sigwait(STOP_SIGNALS)
        name = {_signal.SIGTERM: "SIGTERM", _signal.SIGINT: "SIGINT", _signal.SIGHUP: "SIGHUP"}[number]
        reason = f"stopped by {name} while running {self._session.phase.decode()}"
        if self._notify_socket is not None and not self._is_ready:
            self._tell(WARNING, "not-ready", f"{reason}, before READY", 128 + number)
        else:
            self._tell(NOTICE, "stopped", reason, 128 + number)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (number,))
        os.kill(os.getpid(), number)
        # Only the first process of a PID namespace gets here: the kernel does not apply defaults to it.
        os._exit(128 + number)

    def _notify(self, state: str, text: str) -> None:
        """Tell the service manager (sd_notify(3)). One that cannot be told is a warning."""
        if self._notify_socket is None:
            return
        address = self._notify_socket
        message = f"{state}\n{statusline.status_line(text, self._version)}".encode(errors="replace")
        try:
            connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
            try:
                connection.settimeout(NOTIFY_TIMEOUT_S)
                connection.connect(f"\0{address[1:]}" if address.startswith("@") else address)
                connection.send(message)
            finally:
                connection.close()
        except OSError as error:
            why = error.strerror or error
            self._log.entry(WARNING, f"cannot notify the service manager, ignoring: {why}")


class _Log:
    """Writes entries, as long as the other side takes them at once. From then on it is the full runtime's log."""

    def __init__(self, wanted: Wanted) -> None:
        """Raises Unusual where something had to be told of the log itself."""
        self._wanted = wanted
        self._full: Log | None = None
        self.machine: Machine | None = None
        """Which knows whether there is still a full runtime's log of this release."""
        self._journal: _socket.socket | None = None
        self._fields = {"WEFT_APP_ID": wanted.app_id}
        if wanted.session_id is not None:
            self._fields["WEFT_SESSION_ID"] = wanted.session_id
        self._prefix = forms.about(wanted.app_id, wanted.session_id)
        target, on_journal = os.environ.get("WEFT_LOG"), forms.is_journal(os.environ.get("JOURNAL_STREAM"))
        if target == "journal" or (target != "stderr" and on_journal):
            self._form = forms.journal_form(IDENTIFIER)
            try:
                self._journal = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
                self._journal.setblocking(False)
                self._journal.connect(forms.JOURNAL_SOCKET)
            except OSError:
                raise Unusual from None
        else:
            self._form = forms.stderr_form(IDENTIFIER, with_priority=on_journal)

    def entry(self, level: int, message: str, event: str | None = None, **fields: str) -> None:
        """Write one entry. Never raises."""
        if self._full is None and not self._write(level, message, event, fields):
            if self.machine is not None and self.machine.is_outdated:
                return
            self._full = self._open()
        if self._full is not None:
            from weft_runtime.journal import Event, Level  # noqa: PLC0415 - only where something waits

            self._full.entry(Level(level), message, None if event is None else Event(event), **fields)

    def flush(self) -> None:
        """Give what waits a moment to go out, before an end."""
        if self._full is not None:
            self._full.flush()

    def _write(self, level: int, message: str, event: str | None, fields: dict[str, str]) -> bool:
        """Whether it went out whole."""
        all_fields = self._fields | fields
        if event is not None:
            all_fields["WEFT_EVENT"] = event
            if event in MESSAGE_IDS:
                all_fields["MESSAGE_ID"] = MESSAGE_IDS[event]
        data = self._form(level, self._prefix + message, all_fields)
        try:
            if self._journal is not None:
                return self._journal.send(data) == len(data)
            waiting = select.poll()
            waiting.register(2, select.POLLOUT)
            # A pipe that is writable takes so many bytes whole.
            return len(data) <= select.PIPE_BUF and bool(waiting.poll(0)) and os.write(2, data) == len(data)
        except OSError:
            return False

    def _open(self) -> Log:
        from weft_runtime import settings  # noqa: PLC0415
        from weft_runtime.journal import open_log  # noqa: PLC0415

        log = open_log(IDENTIFIER, settings.log_settings())
        log.bind(**self._fields)
        return log


def _is_usual() -> bool:
    """Whether the standard streams are open, and the log is where it is said to be."""
    try:
        for fd in (0, 1, 2):
            os.fstat(fd)
        # The guest takes "try again" for an error.
        os.set_blocking(1, True)
        os.set_blocking(2, True)
        target = os.environ.get("WEFT_LOG")
        has_journal = target != "journal" or stat.S_ISSOCK(os.stat(forms.JOURNAL_SOCKET).st_mode)
        return has_journal and target in _TARGETS
    except OSError:
        return False
