# SPDX-License-Identifier: Apache-2.0
"""Keeps the list of the apps that run, and of those that are to run, up to date, whatever the disk does."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from weft_runtime.appd.persistence import HELP, STABLE_S, LastSession, RestoreRefused
from weft_runtime.appd.tasks import Tasks, Worker
from weft_runtime.escape import printable, quote
from weft_runtime.journal import Event, Level, Log

RETRY_MIN_S, RETRY_MAX_S = 1.0, 60.0
"""Seconds until a list that could not be written is tried again, doubled each time."""

ANSWER_S = 10.0
"""Seconds after which a disk that does not answer is told of."""

LAST_SAVE_S = 2.0
"""Seconds that an end waits for the disk."""

SAVED_S = 1.0
"""Seconds that an answer which depends on the list waits for the disk."""


class Keeper:
    """The list on the disk, and the one that it should be."""

    def __init__(
        self,
        last: LastSession,
        listed: Callable[[], list[str]],
        found: Callable[[list[str]], None],
        worker: Worker,
        tasks: Tasks,
        log: Log,
    ) -> None:
        """`listed` gives the apps that run, or are to; `found` is told which of the last session are to be started."""
        self._last = last
        self._list = listed
        self._found = found
        self._tasks = tasks
        self._log = log
        self._worker = worker
        self._is_taken = False
        """Whether the list of the last session was read, and so may be replaced."""
        self._is_asked = False
        """Whether there was something to save before that."""
        self._saved: list[str] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._delay = RETRY_MIN_S
        self._timer: asyncio.TimerHandle | None = None
        """Of the next attempt after a failed one."""
        self._has_failed = False
        """Whether that was told."""
        self.problem: str | None = None
        """Why the list on the disk is not the one that it should be, after an attempt."""
        self._is_stopped = False
        self._waiting: list[Callable[[], None]] = []
        """Who is to be called when the list is saved as it is now."""

    def to_json(self) -> dict[str, Any]:
        """For the next process image."""
        return {
            "list_is_taken": self._is_taken,
            "list_is_unread": self._last.is_unread,
            "lists_refused": self._last.refused,
            "save_has_failed": self._has_failed,
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take over what `to_json` of the process image before this one said."""
        # A program from before these had read the list when it served.
        self._is_taken = values.get("list_is_taken", True)
        self._last.is_unread = values.get("list_is_unread", False)
        self._last.refused = values.get("lists_refused", {})
        self._has_failed = values.get("save_has_failed", False)

    async def take(self, *, wanted: bool) -> None:
        """Find out which apps are to be started again, if that is `wanted`; before this no list is saved."""
        if self._is_taken:
            return
        if wanted:
            await self._take()
        self._is_taken = True
        if self._is_asked:
            self.save()

    async def _take(self) -> None:
        reading = self._worker.run(self._last.take)
        try:
            app_ids, warnings = await reading
        except RestoreRefused as refusal:
            self._log.entry(Level.ERR, str(refusal), Event.RESTORE_REFUSED, WEFT_REASON=str(refusal))
            return
        except OSError as error:
            problem = f"cannot read the last session in {self._where}: {error.strerror}"
            message = f"{problem}; its apps are not started, and the list is kept [{HELP}]"
            self._log.entry(Level.ERR, message, Event.RESTORE_REFUSED, WEFT_REASON=message)
            return
        except Exception as error:
            self._tasks.report("the list of the last session", error)
            return
        self._found([*app_ids])
        for warning in warnings:
            self._log.warning(warning)
        if app_ids:
            self._log.notice(f"starting the {len(app_ids)} apps that ran before")
            self.survive_later()

    def survive_later(self) -> None:
        """When this daemon has lasted long enough, forget that it was an attempt."""
        self._tasks.later(STABLE_S, "forgetting the starts", self._survive)

    def _survive(self) -> None:
        self._worker.run(self._last.survived).add_done_callback(_ignore_os_error)

    def save(self, *, at_once: bool = False) -> None:
        """Write the list if it has changed, and it is time to; `at_once` does not wait after a failure."""
        if not self._is_taken:
            self._is_asked = True
            return
        if self._is_stopped:
            return
        if self._timer is not None:
            if not at_once:
                return
            self._timer.cancel()
            self._timer = None
        if self._saving is not None and not self._saving.done():
            return  # it looks again when it is done
        if self._list() != self._saved or self._waiting:
            self._saving = asyncio.get_running_loop().create_task(self._save())

    def when_saved(self, function: Callable[[], None]) -> None:
        """Call `function` when the list is on the disk as it is now; or when that failed, or takes long: `problem`."""
        is_saved = self._is_taken and self._list() == self._saved
        if is_saved:
            self.problem = None
        if self._is_stopped or (is_saved and (self._saving is None or self._saving.done())):
            function()
            return
        timer: asyncio.TimerHandle
        is_called = False

        def call() -> None:
            nonlocal is_called
            timer.cancel()
            if call in self._waiting:
                self._waiting.remove(call)
            if not is_called:
                is_called = True
                self._tasks.call("telling that the list is saved", function)

        def give_up() -> None:
            self.problem = self.problem or f"the disk has not answered for {SAVED_S:g} s"
            call()

        timer = asyncio.get_running_loop().call_later(SAVED_S, give_up)
        self._waiting.append(call)
        self.save(at_once=True)

    def saved(self) -> "asyncio.Future[None]":
        """The same as `when_saved`, to be waited for."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        self.when_saved(done)
        return future

    async def _save(self) -> None:
        """Write what is to be written; all that goes wrong ends here."""
        waiting: list[Callable[[], None]] = []
        try:
            while (app_ids := self._list()) != self._saved or self._waiting:
                waiting, self._waiting = self._waiting, []
                if app_ids != self._saved:
                    writing = self._worker.run(self._last.save, app_ids)
                    await asyncio.wait([writing], timeout=ANSWER_S)
                    if not writing.done():
                        self._tell_failure(f"the disk has not answered for {ANSWER_S:g} s")
                    try:
                        await writing
                    except OSError as error:
                        self._failed(error.strerror or str(error))
                        return
                    self._saved = app_ids
                    self._delay = RETRY_MIN_S
                    self.problem = None
                    if self._has_failed:
                        self._has_failed = False
                        self._log.notice(f"the list of running apps is kept in {self._where} again")
                for function in waiting:
                    function()
                waiting = []
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            self._failed("the attempt was cancelled")
        except Exception as error:
            self._failed(self._tasks.report("saving the list of running apps", error))
        finally:
            for function in [*waiting, *self._waiting]:
                function()

    @property
    def _where(self) -> str:
        return quote(str(self._last.file))

    def _failed(self, reason: str) -> None:
        self.problem = printable(reason)
        self._tell_failure(reason)
        self._timer = self._tasks.later(self._delay, "saving the list of running apps", self._try_again)
        self._delay = min(2 * self._delay, RETRY_MAX_S)

    def _try_again(self) -> None:
        self._timer = None
        self.save()

    def _tell_failure(self, reason: str) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        problem = f"cannot save the list of running apps in {self._where}: {printable(reason)}"
        message = (
            f"{problem}; the next start does not start the apps that run now, but those of an older list"
        )
        message = f"{message} [df {quote(str(self._last.file.parent))}]"
        self._log.entry(Level.WARNING, message, Event.SAVE_FAILED, WEFT_REASON=message)

    @property
    def refused(self) -> Mapping[str, str]:
        """The lists whose apps were not started: by path, why."""
        return self._last.refused

    def read_refused(self) -> "asyncio.Future[tuple[Counter[str], list[str]]]":
        """What the refused lists ask for, and which of them can be used; `refused` says why others cannot."""
        return self._worker.run(self._last.read_refused)

    def drop_refused(self, paths: list[str]) -> "asyncio.Future[None]":
        """Remove refused lists. OSError comes of it where that cannot be."""
        return self._worker.run(self._last.drop_refused, paths)

    async def settle(self) -> bool:
        """Wait for a moment until nothing is under way to the disk; whether that is so."""
        return await self._worker.settle()

    def stop(self) -> list[str]:
        """Save nothing by itself any more; the list as it is now."""
        for planned in (self._timer, self._saving):
            if planned is not None:
                planned.cancel()
        app_ids = self._list()
        self._timer, self._is_stopped = None, True
        for function in [*self._waiting]:
            function()
        return app_ids

    async def save_last(self, app_ids: list[str]) -> None:
        """Write the last list, if the disk answers by then, and that this daemon has ended in good order."""
        # What was not read is not replaced.
        saving = self._worker.run(self._last.save, app_ids) if self._is_taken else None
        surviving = self._worker.run(self._last.survived)
        await asyncio.wait([surviving, *([saving] if saving else [])], timeout=LAST_SAVE_S)
        if surviving.done():
            self._tasks.call("forgetting the starts", _ignore_os_error, surviving)
        if saving is None:
            return
        error = (
            saving.exception() if saving.done() else TimeoutError(0, f"no answer after {LAST_SAVE_S:g} s")
        )
        if error is not None:
            self._has_failed = False
            self._tell_failure(str(error.strerror if isinstance(error, OSError) else error))
            if not isinstance(error, OSError):
                self._tasks.report("saving the list of running apps", error)


def _ignore_os_error(future: "asyncio.Future[None]") -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None and not isinstance(error, OSError):
        raise error
