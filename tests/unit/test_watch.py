# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.appd.watch."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from weft_runtime.appd.watch import Watch


@contextmanager
def pipes(count: int) -> Iterator[list[tuple[int, int]]]:
    """Pipes that have something to be read, each the ends to read from and to write to."""
    found = [os.pipe() for _ in range(count)]
    try:
        for _, target in found:
            os.write(target, b"x")
        yield found
    finally:
        for ends in found:
            for fd in ends:
                os.close(fd)


async def passes(count: int = 10) -> None:
    """Let the event loop look at its descriptors so many times."""
    for _ in range(count):
        await asyncio.sleep(0.001)


def test_each_that_can_be_read_is_told_until_it_is_read() -> None:
    async def course() -> None:
        watch, told = Watch(), list[int]()

        def read(fd: int) -> None:
            told.append(fd)
            if told.count(fd) == 2:
                os.read(fd, 1)

        with pipes(100) as found:
            for source, _ in found:
                watch.add(source, partial(read, source))
            await passes(300)
            assert sorted(told) == sorted([source for source, _ in found] * 2)
            for source, _ in found:
                watch.remove(source)

    asyncio.run(course())


def test_what_is_removed_is_not_told_though_it_was_found() -> None:
    async def course() -> None:
        watch, told = Watch(), list[int]()

        def remove_all(fd: int, sources: list[int]) -> None:
            told.append(fd)
            for source in sources:
                watch.remove(source)
            # The number of another one from now on, which has nothing to be read.
            os.read(sources[-1] if fd != sources[-1] else sources[0], 1)
            for source in sources:
                if source != fd:
                    watch.add(source, partial(told.append, -source))

        with pipes(2) as found:
            sources = [source for source, _ in found]
            for source in sources:
                watch.add(source, partial(remove_all, source, sources))
            await passes()
            assert len(told) == 1
            for source in sources:
                watch.remove(source)

    asyncio.run(course())


def test_a_fault_of_one_keeps_no_other_from_being_told() -> None:
    async def course() -> None:
        watch, told, faults = Watch(), set[int](), list[dict[str, object]]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))

        def fail(fd: int) -> None:
            os.read(fd, 1)
            raise ValueError("odd")

        with pipes(9) as found:
            functions: list[Callable[[int], None]] = [fail, told.add, fail]
            for place, (source, _) in enumerate(found):
                watch.add(source, partial(functions[place % 3], source))
            await passes()
            assert told == {source for place, (source, _) in enumerate(found) if place % 3 == 1}
            assert len(faults) == 6
            for source, _ in found:
                watch.remove(source)

    asyncio.run(course())
