# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.appd.loopwatch: what it takes for a fault, and what not."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from weft_runtime.appd import loopwatch
from weft_runtime.appd.loopwatch import VARIABLE, LoopWatch, open_watch


def busy() -> None:
    end = time.thread_time() + 2 * loopwatch.CPU_MAX_S
    while time.thread_time() < end:
        pass


def blocked() -> None:
    time.sleep(0.05)


async def task() -> None:
    busy()


def found(what: Callable[[], object], *, ends_first: bool = False) -> list[tuple[str, bool]]:
    """What a watch reports of a callback that does `what`."""
    reports: list[tuple[str, bool]] = []

    async def run() -> None:
        watch = LoopWatch(lambda text, is_fault: reports.append((text, is_fault)))
        watch.begin()
        watch.begin()
        if ends_first:
            watch.end()
        asyncio.get_running_loop().call_soon(what)
        await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        watch.end()

    before = asyncio.Handle._run
    asyncio.run(run())
    assert asyncio.Handle._run is before
    return reports


def faults(what: Callable[[], object]) -> list[str]:
    return [text for text, is_fault in found(what) if is_fault]


def test_a_callback_that_is_busy_is_a_fault_and_named() -> None:
    (text,) = faults(busy)
    assert "<function busy at " in text
    assert " ms of CPU, " in text


def test_a_step_of_a_task_is_named_by_its_coroutine() -> None:
    (text,) = faults(lambda: asyncio.get_running_loop().create_task(task()))
    assert text.startswith("a step of the task <coroutine object task at ")


def test_one_that_is_blocked_for_long_is_a_fault_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(blocked) == []
    monkeypatch.setattr(loopwatch, "_WALL_NOTED_S", 0.01)
    (text, is_fault), *_ = (report for report in found(blocked) if "<function blocked at " in report[0])
    assert not is_fault
    assert " voluntary and " in text
    monkeypatch.setattr(loopwatch, "WALL_MAX_S", 0.04)
    assert any("<function blocked at " in text for text in faults(blocked))


def test_who_waits_for_a_cpu_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a process that takes half of the only CPU."""
    monkeypatch.setattr(loopwatch, "CPU_MAX_S", 10.0)
    monkeypatch.setattr(loopwatch, "_WALL_NOTED_S", 0.05)
    monkeypatch.setattr(loopwatch, "WALL_MAX_S", 0.05)

    def works() -> None:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass

    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with subprocess.Popen([sys.executable, "-IS", "-c", "while True: pass"]) as other:
            reports = [report for report in found(works) if "<locals>.works at " in report[0]]
            other.kill()
    finally:
        os.sched_setaffinity(0, before)
    ((text, is_fault),) = reports
    assert not is_fault, text


def test_nothing_is_said_of_what_is_quick_or_not_watched() -> None:
    assert faults(lambda: None) == []
    assert found(busy, ends_first=True) == []
    assert open_watch({}, lambda *_: None) is None
    assert open_watch({VARIABLE: "0"}, lambda *_: None) is None
    assert isinstance(open_watch({VARIABLE: "1"}, lambda *_: None), LoopWatch)
