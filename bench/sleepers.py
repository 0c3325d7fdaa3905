# SPDX-License-Identifier: Apache-2.0
"""Sessions that sleep, and processes of the `wasmtime` command that do: what they cost while they are there."""

import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from bench import process
from bench.appd import Daemon, Launched
from bench.measure import BenchError, Case
from bench.openloop import burst
from bench.process import Memory
from weft_runtime.client import DaemonClient
from weft_runtime.protocol import QuerySessions, Sessions, State

ASK_S = 60
AT_ONCE = 4
"""Launches in flight: more would only wait for a CPU."""

NO_PAUSE = 1_000_000
"""Launches a second."""

SETTLE_S = 0.5
"""From the last READY, or the last line, until all are asleep."""


def fill(daemon: Daemon, app_id: str, count: int) -> None:
    """Launch an app that stays until `count` sessions live."""
    sleeper = Launched("sleeper", "", daemon, app_id, stays=True)
    while (missing := count - daemon.client.in_flight) > 0:
        burst(sleeper, rate=NO_PAUSE, count=min(AT_ONCE, missing))


def sessions(daemon: Daemon) -> tuple[Memory | None, Mapping[str, int]]:
    """The mean of the sessions' processes, if there are any; and KiB of PSS of the daemon and what else it has running."""
    with DaemonClient(daemon.socket, timeout=ASK_S) as client:
        answer = client.ask(QuerySessions())
    assert isinstance(answer, Sessions)
    time.sleep(SETTLE_S)
    pids = {it.pid for it in answer.sessions if it.state is State.RUNNING and it.pid is not None}
    rest = {"weft-appd": process.memory(daemon.pid).pss_kib}
    for pid in set(process.children(daemon.pid)) - pids:
        name = "processes that wait for a session" if process.is_spare(pid) else "the fork server"
        rest[name] = rest.get(name, 0) + process.memory(pid).pss_kib
    return mean(map(process.memory, pids)) if pids else None, rest


def processes(case: Case, count: int) -> Memory:
    """The mean of that many of the same program, all there at once, each of which has written its line."""
    with ExitStack() as running:
        started = []
        for _ in range(count):
            child = subprocess.Popen(
                case.argv, env=case.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            running.enter_context(child)
            running.callback(child.kill)
            started.append(child)
        for child in started:
            assert child.stdout is not None
            if not child.stdout.readline():
                raise BenchError(f"'{case.name}' ended: {' '.join(case.argv)}")
        time.sleep(SETTLE_S)
        return mean(process.memory(child.pid) for child in started)


def mean(memories: Iterable[Memory]) -> Memory:
    return Memory(*(round(statistics.mean(values)) for values in zip(*memories, strict=True)))


def own_kib(daemon: Daemon) -> int:
    return process.memory(daemon.pid).own_kib


def idle_cost(pid: int, seconds: float) -> tuple[float, int]:
    """CPU seconds and wake-ups of a process while nobody wants anything of it."""
    cpu, wake_ups = process.cpu_s(pid), process.wake_ups(pid)
    time.sleep(seconds)
    return process.cpu_s(pid) - cpu, process.wake_ups(pid) - wake_ups
