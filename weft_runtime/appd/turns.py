# SPDX-License-Identifier: Apache-2.0
"""Turns of the event loop: each turn does one piece of work for one client, and clients come in turns.

A client that sends a thousand requests at once is served as often as one that sends a single one, and a user with
sixty connections as often as one with a single one. Between two turns the loop looks at every descriptor and every timer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol


class Client(Protocol):
    """A connection that may have work to be done."""

    @property
    def owner(self) -> Hashable:
        """Who shares the turns of one: the user at the other end, as far as that is known."""
        ...

    def take_turn(self) -> bool:
        """Do one piece of work that takes a few milliseconds at most; whether there is more to do now."""
        ...


class Turns:
    """The clients that have work, in the order of their next turns."""

    def __init__(self, failed: Callable[[Client, BaseException], None]) -> None:
        """`failed` is told of a turn that raised an exception."""
        self._failed = failed
        self._queues: dict[Hashable, deque[Client]] = {}
        """By owner, the one whose turn is next first; no queue is empty."""
        self._queued: set[Client] = set()
        self._is_planned = False

    def ask(self, client: Client) -> None:
        """Give `client` a turn behind those that wait already; asking twice changes nothing."""
        if client not in self._queued:
            self._queued.add(client)
            self._queues.setdefault(client.owner, deque()).append(client)
        self._plan()

    def leave(self, client: Client) -> None:
        """Forget `client`: its connection is closed."""
        if client in self._queued:
            self._queued.discard(client)
            queue = self._queues[client.owner]
            queue.remove(client)
            if not queue:
                del self._queues[client.owner]

    def _plan(self) -> None:
        if not self._is_planned and self._queues:
            self._is_planned = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._is_planned = False
        if not self._queues:
            return
        owner = next(iter(self._queues))
        queue = self._queues.pop(owner)
        client = queue.popleft()
        self._queued.discard(client)
        if queue:
            self._queues[owner] = queue  # behind the other owners
        # Whatever goes wrong with this client, the others get their turns.
        self._plan()
        try:
            if client.take_turn():
                self.ask(client)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._failed(client, error)
