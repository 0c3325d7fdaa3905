# SPDX-License-Identifier: Apache-2.0
"""Who may connect to the control socket: no user takes all places, and whoever can mend that always has one."""

import os
import resource
from collections import Counter

SHARE = 4
"""A user may have one in so many of all places: root and the daemon's own user may have all."""

PLACES_KEPT = 8
"""Places that are kept for root, and as many for the daemon's own user, beyond `max_connections`: for a reload, and for
the tools of a few people who look for what is wrong."""

DESCRIPTORS_KEPT = 64
"""Descriptors that no connection gets, but for the places that are kept: a launch needs a dozen for a moment, and each
session 4."""


class Admission:
    """Counts connections by the user at the other end."""

    def __init__(self, maximum: int) -> None:
        """`maximum` is the setting `max_connections`."""
        self._maximum = maximum
        self._share = max(1, maximum // SHARE)
        self._privileged = frozenset({0, os.geteuid()})
        self._counts: Counter[int] = Counter()

    def refusal(self, uid: int, fd: int) -> str | None:
        """Why `uid` may not have the connection with the descriptor `fd`; None if it may."""
        count, is_privileged = self._counts[uid], uid in self._privileged
        if is_privileged and count < PLACES_KEPT:
            return None
        if count >= self._share and not is_privileged:
            return f"user {uid} has {count} of them, as many as one user may have"
        if self._counts.total() >= self._maximum:
            return f"there are {self._counts.total()}, the setting max_connections allows no more"
        if is_kept_back(fd):
            return "the rest of the daemon's descriptors is for launches"
        return None

    def enter(self, uid: int) -> None:
        """One connection more."""
        self._counts[uid] += 1

    def leave(self, uid: int) -> None:
        """One connection less."""
        self._counts[uid] -= 1
        if not self._counts[uid]:
            del self._counts[uid]


def is_kept_back(fd: int) -> bool:
    """Whether a new descriptor, which has the lowest number that was free, is one of the last that there are."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit != resource.RLIM_INFINITY and fd >= limit - DESCRIPTORS_KEPT
