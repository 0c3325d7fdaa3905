# SPDX-License-Identifier: Apache-2.0
"""How long a launch takes until the app is ready, at several rates: by the daemon, and without it."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench import app, machine, process
from bench.appd import CHEAP_RUNTIME, Appd, Launched
from bench.journal import Journal
from bench.measure import Case, Spread, percentile, ratio, rotated
from bench.openloop import Burst, Spawned, Target, burst
from bench.report import MILLI, table, times

# Launches a second, and how many in a round: enough at a high rate for them to pile up, if they do.
COUNTS = {1: 2, 10: 10, 100: 25}
QUICK_COUNTS = {1: 1, 10: 2, 100: 3}

NO_MODULE = b"\0asm\1\0\0\0"
CHEAP_APP = "bench.cheap.ready"

PAIRS = (
    ("appd", "wasmtime"),
    ("appd", "wasmtime-precompiled"),
    ("appd-sh", "sh"),
)


class RateCost(NamedTuple):
    """One way to launch, at one rate."""

    per_second: int
    name: str
    launches: int
    p50_s: float
    p99_s: float
    held: float | None
    """Signs a second; median over the rounds."""
    daemon_cpu_s: float | None
    """CPU seconds of the daemon itself for each launch."""
    samples_s: Sequence[Sequence[float]]
    """By round."""


class RateRatio(NamedTuple):
    """One way to launch as a multiple of another, at one rate."""

    per_second: int
    of: str
    to: str
    p50: Spread
    """Round by round."""
    p99: float
    """Of all rounds."""


class LaunchRates(NamedTuple):
    """All of it."""

    rounds: int
    journal: str
    targets: Mapping[str, str]
    costs: Sequence[RateCost]
    ratios: Sequence[RateRatio]


def run(journal: Journal | None, scratch: Path, *, rounds: int, quick: bool) -> LaunchRates:
    hello = app.install_example(scratch)
    store = hello.module.parents[1]
    app.install_module(scratch, CHEAP_APP, NO_MODULE)
    counts = QUICK_COUNTS if quick else COUNTS
    with ExitStack() as running:
        real = running.enter_context(Appd(scratch / "rates", store, machine.runtime_command(), journal))
        cheap = running.enter_context(Appd(scratch / "rates-sh", store, CHEAP_RUNTIME, journal))
        targets: list[Target] = [
            Launched("appd", "LAUNCH_APP to APP_READY, weft-runtime-wasmtime, hello", real, hello.id),
            *(Spawned(case) for case in peers(hello, scratch)),
            Launched("appd-sh", "LAUNCH_APP to APP_READY, a shell script that says READY", cheap, CHEAP_APP),
            Spawned(script()),
        ]
        for target in targets:  # caches are filled, and what is imported late is
            burst(target, rate=1, count=1)
        bursts: dict[tuple[int, str], list[Burst]] = {}
        cpu: dict[tuple[int, str], float] = {}
        for number in range(rounds):
            for rate, count in counts.items():
                for target in rotated(targets, number):
                    before = daemon_cpu_s(target)
                    done = burst(target, rate=rate, count=count)
                    bursts.setdefault((rate, target.name), []).append(done)
                    spent = daemon_cpu_s(target) - before
                    cpu[rate, target.name] = cpu.get((rate, target.name), 0) + spent
        daemons = {target.name for target in targets if isinstance(target, Launched)}
    return LaunchRates(
        rounds=rounds,
        journal="none" if journal is None else journal.what,
        targets={target.name: target.what for target in targets},
        costs=[
            cost(rate, name, done, cpu[rate, name] if name in daemons else None)
            for (rate, name), done in sorted(bursts.items(), key=lambda item: item[0][0])
        ],
        ratios=[
            proportion(rate, of, to, bursts) for rate in counts for of, to in PAIRS if (rate, to) in bursts
        ],
    )


def peers(hello: app.App, scratch: Path) -> list[Case]:
    cases = (app.wasmtime(hello), app.precompiled(hello, scratch))
    return [case for case in cases if case is not None]


def script() -> Case:
    argv = (str(CHEAP_RUNTIME), CHEAP_APP, "1")
    return Case("sh", "the same script, started directly", argv, {"PATH": "/usr/bin:/bin"})


def daemon_cpu_s(target: Target) -> float:
    return process.cpu_s(target.appd.pid) if isinstance(target, Launched) else 0


def cost(rate: int, name: str, bursts: Sequence[Burst], daemon_cpu: float | None) -> RateCost:
    latencies = every(bursts)
    held = [burst.held for burst in bursts if burst.held is not None]
    return RateCost(
        per_second=rate,
        name=name,
        launches=len(latencies),
        p50_s=percentile(latencies, 50),
        p99_s=percentile(latencies, 99),
        held=statistics.median(held) if held else None,
        daemon_cpu_s=None if daemon_cpu is None else daemon_cpu / len(latencies),
        samples_s=[burst.latencies_s for burst in bursts],
    )


def proportion(rate: int, of: str, to: str, bursts: Mapping[tuple[int, str], Sequence[Burst]]) -> RateRatio:
    ours, theirs = bursts[rate, of], bursts[rate, to]
    return RateRatio(
        per_second=rate,
        of=of,
        to=to,
        p50=ratio(map(p50, ours), map(p50, theirs)),
        p99=percentile(every(ours), 99) / percentile(every(theirs), 99),
    )


def p50(burst: Burst) -> float:
    return statistics.median(burst.latencies_s)


def every(bursts: Sequence[Burst]) -> list[float]:
    return [latency for burst in bursts for latency in burst.latencies_s]


def show(result: LaunchRates) -> str:
    costs = [
        (
            str(it.per_second),
            it.name,
            str(it.launches),
            f"{it.p50_s * MILLI:.1f}",
            f"{it.p99_s * MILLI:.1f}",
            "-" if it.held is None else f"{it.held:.1f}",
            "-" if it.daemon_cpu_s is None else f"{it.daemon_cpu_s * MILLI:.2f}",
        )
        for it in result.costs
    ]
    ratios = [
        (str(it.per_second), f"{it.of} / {it.to}", *times(it.p50), f"{it.p99:.3f}") for it in result.ratios
    ]
    return "\n".join(
        (
            f"Launch to READY, by launches a second, {result.rounds} rounds",
            "",
            table(("rate", "", "launches", "p50 ms", "p99 ms", "held/s", "daemon CPU ms"), costs),
            "",
            *(f"{name}: {what}" for name, what in result.targets.items()),
            f"journal: {result.journal}",
            "",
            "As a multiple (p50: median over the rounds; p99: of all rounds together):",
            "",
            table(("rate", "", "p50", "min-max", "p99"), ratios),
        )
    )
