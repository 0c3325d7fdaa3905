# SPDX-License-Identifier: Apache-2.0
"""Messages to the service manager: sd_notify(3), by the sdnotify library."""

from typing import TYPE_CHECKING

from weft_runtime.journal import Log

if TYPE_CHECKING:
    from sdnotify import SystemdNotifier

SEND_TIMEOUT_S = 0.25
"""A service manager that does not read must not keep a program from ending within its second."""


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
            # UTF-8 is what systemd reads, and latin-1 what the library encodes in.
            self._library.notify("\n".join(assignments).encode(errors="replace").decode("latin-1"))
        except OSError as error:
            self._log.warning(f"cannot notify the service manager, ignoring: {error.strerror or error}")


def open_notifier(log: Log, *, wanted: bool, notify_socket: str | None) -> Notifier:
    """A notifier that sends if `wanted` and if there is somewhere to send to; else one that does nothing."""
    if not wanted:
        return Notifier(log, None)
    if not notify_socket:
        log.debug("notification was asked for, but there is no $NOTIFY_SOCKET: not notifying")
        return Notifier(log, None)
    try:
        from sdnotify import SystemdNotifier  # noqa: PLC0415 - only who asks for it needs it

        library = SystemdNotifier(debug=True)
        library.socket.settimeout(SEND_TIMEOUT_S)
    except (ImportError, OSError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        log.warning(f"cannot notify the service manager, ignoring: {reason}")
        return Notifier(log, None)
    return Notifier(log, library)
