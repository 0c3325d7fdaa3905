# SPDX-License-Identifier: Apache-2.0
"""Messages to the service manager: sd_notify(3), by the sdnotify library."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from weft_runtime.journal import Log

if TYPE_CHECKING:
    from sdnotify import SystemdNotifier

SEND_TIMEOUT_S = 0.25
"""A service manager that does not read must not keep a program from ending within its second."""


AGAIN_S = 0.1
"""Seconds until what it has not read is sent again."""

Later = Callable[[float, Callable[[], None]], None]
"""Has something called in so many seconds."""


class Notifier:
    """Sends states to `$NOTIFY_SOCKET`. A message that cannot be sent is a warning, never a failure."""

    def __init__(self, log: Log, library: "SystemdNotifier | None") -> None:
        self._log = log
        self._library = library

    @property
    def active(self) -> bool:
        return self._library is not None

    def send(self, *assignments: str) -> None:
        """Send assignments such as "READY=1" in one datagram."""
        if self._library is None:
            return
        try:
            self._notify(assignments)
        except OSError as error:
            self._complain(error)

    def _notify(self, assignments: tuple[str, ...]) -> None:
        assert self._library is not None
        # UTF-8 is what systemd reads, and latin-1 what the library encodes in.
        self._library.notify("\n".join(assignments).encode(errors="replace").decode("latin-1"))

    def _complain(self, error: OSError) -> None:
        self._log.warning(f"cannot notify the service manager, ignoring: {error.strerror or error}")


class PatientNotifier(Notifier):
    """One that never waits: what the service manager does not take now is sent again soon, and told of once."""

    def __init__(self, log: Log, library: "SystemdNotifier", later: Later) -> None:
        super().__init__(log, library)
        self._later = later
        self._waiting: dict[str, tuple[str, ...]] = {}
        """By the name of the first assignment, of which the latest counts; in order."""
        self._is_planned = False
        self._is_told = False

    def send(self, *assignments: str) -> None:
        name = assignments[0].partition("=")[0]
        self._waiting.pop(name, None)
        self._waiting[name] = assignments
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            try:
                self._notify(self._waiting[name])
            except BlockingIOError:
                if not self._is_told:
                    self._is_told = True
                    self._log.warning("the service manager does not read its notifications, trying again")
                if not self._is_planned:
                    self._is_planned = True
                    self._later(AGAIN_S, self._try_again)
                return
            except OSError as error:
                self._complain(error)
            else:
                self._is_told = False
            del self._waiting[name]

    def _try_again(self) -> None:
        self._is_planned = False
        self._send_waiting()


def open_notifier(
    log: Log, *, wanted: bool, notify_socket: str | None, later: Later | None = None
) -> Notifier:
    """A notifier that sends if `wanted` and if there is somewhere to send to; else one that does nothing.

    With `later` it never waits.
    """
    if not wanted:
        return Notifier(log, None)
    if not notify_socket:
        log.debug("notification was asked for, but there is no $NOTIFY_SOCKET: not notifying")
        return Notifier(log, None)
    try:
        from sdnotify import SystemdNotifier  # noqa: PLC0415 - only who asks for it needs it

        library = SystemdNotifier(debug=True)
        library.socket.settimeout(SEND_TIMEOUT_S if later is None else 0)
    except (ImportError, OSError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        log.warning(f"cannot notify the service manager, ignoring: {reason}")
        return Notifier(log, None)
    return Notifier(log, library) if later is None else PatientNotifier(log, library, later)
