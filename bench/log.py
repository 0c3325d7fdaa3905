# SPDX-License-Identifier: Apache-2.0
"""How fast lines get into the journal: an app's output through the daemon, beside systemd-cat(1)."""

import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench import app, process
from bench.appd import CHEAP_RUNTIME, Appd, Launched
from bench.journal import Journal
from bench.measure import BenchError, Spread, ratio, rotated
from bench.openloop import burst
from bench.rates import NO_MODULE
from bench.report import table, times

LINES = 50_000
QUICK_LINES = 200
MICRO = 1_000_000

APPD, LIMITED, CAT = "appd", "appd-limit", "systemd-cat"
WHAT = {
    APPD: "an app of weft-appd that floods its output, with the limit of lines set high",
    LIMITED: "the same with the usual limit, which drops most",
    CAT: "the same lines through a pipe to systemd-cat",
}


class Flood(NamedTuple):
    """One flood of lines."""

    wall_s: float
    """Until all of it was in the journal."""
    feeder_cpu_s: float
    """Of the daemon, or of systemd-cat."""
    journal_cpu_s: float

    @property
    def cpu_s(self) -> float:
        return self.feeder_cpu_s + self.journal_cpu_s


class LogCost(NamedTuple):
    """One way into the journal, by line of what the app wrote."""

    name: str
    what: str
    lines_per_s: Spread
    feeder_cpu_us: Spread
    journal_cpu_us: Spread
    cpu_us: Spread


class LogRatio(NamedTuple):
    """One way as a multiple of another, round by round."""

    of: str
    to: str
    lines_per_s: Spread
    feeder_cpu: Spread
    cpu: Spread
    """With the journal's."""


class LogThroughput(NamedTuple):
    """All of it."""

    rounds: int
    lines: int
    journal: str
    costs: Sequence[LogCost]
    ratios: Sequence[LogRatio]


class Appds:
    """The two daemons and the flooding app."""

    def __init__(self, running: ExitStack, journal: Journal, scratch: Path, lines: int) -> None:
        app_id = f"bench.cheap.n{lines}"
        flooding = app.install_module(scratch, app_id, NO_MODULE)
        settings = {APPD: {"WEFT_LOG_LINES": "9999999"}, LIMITED: {}}
        store = flooding.module.parents[1]
        self._journal = journal
        self._lines = lines
        self._targets = {
            name: Launched(
                name,
                WHAT[name],
                running.enter_context(Appd(scratch / f"log-{name}", store, CHEAP_RUNTIME, journal, setting)),
                app_id,
            )
            for name, setting in settings.items()
        }

    def flood(self, name: str) -> Flood:
        target = self._targets[name]
        pid = target.appd.pid
        begun, cpu, journal_cpu = time.monotonic(), process.cpu_s(pid), self._journal.cpu_s
        burst(target, rate=1, count=1)
        self._journal.sync()
        result = Flood(
            wall_s=time.monotonic() - begun,
            feeder_cpu_s=process.cpu_s(pid) - cpu,
            journal_cpu_s=self._journal.cpu_s - journal_cpu,
        )
        if name == APPD:
            session = target.appd.client.newest
            check(
                self._journal, self._lines, f"_PID={pid}", f"WEFT_SESSION_ID={session}", "WEFT_EVENT=output"
            )
        return result


def run(journal: Journal, scratch: Path, *, rounds: int, warm_ups: int, quick: bool) -> LogThroughput:
    lines = QUICK_LINES if quick else LINES
    floods: dict[str, list[Flood]] = {name: [] for name in WHAT}
    with ExitStack() as running:
        appds = Appds(running, journal, scratch, lines)
        for number in range(-warm_ups, rounds):
            for name in rotated(list(WHAT), number):
                done = through_cat(journal, lines, f"cat{number}") if name == CAT else appds.flood(name)
                if number >= 0:
                    floods[name].append(done)
    return LogThroughput(
        rounds=rounds,
        lines=lines,
        journal=journal.what,
        costs=[cost(name, done, lines) for name, done in floods.items()],
        ratios=[proportion(name, CAT, floods) for name in (APPD, LIMITED)],
    )


def through_cat(journal: Journal, lines: int, identifier: str) -> Flood:
    """What the app of the daemon does, with systemd-cat in the daemon's place."""
    script = (str(CHEAP_RUNTIME), f"bench.cheap.n{lines}", "1")
    begun, journal_cpu = time.monotonic(), journal.cpu_s
    with subprocess.Popen(script, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as writer:
        cat = subprocess.Popen(
            [*journal.inside, "systemd-cat", f"--identifier={identifier}"], stdin=writer.stdout
        )
        assert writer.stdout is not None
        writer.stdout.close()
        _, status, usage = os.wait4(cat.pid, 0)
        cat.returncode = os.waitstatus_to_exitcode(status)
    if cat.returncode or writer.returncode:
        raise BenchError(f"systemd-cat ended with status {cat.returncode}")
    journal.sync()
    result = Flood(
        wall_s=time.monotonic() - begun,
        feeder_cpu_s=usage.ru_utime + usage.ru_stime,
        journal_cpu_s=journal.cpu_s - journal_cpu,
    )
    check(journal, lines + 1, f"SYSLOG_IDENTIFIER={identifier}")  # READY is a line to it like any other
    return result


def check(journal: Journal, expected: int, *matches: str) -> None:
    """Raise BenchError unless the journal has every line: a fast way to lose some is no way."""
    found = journal.count(*matches)
    # More is no mistake of ours: journald tries an entry again that did not fit, and may keep both.
    if found < expected:
        raise BenchError(f"of {expected} lines the journal has {found} ({' '.join(matches)})")


def cost(name: str, floods: Sequence[Flood], lines: int) -> LogCost:
    return LogCost(
        name=name,
        what=WHAT[name],
        lines_per_s=Spread.of(lines / flood.wall_s for flood in floods),
        feeder_cpu_us=Spread.of(flood.feeder_cpu_s / lines * MICRO for flood in floods),
        journal_cpu_us=Spread.of(flood.journal_cpu_s / lines * MICRO for flood in floods),
        cpu_us=Spread.of(flood.cpu_s / lines * MICRO for flood in floods),
    )


def proportion(of: str, to: str, floods: dict[str, list[Flood]]) -> LogRatio:
    ours, theirs = floods[of], floods[to]
    return LogRatio(
        of=of,
        to=to,
        lines_per_s=ratio([1 / flood.wall_s for flood in ours], [1 / flood.wall_s for flood in theirs]),
        feeder_cpu=ratio([flood.feeder_cpu_s for flood in ours], [flood.feeder_cpu_s for flood in theirs]),
        cpu=ratio([flood.cpu_s for flood in ours], [flood.cpu_s for flood in theirs]),
    )


def show(result: LogThroughput) -> str:
    costs = [
        (
            it.name,
            f"{it.lines_per_s.median:.0f}",
            f"{it.lines_per_s.minimum:.0f}-{it.lines_per_s.maximum:.0f}",
            *(f"{spread.median:.2f}" for spread in (it.feeder_cpu_us, it.journal_cpu_us, it.cpu_us)),
        )
        for it in result.costs
    ]
    ratios = [
        (f"{it.of} / {it.to}", *times(it.lines_per_s), *times(it.feeder_cpu), *times(it.cpu))
        for it in result.ratios
    ]
    return "\n".join(
        (
            f"Lines into the journal: {result.lines} lines of 43 letters, {result.rounds} rounds",
            "",
            table(("CPU: us/line", "lines/s", "min-max", "its CPU", "journald's", "both"), costs),
            "",
            *(f"{it.name}: {it.what}" for it in result.costs),
            f"journal: {result.journal}",
            "",
            "As a multiple, median over the rounds:",
            "",
            table(("", "lines/s", "min-max", "its CPU", "min-max", "both", "min-max"), ratios),
        )
    )
