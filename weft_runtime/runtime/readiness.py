# SPDX-License-Identifier: Apache-2.0
"""Saying READY: once, on standard output, and to the service manager when asked."""

import os
import select

from weft_runtime.errors import from_os_error
from weft_runtime.journal import Event, Level, Log
from weft_runtime.notify import Notifier
from weft_runtime.ready import READY_LINE

EXTENSION_S = 30
"""Seconds that the service manager waits on after each word that something takes its time: six times the interval of
those words, and what it waits for READY at all."""


class Readiness:
    """Announces at most once that the app is ready."""

    def __init__(self, log: Log, notifier: Notifier) -> None:
        self._log = log
        self._notifier = notifier
        self._told = False

    @property
    def mirrored(self) -> bool:
        """Whether the service manager is told too."""
        return self._notifier.active

    @property
    def told(self) -> bool:
        """Whether the app has been announced."""
        return self._told

    def delayed(self, what: str) -> None:
        """Tell the service manager that `what` is under way: its time until READY begins anew."""
        self._notifier.send(f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}", f"STATUS={what}")

    def announce(self) -> None:
        """Write the READY line, then tell everybody else. Raises WeftError where it cannot be written."""
        if self._told:
            return
        try:
            _write_whole_line()
        except OSError as error:
            raise from_os_error("write READY to standard output", error) from None
        # The kernel takes the writer to a pipe for one that is about to sleep, and may have put its reader behind it on
        # the same CPU. It goes first.
        os.sched_yield()
        self.heard()

    def heard(self) -> None:
        """The line is out: the guest has written it itself, or we have."""
        if self._told:
            return
        self._told = True
        self._log.release()
        self._notifier.send("READY=1", "STATUS=the app is running")
        self._log.entry(Level.INFO, "the app is ready", Event.READY)


def _write_whole_line() -> None:
    # One write(2): pipes take so few bytes whole or not at all. A pipe that somebody made non-blocking
    # and full is waited for, as a blocking one would be.
    while True:
        try:
            os.write(1, READY_LINE)
            return
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(1, select.POLLOUT)
            waiting.poll()
