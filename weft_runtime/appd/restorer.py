# SPDX-License-Identifier: Apache-2.0
"""Starts the apps again that are to run, until each has come up or has ended by its own fault."""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from weft_runtime.appd.dispatch import READINGS_MAX
from weft_runtime.appd.launcher import Refused
from weft_runtime.appd.numbers import NotNumbered
from weft_runtime.appd.session import Session
from weft_runtime.appd.supervisor import Supervisor
from weft_runtime.appd.tasks import Tasks
from weft_runtime.errors import ExitStatus, WeftError
from weft_runtime.journal import Event, Level, Log
from weft_runtime.limits import RESTORE_DELAY_MAX_S, RESTORE_DELAY_MIN_S, RESTORE_ROUNDS
from weft_runtime.manifests import NotRemembered, Reading
from weft_runtime.protocol import ErrorCode, WaitingApp

RESTORED_A_CPU = 2
"""Apps that may be starting at a time, for each CPU: with all at once none would be ready in time on a device with many
of them."""

POLL_S = 0.05
"""Seconds until it is looked again whether fewer apps are starting."""

_DEVICE = frozenset(
    {
        126, 127,  # of the shell by which a session enters its control group
        ExitStatus.NO_INPUT, ExitStatus.UNAVAILABLE, ExitStatus.OS_ERROR, ExitStatus.TRY_AGAIN,
        ExitStatus.NO_PERMISSION, ExitStatus.CONFIG,
    }
)  # fmt: skip
"""Statuses of a runtime that tell of the device: to try again costs next to nothing, or succeeds."""

_PERHAPS_DEVICE = frozenset({"SIGKILL", "SIGBUS"})
"""Signals of a lack of memory, and of a file that cannot be read."""


@dataclass(eq=False, slots=True)
class Entry:
    """A session that is to be: of which app, and why it is not there yet."""

    app_id: str
    reason: str | None = None
    """Why the last attempt failed; None before the first."""
    attempts: int = 0
    due: float | None = 0.0
    """When to try, in monotonic seconds; None: only when somebody asks for it."""
    since: float = 0.0
    """Since when it waits, in Unix seconds."""


class Restorer:
    """The apps that wait to be started again, in their order."""

    def __init__(
        self, supervisor: Supervisor, launched: Callable[[Session], None], changed: Callable[[], None],
        tasks: Tasks, log: Log,
    ) -> None:  # fmt: skip
        """`launched` is told of each session that is started here, `changed` that the list is another."""
        self._supervisor = supervisor
        self._launched = launched
        self._changed = changed
        self._tasks = tasks
        self._log = log
        self.waiting: list[Entry] = []
        self._trying: dict[int, Entry] = {}
        """What was launched and has not said READY, by session."""
        self._wake = asyncio.Event()

    @property
    def app_ids(self) -> list[str]:
        """Those that the list of the apps to start again has besides those that run."""
        return [entry.app_id for entry in self.waiting]

    def add(self, app_ids: list[str]) -> None:
        """Start these as well."""
        now = time.time()
        self.waiting += [Entry(app_id, since=now) for app_id in app_ids]
        self._wake.set()

    def add_missing(self, wanted: "Counter[str]") -> list[str]:
        """Start what is missing of so many sessions of each app; which apps that are."""
        there = Counter([*self.app_ids, *(session.app_id for session in self._supervisor.live)])
        missing = list((wanted - there).elements())
        self.add(missing)
        return missing

    def hurry(self, app_id: str | None) -> list[str]:
        """Try all that waits now, or all of an app; which apps these are."""
        chosen = self._of(app_id)
        for entry in chosen:
            entry.due, entry.attempts = 0.0, 0
        self._wake.set()
        return [entry.app_id for entry in chosen]

    def forget(self, app_id: str | None) -> list[str]:
        """Do not start any more what waits, or what waits of an app; which apps that was."""
        chosen = dict.fromkeys(self._of(app_id))
        self.waiting = [entry for entry in self.waiting if entry not in chosen]
        return [entry.app_id for entry in chosen]

    def forget_session(self, session_id: int) -> None:
        """Somebody wants this session to end: whatever becomes of it, it is not started again."""
        self._trying.pop(session_id, None)

    def replaced_by(self, session: Session) -> None:
        """Somebody has launched an app: that is what a session of it was waiting for, if it had been tried."""
        for entry in self._of(session.app_id):
            if entry.reason is not None:
                self.waiting.remove(entry)
                self._trying[session.id] = entry
                return

    def ended(self, session: Session) -> None:
        """A session has ended: one that never came up is tried again, unless that was its own fault."""
        entry = self._trying.pop(session.id, None)
        if entry is None or session.ready_at is not None or session.stop_expected:
            return
        is_late = session.stop_reason is not None and not session.output_closed
        if session.exit_status in _DEVICE and not is_late:
            by_itself = True
        elif is_late or session.signal in _PERHAPS_DEVICE or session.exit_status == ExitStatus.SOFTWARE:
            by_itself = entry.attempts + 1 < RESTORE_ROUNDS
        elif session.exit_status == ExitStatus.DATA:
            by_itself = False  # the package has to change, and to compile it again and again is no help
        else:
            return
        if entry not in self.waiting:
            self.waiting.append(entry)
        self._put_off(entry, session.reason or "it ended", by_itself=by_itself)

    def describe(self) -> Generator[None, None, tuple[WaitingApp, ...]]:
        """What waits, in slices: there may be thousands."""
        now, wall, apps = time.monotonic(), time.time(), []
        for entry in [*self.waiting]:
            due = None if entry.due is None else wall + max(0.0, entry.due - now)
            apps.append(WaitingApp(entry.app_id, entry.reason, entry.since, entry.attempts, due))
            yield None
        return tuple(apps)

    def to_json(self) -> dict[str, Any]:
        """For the next process image, which tries all of them once more: it may have other settings."""
        return {
            # What a program from before there was a reason reads.
            "to_restore": self.app_ids,
            "to_restore_since": [[entry.reason, entry.attempts, entry.since] for entry in self.waiting],
            "restored": [
                [number, entry.app_id, entry.reason, entry.attempts, entry.since]
                for number, entry in self._trying.items()
            ],
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take over what `to_json` of the process image before this one said."""
        self.add(values.get("to_restore", []))
        for entry, (reason, attempts, since) in zip(
            self.waiting, values.get("to_restore_since", []), strict=False
        ):
            entry.reason, entry.attempts, entry.since = reason, attempts, since
        for number, app_id, reason, attempts, since in values.get("restored", []):
            self._trying[number] = Entry(app_id, reason, attempts, since=since)

    async def run(self) -> None:
        """Start them one by one: on a busy device all take longer than a client or the watchdog waits."""
        at_once = RESTORED_A_CPU * (os.cpu_count() or 1)
        while not self._supervisor.closing:
            entry = self._next()
            if entry is None:
                await self._wait()
            elif self._supervisor.starting >= at_once:
                await asyncio.sleep(POLL_S)
            else:
                await self._try(entry)
                await asyncio.sleep(0)

    def _of(self, app_id: str | None) -> list[Entry]:
        return [entry for entry in self.waiting if app_id in (None, entry.app_id)]

    def _next(self) -> Entry | None:
        now = time.monotonic()
        return next((entry for entry in self.waiting if entry.due is not None and entry.due <= now), None)

    async def _wait(self) -> None:
        """Wait until one is due, or something has changed."""
        self._wake.clear()
        due = min((entry.due for entry in self.waiting if entry.due is not None), default=None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                await self._wake.wait()

    async def _try(self, entry: Entry) -> None:
        try:
            session = await self._launch(entry)
        except Refused as refusal:
            if refusal.code is not ErrorCode.SHUTTING_DOWN:
                self._put_off(entry, refusal.message, by_itself=True)
            return
        except (Exception, asyncio.CancelledError) as error:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            reason = self._tasks.report(f"starting {entry.app_id} again", error)
            self._put_off(entry, reason, by_itself=entry.attempts + 1 < RESTORE_ROUNDS)
            return
        if session is not None:
            self._launched(session)

    async def _launch(self, entry: Entry) -> Session | None:
        """Its session; None where it is not wanted any more. Raises Refused."""
        reading: Reading | None = None
        for _ in range(READINGS_MAX):
            while not self._supervisor.numbers.is_ready:
                await self._supervisor.numbers.more()
            if entry not in self.waiting:
                return None
            try:
                session = self._supervisor.launch(entry.app_id, "the last session", reading, is_again=True)
            except NotNumbered:
                continue
            except NotRemembered as absent:
                with contextlib.suppress(WeftError):  # the launch finds it again
                    reading = await self._supervisor.packages.read(absent.directory)
            else:
                # In the same callback: the list has it once, whenever it is written.
                self.waiting.remove(entry)
                self._trying[session.id] = entry
                return session
        raise Refused(ErrorCode.PACKAGE_INVALID, "its manifest changes all the time")

    def _put_off(self, entry: Entry, reason: str, *, by_itself: bool) -> None:
        """It could not be started: try again later, and less and less often, or when somebody asks for it."""
        entry.attempts += 1
        delay = min(RESTORE_DELAY_MIN_S * 2 ** min(entry.attempts - 1, 32), RESTORE_DELAY_MAX_S)
        entry.due = time.monotonic() + delay if by_itself else None
        again = f"it is tried again in {delay:g} s, and then less often"
        if not by_itself:
            again = "it is not tried again by itself"
        is_known = reason == entry.reason and by_itself
        level = Level.DEBUG if is_known else Level.WARNING
        message = f"cannot be started again: {reason}; {again} ['weftctl restore' tries it now]"
        self._log.entry(level, message, Event.RESTORE_WAITS, WEFT_APP_ID=entry.app_id, WEFT_REASON=reason)
        entry.reason = reason
        self._wake.set()
        self._changed()
