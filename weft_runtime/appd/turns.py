# SPDX-License-Identifier: Apache-2.0
"""Turns of the event loop: each turn does one piece of work for one client, and clients come in turns.

Each owner gets the same CPU time, however many connections it has and whatever it asks for; the connections of an owner
have its turns one after the other. Who asks for little is served before those who ask for much. Between two turns the
loop looks at every descriptor and every timer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol

CREDIT_S = 0.02
"""Seconds of CPU that whoever has asked for little is served ahead of the others: as much as a few launches take."""

TURN_MIN_S = 0.0001
"""Seconds of CPU that each turn counts at least: the loop's look at everything else, before the turn, takes as long."""

ACCOUNTS_KEPT = 256
"""Owners whose accounts are kept: as many as may have a connection, and few that matter have none just now."""


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
        self._used: dict[Hashable, float] = {}
        """Seconds of CPU that each owner has used, as if all had begun at the same time. An owner without an account has
        its credit."""
        self._now = 0.0
        """The most that an owner had used when it was served: who has used less is served first."""
        self._is_planned = False

    def ask(self, client: Client) -> None:
        """Give `client` a turn behind those that wait already; asking twice changes nothing."""
        if client not in self._queued:
            self._queued.add(client)
            if client.owner not in self._queues:
                self._queues[client.owner] = deque()
                # What it has not used while it asked for nothing is not saved for later.
                self._used[client.owner] = max(self._used.get(client.owner, 0.0), self._now - CREDIT_S)
            self._queues[client.owner].append(client)
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
            # A timer that is due, and so the last thing in the next pass of the loop: who has just been found to have sent
            # something can be the next one.
            asyncio.get_running_loop().call_later(0, self._turn)

    def _turn(self) -> None:
        self._is_planned = False
        if not self._queues:
            return
        owner = min(self._queues, key=self._used.__getitem__)
        self._now = max(self._now, self._used[owner])
        queue = self._queues.pop(owner)
        client = queue.popleft()
        self._queued.discard(client)
        if queue:
            self._queues[owner] = queue  # behind the other owners that have used as much
        # Whatever goes wrong with this client, the others get their turns.
        self._plan()
        begun = time.thread_time()
        try:
            has_more = client.take_turn()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            has_more = False
            self._failed(client, error)
        self._used[owner] += max(time.thread_time() - begun, TURN_MIN_S)
        if has_more:
            self.ask(client)
        if len(self._used) > ACCOUNTS_KEPT:
            self._close_accounts()

    def _close_accounts(self) -> None:
        """Forget what those have used who ask for nothing just now, beginning with the least."""
        idle = sorted(self._used.keys() - self._queues.keys(), key=self._used.__getitem__)
        for owner in idle[: ACCOUNTS_KEPT // 2]:
            del self._used[owner]


class Once:
    """A turn for work that is no client's; it may be cancelled, as a timer may be."""

    def __init__(self, turns: Turns, owner: Hashable, do: Callable[[], object]) -> None:
        """`do` must not raise anything."""
        self.owner = owner
        self._do = do
        self._turns = turns
        turns.ask(self)

    def take_turn(self) -> bool:
        self._do()
        return False

    def cancel(self) -> None:
        """There is nothing to do any more."""
        self._turns.leave(self)
