# SPDX-License-Identifier: Apache-2.0
"""The names of the users who ask for something: looked up beside the loop, and remembered."""

import asyncio
from collections.abc import Callable

from weft_runtime import users
from weft_runtime.appd.tasks import Worker

PATIENCE_S = 1.0
"""Seconds that a user's first connection waits for the name: a directory on the network may not answer."""

NAMES_MAX = 1024
"""Users that are remembered: more than a device has, and it bounds what is kept."""


class Names:
    """Users by name and number, or by the number alone where the name is not known in time."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}
        self._worker = Worker("weft-names")
        self._waiting: dict[int, list[Callable[[], None]]] = {}

    def shown(self, uid: int) -> str:
        """What is known by now."""
        return self._known.get(uid, f"uid {uid}")

    def is_known(self, uid: int, then: Callable[[], None]) -> bool:
        """Whether nobody need wait; else `then` is called once that is so, within PATIENCE_S."""
        if uid in self._known:
            return True
        if uid in self._waiting:
            self._waiting[uid].append(then)
            return False
        self._waiting[uid] = [then]
        self._worker.run(users.named, uid).add_done_callback(lambda found: self._found(uid, found))
        asyncio.get_running_loop().call_later(PATIENCE_S, self._wait_no_more, uid)
        return False

    def _found(self, uid: int, found: "asyncio.Future[str]") -> None:
        name = None if found.cancelled() or found.exception() is not None else found.result()
        self._remember(uid, name or f"uid {uid}")
        self._go_on(uid)

    def _wait_no_more(self, uid: int) -> None:
        if uid in self._waiting:
            self._remember(uid, f"uid {uid}")  # until the answer comes
            self._go_on(uid)

    def _remember(self, uid: int, name: str) -> None:
        if len(self._known) >= NAMES_MAX:
            self._known.clear()
        self._known[uid] = name

    def _go_on(self, uid: int) -> None:
        for then in self._waiting.pop(uid, []):
            then()
