# SPDX-License-Identifier: Apache-2.0
"""Turns of the event loop: each turn does one piece of work for one client, and clients come in turns.

A client that sends a thousand requests at once is served as often as one that sends a single one. Between two turns the
loop looks at every descriptor and every timer.
"""

import asyncio
from collections import deque
from typing import Protocol


class Client(Protocol):
    """A connection that may have work to be done."""

    def take_turn(self) -> bool:
        """Do one piece of work that takes a few milliseconds at most; whether there is more to do now."""
        ...


class Turns:
    """The clients that have work, in the order of their next turns."""

    def __init__(self) -> None:
        self._queue: deque[Client] = deque()
        self._queued: set[Client] = set()
        self._is_planned = False

    def ask(self, client: Client) -> None:
        """Give `client` a turn behind those that wait already; asking twice changes nothing."""
        if client not in self._queued:
            self._queued.add(client)
            self._queue.append(client)
        self._plan()

    def leave(self, client: Client) -> None:
        """Forget `client`: its connection is closed."""
        if client in self._queued:
            self._queued.discard(client)
            self._queue.remove(client)

    def _plan(self) -> None:
        if not self._is_planned and self._queue:
            self._is_planned = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._is_planned = False
        if not self._queue:
            return
        client = self._queue.popleft()
        self._queued.discard(client)
        try:
            if client.take_turn():
                self.ask(client)
        finally:
            # Whatever went wrong with this client, the others get their turns.
            self._plan()
