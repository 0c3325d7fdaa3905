# SPDX-License-Identifier: Apache-2.0
"""How many launches a second are done, from the request to the end, with several in flight."""

import os
import time

from bench.appd import Client
from bench.measure import BenchError, Case

WAIT_S = 60


def launches_per_s(what: tuple[Client, str] | Case, at_once: int, seconds: float) -> float:
    """Launch for some seconds, `at_once` at a time, by a daemon or by the loop that a small spawner would have."""
    begun = time.monotonic()
    count = (
        spawn(what, at_once, begun + seconds)
        if isinstance(what, Case)
        else launch(*what, at_once, begun + seconds)
    )
    return count / (time.monotonic() - begun)


def launch(client: Client, app_id: str, at_once: int, until: float) -> int:
    count, others = 0, client.in_flight
    while True:
        while client.in_flight - others < at_once and time.monotonic() < until:
            client.launch(app_id)
            count += 1
        if client.in_flight == others:
            return count
        client.poll(WAIT_S)


def spawn(case: Case, at_once: int, until: float) -> int:
    actions = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    count, running = 0, set[int]()
    while True:
        while len(running) < at_once and time.monotonic() < until:
            running.add(os.posix_spawn(case.argv[0], case.argv, case.env, file_actions=actions))
            count += 1
        if not running:
            return count
        # Whatever else this process has started ends when it is asked to, not here.
        pid, status = os.waitpid(-1, 0)
        running.remove(pid)
        if status:
            raise BenchError(f"'{case.name}' ended with status {os.waitstatus_to_exitcode(status)}")
