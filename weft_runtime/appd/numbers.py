# SPDX-License-Identifier: Apache-2.0
"""Session numbers: each is given once, over restarts of the daemon and of the device."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from weft_runtime.appd import files
from weft_runtime.appd.tasks import Tasks, Worker
from weft_runtime.escape import printable, quote
from weft_runtime.journal import Event, Level, Log
from weft_runtime.limits import NUMBER_BLOCK, NUMBER_MAX

FILE_NAME = "next-session"

WAIT_S = 2.0
"""Seconds that a launch waits for a disk which is to know its number."""

RETRY_MIN_S, RETRY_MAX_S = 1.0, 60.0
"""Seconds until numbers that could not be written down are tried again, doubled each time."""


class NotNumbered(Exception):
    """A launch has to wait until its number is written down: `Numbers.more`."""


class Found(NamedTuple):
    """What the disk knows of the numbers that were given."""

    number: int
    """The first one that was not given."""
    problem: str | None = None
    """Why the file is of no use, if that is so."""


class Counter:
    """The file in the state directory. Its methods may wait for a disk."""

    def __init__(self, directory: Path, volatile: Path) -> None:
        """A copy goes to `volatile`, for a file that is damaged and a disk that is full."""
        self.file = directory / FILE_NAME
        self._beside = volatile / FILE_NAME

    def read(self) -> Found:
        """The first number that was not given; never raises OSError."""
        problem, number = None, 1
        with contextlib.suppress(FileNotFoundError):
            try:
                number = _parse(files.read(self.file))
            except FileNotFoundError:
                raise
            except OSError as error:
                problem = error.strerror or str(error)
            except ValueError as error:
                problem = str(error)
        beside = None
        with contextlib.suppress(OSError, ValueError):
            beside = _parse(files.read(self._beside)) if self._beside != self.file else None
        if problem is None:
            return Found(max(number, beside or 1))
        return Found(beside or _unused(), problem)

    def write(self, number: int) -> None:
        """Write down that the numbers below `number` may have been given. Raises OSError."""
        data = str(number).encode()
        if self._beside != self.file:
            with contextlib.suppress(OSError):
                files.put(self._beside, data, durable=False)
        files.put(self.file, data, durable=True)


def _unused() -> int:
    """A number that no session can have had: nobody has had one for each second since 1970."""
    return min(int(time.time()), NUMBER_MAX // 2)


def _parse(data: bytes) -> int:
    text = data.removesuffix(b"\n")
    # Far below the bound, so that a damaged file does not use up the numbers.
    if not (text.isdigit() and len(text) <= len(str(NUMBER_MAX)) and 1 <= int(text) <= NUMBER_MAX // 2):
        raise ValueError(
            f"it has {quote(text[:32].decode(errors='backslashreplace'))}, which is no such number"
        )
    return int(text)


class Numbers:
    """The number of the next session. A number is written down before it is given."""

    def __init__(self, counter: Counter, worker: Worker, tasks: Tasks, log: Log) -> None:
        self._counter = counter
        self._worker = worker
        self._tasks = tasks
        self._log = log
        self.next = 1
        """The one that the next session gets, once `is_ready`."""
        self._written = 0
        """All below this are written down."""
        self._is_known = False
        """Whether the disk has said which numbers were given."""
        self._has_failed = False
        """Whether it was told that numbers cannot be written down; they are given all the same."""
        self._delay = RETRY_MIN_S
        self._timer: asyncio.TimerHandle | None = None
        """Of the next attempt after a failed one."""
        self._writing: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_ready(self) -> bool:
        """Whether `next` may be given."""
        return self.next < self._written or self._has_failed

    def skip(self) -> None:
        """`next` is given, or cannot be."""
        self.next += 1
        self._write_ahead()

    def more(self) -> "asyncio.Future[None]":
        """Done when `next` may be given."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._write_ahead()
        self._wake()
        return future

    def to_json(self) -> dict[str, Any]:
        """For the next process image; `next` goes with the sessions."""
        return {"numbers_written": self._written, "numbers_failed": self._has_failed}

    def restore(self, values: Mapping[str, Any], number: int) -> None:
        """Go on at `number` with what `to_json` of the process image before this one said."""
        self.next = number
        # A program from before these wrote none down.
        self._written = values.get("numbers_written", 0)
        self._has_failed = values.get("numbers_failed", False)
        self._is_known = self._written > 0 or self._has_failed

    async def begin(self) -> None:
        """Find out which numbers were given, and write the first ones down."""
        if not self._is_known:
            reading = self._worker.run(self._counter.read)
            await asyncio.wait([reading], timeout=WAIT_S)
            if not reading.done():
                self.next = _unused()
                self._fail(f"the disk has not answered for {WAIT_S:g} s")
            guessed = self.next
            found = await reading
            # What was given meanwhile stays given.
            self.next = found.number if self.next == guessed else max(self.next, found.number)
            self._is_known = True
            if found.problem is not None:
                self._tell_unknown(found.problem)
        self._write_ahead()
        self._wake()

    def _write_ahead(self) -> None:
        if not self._is_known or self._timer is not None or self._written - self.next >= NUMBER_BLOCK // 2:
            return
        if self._writing is None:
            self._writing = self._tasks.start("writing down session numbers", self._write)

    async def _write(self) -> None:
        try:
            while self._written - self.next < NUMBER_BLOCK // 2:
                written = self.next + NUMBER_BLOCK
                writing = self._worker.run(self._counter.write, written)
                await asyncio.wait([writing], timeout=WAIT_S)
                if not writing.done():
                    self._fail(f"the disk has not answered for {WAIT_S:g} s")
                await writing
                self._written, self._delay = written, RETRY_MIN_S
                if self._has_failed:
                    self._has_failed = False
                    self._log.notice(f"session numbers are kept in {self._where} again")
                self._wake()
        except OSError as error:
            self._fail(error.strerror or str(error))
            self._timer = self._tasks.later(self._delay, "writing down session numbers", self._try_again)
            self._delay = min(2 * self._delay, RETRY_MAX_S)
        finally:
            self._writing = None

    def _try_again(self) -> None:
        self._timer = None
        self._write_ahead()

    def _fail(self, reason: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            problem = f"cannot keep the numbers of sessions in {self._where}: {printable(reason)}"
            message = f"{problem}; after the next start a session may get a number that another one has had"
            message = f"{message} [df {quote(str(self._counter.file.parent))}]"
            self._log.entry(Level.WARNING, message, Event.NUMBERS_FAILED, WEFT_REASON=message)
        self._wake()

    def _tell_unknown(self, problem: str) -> None:
        message = (
            f"{self._where} does not say which numbers sessions have had: {printable(problem)};"
            f" they go on from {self.next}, which none can have had"
        )
        self._log.entry(Level.WARNING, message, Event.NUMBERS_UNKNOWN, WEFT_REASON=message)

    def _wake(self) -> None:
        if self.is_ready:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    @property
    def _where(self) -> str:
        return quote(str(self._counter.file))

    def write_last(self) -> None:
        """At the end of the daemon: write down which numbers were given, and none besides."""
        if self._timer is not None:
            self._timer.cancel()
        if self._is_known:
            # Where that fails some numbers are skipped.
            self._worker.run(self._counter.write, self.next).add_done_callback(asyncio.Future.exception)
