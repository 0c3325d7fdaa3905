# SPDX-License-Identifier: Apache-2.0
"""Answers that take long to make: made in slices, so that everybody else is served in between."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterator
from typing import Any, Generic, TypeVar

from weft_runtime.protocol import Response

SLICE_S = 0.0005
"""Seconds of work on one answer before others get their turns: as long as an ordinary request takes. Each step of
somebody's launch may have to wait for that long."""

AT_ONCE = 4
"""Answers that are made at a time for one owner: each holds thousands of objects, which Python's garbage collector looks
at in one go, until they are encoded."""

Steps = Generator["asyncio.Future[Any] | None", None, Response | None]
"""What has to be done for an answer. It yields often: None where it may be interrupted, or what it has to wait for. It
returns the answer, or None where that has been sent already."""

T = TypeVar("T", bytes, str)


class LongAnswer(Generic[T]):
    """One answer that is being made, from its steps to the pieces of its encoding."""

    def __init__(self, steps: Steps, encode: Callable[[Response], Iterator[T]], snapshot: int = 0) -> None:
        """`encode` gives the answer in pieces, each made in less than a slice. What it is made from takes `snapshot` bytes."""
        self.pieces: list[T] = []
        """What is encoded: all of the answer, once `go_on` says so."""
        self.size = 0
        """The length of `pieces`."""
        self.snapshot = snapshot
        self.waits_for: asyncio.Future[Any] | None = None
        """What has to be done before it can go on."""
        self._work: Iterator[asyncio.Future[Any] | T | None] = _make(steps, encode)

    def go_on(self) -> bool:
        """Work for one slice at most; whether the answer is complete. Raises what its steps raise."""
        if self.waits_for is not None and not self.waits_for.done():
            return False  # its connection got a turn for another reason
        self.waits_for = None
        end = time.monotonic() + SLICE_S
        for made in self._work:
            if isinstance(made, asyncio.Future):
                self.waits_for = made
                return False
            if made is not None:
                self.pieces.append(made)
                self.size += len(made)
            if time.monotonic() >= end:
                return False
        return True


def _make(
    steps: Steps, encode: Callable[[Response], Iterator[T]]
) -> "Iterator[asyncio.Future[Any] | T | None]":
    # No method: one would hold its LongAnswer, and what is dropped would keep its place until the garbage collector comes.
    message = yield from steps
    if message is not None:
        yield from encode(message)


class Places:
    """Lets no owner have more than AT_ONCE answers made at a time; the others wait."""

    def __init__(self) -> None:
        self._taken: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def when_free(self, owner: Hashable, steps: Steps) -> Steps:
        """The same as `steps`, once there is a place."""
        if self._taken[owner] < AT_ONCE:
            self._taken[owner] += 1
        else:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            queue = self._waiting.setdefault(owner, deque())
            queue.append(place)
            try:
                yield place
            except GeneratorExit:  # its client is gone
                if place.done():
                    self._leave(owner)
                else:
                    queue.remove(place)
                raise
        try:
            return (yield from steps)
        finally:
            self._leave(owner)

    def _leave(self, owner: Hashable) -> None:
        if queue := self._waiting.get(owner):
            queue.popleft().set_result(None)  # the place goes to the next one
            return
        self._waiting.pop(owner, None)
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
