# SPDX-License-Identifier: Apache-2.0
"""Launches at a fixed rate, whatever becomes of those before, and how long each takes until its first sign."""

import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple, Protocol

from bench.measure import BenchError, Case

WAIT_S = 120
"""For the next sign of whatever was launched: hundreds of launches may be ahead of it."""

READ_SIZE = 64 * 1024


class Target(Protocol):
    """A way to launch something."""

    name: str
    what: str

    def begin(self) -> int:
        """Launch; a number by which `poll` calls it."""

    def poll(self, seconds: float) -> list[tuple[int, float]]:
        """Wait for something to happen; which launches have given their sign since, and when."""

    @property
    def is_settled(self) -> bool:
        """Whether all that was launched has ended."""


class Burst(NamedTuple):
    """Some launches at one rate."""

    latencies_s: Sequence[float]
    signs: Sequence[float]
    """When each gave its sign, in order."""

    @property
    def held(self) -> float | None:
        """How many a second gave their sign, which is below the rate where that is more than can be done."""
        took = self.signs[-1] - self.signs[0]
        return (len(self.signs) - 1) / took if took > 0 else None


def burst(target: Target, *, rate: float, count: int) -> Burst:
    """Launch `count` times, `rate` times a second, and wait until all have ended.

    A latency begins when the launch is due, not when it happens: a launcher that is late is part of it.
    Raises BenchError.
    """
    begun = time.monotonic()
    due: dict[int, float] = {}
    signs: dict[int, float] = {}
    while len(signs) < count or not target.is_settled:
        next_due = begun + len(due) / rate
        wait = next_due - time.monotonic() if len(due) < count else WAIT_S
        if wait <= 0:
            due[target.begin()] = next_due
        else:
            waited_from = time.monotonic()
            signs.update(target.poll(wait))
            if len(due) == count and time.monotonic() - waited_from >= WAIT_S:
                raise BenchError(f"'{target.name}' has given no sign for {WAIT_S} s")
    return Burst([signs[key] - due[key] for key in due], sorted(signs.values()))


class Spawned:
    """A program started directly; its sign is the first byte of its output."""

    def __init__(self, case: Case) -> None:
        self.name = case.name
        self.what = case.what
        self._case = case
        self._pids: dict[int, int] = {}
        self._spoken: set[int] = set()
        self.cpu_s = 0.0
        """Of all that have ended."""

    def begin(self) -> int:
        reading, writing = os.pipe()
        with closing(os.fdopen(writing, "wb")):
            self._pids[reading] = os.posix_spawn(
                self._case.argv[0],
                self._case.argv,
                self._case.env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, writing, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
            )
        return self._pids[reading]

    def poll(self, seconds: float) -> list[tuple[int, float]]:
        readable, _, _ = select.select(list(self._pids), [], [], seconds)
        return list(self._read(readable))

    def _read(self, readable: Sequence[int]) -> Iterator[tuple[int, float]]:
        for fd in readable:
            pid = self._pids[fd]
            if os.read(fd, READ_SIZE):
                if pid not in self._spoken:
                    self._spoken.add(pid)
                    yield pid, time.monotonic()
            else:
                self._reap(fd, pid)

    def _reap(self, fd: int, pid: int) -> None:
        os.close(fd)
        del self._pids[fd]
        _, code, usage = os.wait4(pid, 0)
        self.cpu_s += usage.ru_utime + usage.ru_stime
        status = os.waitstatus_to_exitcode(code)
        if status != 0 or pid not in self._spoken:
            raise BenchError(f"'{self.name}' ended with status {status}: {' '.join(self._case.argv)}")
        self._spoken.remove(pid)

    @property
    def is_settled(self) -> bool:
        return not self._pids
