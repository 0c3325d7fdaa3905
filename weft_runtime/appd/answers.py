# SPDX-License-Identifier: Apache-2.0
"""Answers that take long to make: made in slices, so that everybody else is served in between."""

import asyncio
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

from weft_runtime.protocol import Response

SLICE_S = 0.002
"""Seconds of work on one answer before others get their turns: as long as an ordinary request takes."""

Steps = Generator["asyncio.Future[Any] | None", None, Response | None]
"""What has to be done for an answer. It yields often: None where it may be interrupted, or what it has to wait for. It
returns the answer, or None where that has been sent already."""

T = TypeVar("T", bytes, str)


class LongAnswer(Generic[T]):
    """One answer that is being made, from its steps to the pieces of its encoding."""

    def __init__(self, steps: Steps, encode: Callable[[Response], Iterator[T]]) -> None:
        """`encode` gives the answer in pieces, each made in less than a slice."""
        self.pieces: list[T] = []
        """What is encoded: all of the answer, once `go_on` says so."""
        self.size = 0
        """The length of `pieces`."""
        self.waits_for: asyncio.Future[Any] | None = None
        """What has to be done before it can go on."""
        self._work = self._make(steps, encode)

    def go_on(self) -> bool:
        """Work for one slice at most; whether the answer is complete. Raises what its steps raise."""
        self.waits_for = None
        end = time.monotonic() + SLICE_S
        for waits_for in self._work:
            if waits_for is not None or time.monotonic() >= end:
                self.waits_for = waits_for
                return False
        return True

    def _make(
        self, steps: Steps, encode: Callable[[Response], Iterator[T]]
    ) -> Iterator["asyncio.Future[Any] | None"]:
        message = yield from steps
        if message is not None:
            for piece in encode(message):
                self.pieces.append(piece)
                self.size += len(piece)
                yield None
