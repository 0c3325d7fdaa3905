# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of the daemon, each of which must leave nothing behind."""

import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.appd.harness import Appd, kill_orphans

_PR_SET_CHILD_SUBREAPER = 36


class Make(Protocol):
    """Makes a place for a daemon; `settings` are variables of its environment."""

    def __call__(self, **settings: str) -> Appd: ...


@pytest.fixture(autouse=True)
def _orphans_come_to_us() -> Iterator[None]:
    """Whatever a daemon leaves behind becomes a child of this process, and so is found."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    alive = kill_orphans()
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    assert not alive, "processes outlived their daemon"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A factory of places for daemons, none of which runs yet."""
    numbers = itertools.count()
    made: list[Appd] = []

    def make(**settings: str) -> Appd:
        appd = Appd(tmp_path / f"appd{next(numbers)}", settings)
        made.append(appd)
        return appd

    yield make
    _close(made)


@pytest.fixture
def start(make: Make) -> Make:
    """A factory of daemons that run."""

    def start(**settings: str) -> Appd:
        appd = make(**settings)
        appd.start()
        return appd

    return start


@pytest.fixture
def appd(start: Make) -> Appd:
    """A daemon that runs, with the fake runtime and an empty store."""
    return start()


def _close(made: list[Appd]) -> None:
    """Close all of them, even if one complains."""
    failures = []
    for appd in made:
        try:
            if hasattr(appd, "process"):
                appd.close()
        except AssertionError as error:
            failures.append(error)
    if failures:
        raise failures[0]
