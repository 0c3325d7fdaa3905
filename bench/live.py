# SPDX-License-Identifier: Apache-2.0
"""Many sessions at a time: what they cost the daemon while they sleep, and what they cost the next launch."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import wasmtime

from bench import app, machine, process
from bench.appd import CHEAP_RUNTIME, Appd, Launched
from bench.journal import Journal
from bench.measure import Spread, ratio, rotated
from bench.openloop import burst
from bench.process import Memory
from bench.rates import CHEAP_APP, NO_MODULE
from bench.report import MILLI, table, times

SESSIONS = 500
QUICK_SESSIONS = 3
AT_ONCE = 4
NO_PAUSE = 1_000_000
"""Launches a second."""

LAUNCHES = 3
"""In each round, one after the other."""

IDLE_S = 10
QUICK_IDLE_S = 0.5

SAMPLE = 20
"""Sessions whose own memory is looked at."""

SLEEPER = "bench.live.sleeper"

# poll_oneoff(2) of the preview: one subscription, 0 to the clock 1, in a day's nanoseconds.
SLEEPS = b"""
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 86400000000000))
    (if (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)) (then (unreachable)))))
"""


class Kind(NamedTuple):
    """An app in both daemons: the one with few sessions, and the one with many."""

    name: str
    what: str
    few: Launched
    many: Launched


class Latency(NamedTuple):
    """READY of one app, launched one at a time."""

    name: str
    what: str
    alone_s: Spread
    """By a daemon with one other session, before there are more on this machine."""
    few_s: Spread
    """By the same, when another daemon has many."""
    many_s: Spread
    """By that one."""
    many_to_few: Spread
    """Round by round."""


class LiveCost(NamedTuple):
    """All of it."""

    rounds: int
    journal: str
    sessions: int
    before: Memory
    """The daemon, without a session."""
    after: Memory
    """The same with all."""
    session: Memory
    """The process of one session; median of some."""
    idle_s: float
    idle_cpu_s: float
    """The daemon's."""
    idle_wake_ups: int
    latencies: Sequence[Latency]

    @property
    def daemon_kib(self) -> float:
        """The daemon's own memory for each session."""
        return (self.after.own_kib - self.before.own_kib) / self.sessions


def run(journal: Journal | None, scratch: Path, *, rounds: int, quick: bool) -> LiveCost:
    hello = app.install_example(scratch)
    store = hello.module.parents[1]
    app.install_module(scratch, CHEAP_APP, NO_MODULE)
    app.install_module(scratch, SLEEPER, bytes(wasmtime.wat2wasm(SLEEPS)))
    count = QUICK_SESSIONS if quick else SESSIONS
    idle_s = QUICK_IDLE_S if quick else IDLE_S
    runtime = both_runtimes(scratch)
    with ExitStack() as running:
        few, many = (
            running.enter_context(Appd(scratch / f"live-{name}", store, runtime, journal))
            for name in ("few", "many")
        )
        kinds = [
            Kind(name, what, *(Launched(name, what, appd, app_id) for appd in (few, many)))
            for name, what, app_id in (
                ("hello", "weft-runtime-wasmtime, examples/hello", hello.id),
                ("sh", "a shell script that says READY", CHEAP_APP),
            )
        ]
        for kind in kinds:  # what is imported late is
            ready_s(kind.few)
            ready_s(kind.many)
        fill(few, 1)
        alone = {kind.name: [ready_s(kind.few) for _ in range(rounds)] for kind in kinds}
        before = process.memory(many.pid)
        fill(many, count)
        idle_cpu_s, idle_wake_ups = idle_cost(many.pid, idle_s)
        after = process.memory(many.pid)
        latencies = [latency(kind, alone[kind.name], rounds) for kind in kinds]
        session = session_memory(many)
    return LiveCost(
        rounds=rounds,
        journal="none" if journal is None else journal.what,
        sessions=count,
        before=before,
        after=after,
        session=session,
        idle_s=idle_s,
        idle_cpu_s=idle_cpu_s,
        idle_wake_ups=idle_wake_ups,
        latencies=latencies,
    )


def latency(kind: Kind, alone: Sequence[float], rounds: int) -> Latency:
    """Launch by both daemons in turns."""
    took: list[list[float]] = [[], []]
    for number in range(rounds):
        for which in rotated([0, 1], number):
            took[which].append(ready_s((kind.few, kind.many)[which]))
    few, many = took
    return Latency(
        name=kind.name,
        what=kind.what,
        alone_s=Spread.of(alone),
        few_s=Spread.of(few),
        many_s=Spread.of(many),
        many_to_few=ratio(many, few),
    )


def both_runtimes(scratch: Path) -> Path:
    """The cheap runtime, which hands on to the real one what it does not know."""
    link = scratch / CHEAP_RUNTIME.name
    link.symlink_to(CHEAP_RUNTIME)
    link.with_name(f"{link.name}.real").symlink_to(machine.runtime_command())
    return link


def ready_s(target: Launched) -> float:
    """READY latency of a launch when nobody else launches; median of some."""
    return statistics.median(
        latency for _ in range(LAUNCHES) for latency in burst(target, rate=1, count=1).latencies_s
    )


def fill(appd: Appd, count: int) -> None:
    """Launch `count` sleepers, some at a time: more would only wait for a CPU."""
    sleeper = Launched("sleeper", "", appd, SLEEPER, stays=True)
    for start in range(0, count, AT_ONCE):
        burst(sleeper, rate=NO_PAUSE, count=min(AT_ONCE, count - start))


def idle_cost(pid: int, seconds: float) -> tuple[float, int]:
    """CPU seconds and wake-ups of a process while nobody wants anything of it."""
    cpu, wake_ups = process.cpu_s(pid), process.wake_ups(pid)
    time.sleep(seconds)
    return process.cpu_s(pid) - cpu, process.wake_ups(pid) - wake_ups


def session_memory(appd: Appd) -> Memory:
    found = [process.memory(pid) for pid in process.children(appd.pid)[:SAMPLE]]
    return Memory(*(round(statistics.median(values)) for values in zip(*found, strict=True)))


def show(result: LiveCost) -> str:
    memories = (("daemon, no session", result.before), (f"daemon, {result.sessions} sessions", result.after),
                ("one session", result.session))  # fmt: skip
    latencies = [
        (
            it.name,
            *(f"{spread.median * MILLI:.1f}" for spread in (it.alone_s, it.few_s, it.many_s)),
            *times(it.many_to_few),
        )
        for it in result.latencies
    ]
    idle = (
        f"The daemon in {result.idle_s:g} s without a request: CPU {result.idle_cpu_s * MILLI:.1f} ms,"
        f" {result.idle_wake_ups} wake-ups."
    )
    return "\n".join(
        (
            f"{result.sessions} live sessions: weft-runtime-wasmtime, a module that sleeps",
            "",
            table(("KiB", "RSS", "PSS", "own"), [(name, *map(str, memory)) for name, memory in memories]),
            "",
            f"The daemon's own memory for each session: {result.daemon_kib:.1f} KiB.",
            idle,
            f"journal: {result.journal}",
            "",
            f"READY of one launch at a time, median ms of {result.rounds} rounds, with so many sessions live:",
            "",
            table(
                ("", "1, before", "1", str(result.sessions), f"{result.sessions} / 1", "min-max"), latencies
            ),
            "",
            *(f"{it.name}: {it.what}" for it in result.latencies),
            f"1: by another daemon, in turns, on the machine that has the {result.sessions}; before: when it had none",
        )
    )
