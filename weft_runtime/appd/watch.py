# SPDX-License-Identifier: Apache-2.0
"""The descriptors of sessions and of what waits for one: watched by an epoll(7) of their own, below that of the event loop.

A session begins with four of them and ends with four, and for each the event loop takes ten times as long as this.
"""

import asyncio
import contextlib
import select
import time
from collections import deque
from collections.abc import Callable

SLICE_S = 0.0005
"""Seconds of work in one callback of the loop, until others get their turns: as long as an ordinary request takes."""

_EVENTS_MAX = 64
"""Descriptors that the kernel is asked for at a time."""


class Watch:
    """Calls a function for each descriptor that can be read, as long as it can."""

    def __init__(self) -> None:
        """To be made in the event loop."""
        self._epoll = select.epoll()
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._readable)
        self._functions: dict[int, Callable[[], object]] = {}
        self._found: deque[int] = deque()
        """Those that could be read, and whose functions were not called yet."""

    def add(self, fd: int, function: Callable[[], object]) -> None:
        """From now on call `function`, which must not wait, when `fd` can be read or has no other end any more."""
        if fd not in self._functions:
            self._epoll.register(fd, select.EPOLLIN)
        self._functions[fd] = function

    def remove(self, fd: int) -> None:
        """Look at `fd` no more, from this moment on; to be called before it is closed."""
        if self._functions.pop(fd, None) is None:
            return
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)
        # Another descriptor may get the number before its turn comes.
        with contextlib.suppress(ValueError):
            self._found.remove(fd)

    def _readable(self) -> None:
        end = time.monotonic() + SLICE_S
        if not self._found:
            self._found.extend([fd for fd, _ in self._epoll.poll(0, _EVENTS_MAX)])
        # Whatever a function raises, those behind it are called the next time.
        while self._found:
            self._functions[self._found.popleft()]()
            if time.monotonic() >= end:
                break
