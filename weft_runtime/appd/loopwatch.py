# SPDX-License-Identifier: Apache-2.0
"""For development: says which callback of the event loop has kept everybody else waiting.

With WEFT_LOOP_WATCH=1 in the daemon's environment each one that takes too long is logged as an error, which fails the
tests of the daemon. What a busy machine adds is no fault of the callback, so the measure is the CPU time of its thread;
and of what else the clock says, the time in which the thread could run and had no CPU does not count
(/proc/thread-self/schedstat, Documentation/scheduler/sched-stats.rst of Linux).
"""

import asyncio
import os
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

from weft_runtime.escape import printable

VARIABLE = "WEFT_LOOP_WATCH"

CPU_MAX_S = 0.02
"""Seconds of CPU for one callback: several times what any should take, since caches and page faults are not its own."""

WALL_MAX_S = 1.0
"""Seconds by the clock in which it has waited for something, and not for a CPU."""

_WALL_NOTED_S = 0.2
"""Seconds by the clock after which it is worth a line, if they were not CPU time."""

Report = Callable[[str, bool], None]
"""Takes what was found, and whether it is a fault."""


class LoopWatch:
    """Measures all callbacks of this process from `begin` to `end`."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._run: Callable[[asyncio.Handle], None] = asyncio.Handle._run
        self._is_on = False
        self._schedstat: int | None = None

    def begin(self) -> None:
        """The daemon serves."""
        if self._is_on:
            return
        self._is_on = True
        self._schedstat = _open_schedstat()
        watch = self

        def run(handle: asyncio.Handle) -> None:
            watch._measure(handle)

        asyncio.Handle._run = run  # type: ignore[assignment,method-assign]

    def end(self) -> None:
        """It shuts down, or goes on as the next process image."""
        self._is_on = False
        if self._schedstat is not None:
            os.close(self._schedstat)
            self._schedstat = None
        asyncio.Handle._run = self._run  # type: ignore[assignment,method-assign]

    def _measure(self, handle: asyncio.Handle) -> None:
        what = _name(handle)  # before it is run: a task may be over then
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        delay = self._cpu_delay()
        wall, cpu = time.monotonic(), time.thread_time()
        self._run(handle)
        cpu, wall = time.thread_time() - cpu, time.monotonic() - wall
        if not self._is_on or (cpu <= CPU_MAX_S and wall - cpu <= _WALL_NOTED_S):
            return
        delay = self._cpu_delay() - delay
        now = resource.getrusage(resource.RUSAGE_THREAD)
        text = (
            f"{what()} {'took' if cpu > CPU_MAX_S else 'was held up:'} {cpu * 1000:.1f} ms of CPU, {wall * 1000:.0f} ms in all,"
            f" {delay * 1000:.0f} of them without a CPU:"
            f" {now.ru_nvcsw - usage.ru_nvcsw} voluntary and {now.ru_nivcsw - usage.ru_nivcsw} other context switches,"
            f" {now.ru_minflt - usage.ru_minflt} page faults"
        )
        self._report(printable(text), cpu > CPU_MAX_S or wall - cpu - delay > WALL_MAX_S)

    def _cpu_delay(self) -> float:
        """Seconds in which this thread could run and did not, so far; 0 where the kernel does not say."""
        if self._schedstat is None:
            return 0.0
        return int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9


def open_watch(environ: Mapping[str, str], report: Report) -> LoopWatch | None:
    """The watch, if the environment asks for it."""
    return LoopWatch(report) if environ.get(VARIABLE) == "1" else None


def _open_schedstat() -> int | None:
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _name(handle: asyncio.Handle) -> Callable[[], str]:
    """How to say what a handle is to do; made only when it is wanted."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return lambda: f"a step of the task {owner.get_coro()!r}"
    return lambda: f"the callback {callback!r}"
