# SPDX-License-Identifier: Apache-2.0
"""Whatever the daemon does has an owner: what nobody expected to go wrong is logged, and all else goes on."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar, cast

from weft_runtime.appd.handover import block_signals
from weft_runtime.errors import stack_of
from weft_runtime.escape import printable
from weft_runtime.journal import Event, Level, Log

AGAIN_S = 1.0
"""Seconds after which what has gone wrong unexpectedly is tried again: no sooner, lest it fills the log."""

SETTLE_S = 2.0
"""Seconds that a reload waits for what is under way to a disk: the kernel lets an exec(2) wait for all threads."""

P = ParamSpec("P")
T = TypeVar("T")


class Tasks:
    """Runs what the daemon does by itself."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def report(self, what: str, error: BaseException) -> str:
        """Log an exception of `what` that nobody expected, with its traceback; its reason on one line."""
        reason = f"internal error: {what}: {type(error).__name__}: {printable(str(error))}"
        self._log.entry(Level.CRIT, f"{reason}\n{stack_of(error)}", Event.TASK_FAILED, WEFT_REASON=reason)
        return reason

    def call(self, what: str, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Call `function`; whether it went well. Of what it raises only the ends of the program are passed on."""
        try:
            function(*args, **kwargs)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # a CancelledError too: here is nothing to be cancelled
            self.report(what, error)
            return False
        return True

    def later(
        self, seconds: float, what: str, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.TimerHandle:
        """Call `function` in so many seconds, and until it goes well."""

        def go() -> None:
            if not self.call(what, function, *args, **kwargs):
                loop.call_later(AGAIN_S, go)

        loop = asyncio.get_running_loop()
        return loop.call_later(seconds, go)

    def start(
        self, what: str, work: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Task[T | None]":
        """Have `work` done beside all else; None comes of it where it fails, which is logged."""

        async def owned() -> T | None:
            try:
                return await work(*args, **kwargs)
            except asyncio.CancelledError as error:
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise
                self.report(what, error)
            except Exception as error:
                self.report(what, error)
            return None

        return asyncio.get_running_loop().create_task(owned())


class Worker:
    """A thread for what may wait for a disk: one thing after another, none of which keeps anybody else waiting.

    Unlike an executor's, its thread may be in the middle of something when the program ends.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.pending = 0
        """How many things are still to be done."""

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        """Have `function` called there; what comes of it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = function(*args, **kwargs)
            except BaseException as caught:
                error = caught
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        def settle(result: T | None, error: BaseException | None) -> None:
            self.pending -= 1
            if future.cancelled():
                return
            if error is None:
                future.set_result(cast(T, result))
            elif isinstance(error, Exception) and not isinstance(error, StopIteration):
                future.set_exception(error)
            else:  # a future does not take just any
                future.set_exception(RuntimeError(f"{type(error).__name__} in a thread: {error}"))

        if self._thread is None:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self.pending += 1
        self._jobs.put(job)
        return future

    async def settle(self) -> bool:
        """Wait for a moment until nothing is under way; whether that is so."""
        deadline = time.monotonic() + SETTLE_S
        while self.pending and time.monotonic() < deadline:  # noqa: ASYNC110 - the thread alone knows
            await asyncio.sleep(0.01)
        return not self.pending

    def _work(self) -> None:
        # Signals are for the main thread alone: a reload blocks them there.
        block_signals()
        while True:
            self._jobs.get()()
