# SPDX-License-Identifier: Apache-2.0
"""Users by name where the names come from somewhere slow, as from a directory on the network."""

import os
import sys
import time
from pathlib import Path

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import CALLER, SLACK_SECONDS, Appd, eventually
from weft_runtime.appd.names import PATIENCE_S
from weft_runtime.protocol import QueryRunning, RunningApps

RUNNING = "say(b'READY\\n'); until('end')"

# The daemon on a system where a name comes once a file is there.
DRIVER = """
import os, pwd, sys, time
import weft_runtime.appd.main
look_up = pwd.getpwuid
def wait_and_look_up(uid):
    open({asked!r}, "w").close()
    while not os.path.exists({flag!r}):
        time.sleep(0.01)
    return look_up(uid)
pwd.getpwuid = wait_and_look_up
sys.argv[0] = "weft-appd"
sys.exit(weft_runtime.appd.main.main())
"""

NUMBER = f"uid {os.geteuid()} pid {os.getpid()}"


@pytest.fixture
def slow(make: Make) -> Appd:
    appd = make()
    code = DRIVER.format(flag=os.fspath(flag(appd)), asked=os.fspath(asked(appd)))
    appd.program = (sys.executable, "-c", code)
    return appd


def flag(appd: Appd) -> Path:
    return appd.directory / "answer"


def asked(appd: Appd) -> Path:
    return appd.directory / "asked"


def test_a_name_that_does_not_come_costs_a_second_and_only_the_name(slow: Appd) -> None:
    slow.start()
    slow.install(RUNNING)
    begun = time.monotonic()
    first = slow.launch()
    took = time.monotonic() - begun
    assert asked(slow).exists()
    assert PATIENCE_S - 0.1 <= took < PATIENCE_S + SLACK_SECONDS
    slow.find(f"info: launched by {NUMBER}, ", first)
    # Nobody waits twice for it, and nobody else does.
    begun = time.monotonic()
    second = slow.launch()
    assert slow.connect().ask(QueryRunning()) != RunningApps(())
    assert time.monotonic() - begun < PATIENCE_S
    slow.find(f"info: launched by {NUMBER}, ", second)


def test_a_name_that_comes_later_is_used_from_then_on(slow: Appd) -> None:
    slow.start()
    slow.install(RUNNING)
    slow.find(f"info: launched by {NUMBER}, ", slow.launch())
    flag(slow).touch()
    sessions = []

    def is_named() -> bool:
        sessions.append(slow.launch())
        slow.until_logged("info: launched by ", sessions[-1])
        return slow.has(f"info: launched by {CALLER}, ", sessions[-1])

    eventually(is_named, "the name has come")


def test_a_name_that_comes_in_time_is_there_from_the_first_request_on(slow: Appd) -> None:
    flag(slow).touch()
    slow.start()
    slow.install(RUNNING)
    slow.find(f"info: launched by {CALLER}, ", slow.launch())
