# SPDX-License-Identifier: Apache-2.0
"""A launch from LAUNCH_APP written to APP_READY read, and what is left to do then: who does what, and when."""

import ast
import math
import os
import shlex
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import app, machine
from bench.appd import Appd, Launched
from bench.journal import Journal
from bench.openloop import burst
from bench.report import table

LAUNCHES, QUICK_LAUNCHES = 100, 2
PAUSE_S = 0.05
MARKER = Path(__file__).with_name("marker.py")
MICRO = 1_000_000
CLIENT, DAEMON, SERVER, SESSION = "client", "weft-appd", "fork server", "session"
FORKS = "make a process that waits"
"""What the fork server alone does, as marker.py calls it."""
BAR = 48
"""Letters of the picture of all of it."""


class Step(NamedTuple):
    """Microseconds, medians over the launches in which it happens."""

    at_us: float
    """Since the client has written LAUNCH_APP."""
    took_us: float
    """With the steps within it."""
    who: str
    what: str


class Timeline(NamedTuple):
    """All of it."""

    launches: int
    steps: Sequence[Step]
    """By when they begin; those that are in half of the launches, or more."""
    marked_us: float
    """Until APP_READY has been read, with the marks."""
    unmarked_us: float
    """Without, by another daemon in turns."""


class Mark(NamedTuple):
    """A function has run."""

    pid: int
    what: str
    begun: float
    ended: float


def run(journal: Journal | None, scratch: Path, *, quick: bool) -> Timeline:
    hello = app.install_example(scratch)
    store = hello.module.parents[1]
    marks = scratch / "marks"
    runtime = marked(scratch / "weft-runtime-wasmtime", marks, "runtime")
    daemon = marked(scratch / "weft-appd", marks, "appd")
    caches = {"XDG_CACHE_HOME": str(scratch / "cache")}
    with (
        Appd(scratch / "marked", store, runtime, journal, caches, command=daemon) as with_marks,
        Appd(scratch / "unmarked", store, machine.runtime_command(), journal, caches) as without_marks,
    ):
        ways = [Launched("", "", appd, hello.id) for appd in (with_marks, without_marks)]
        taken: list[list[tuple[float, float]]] = [[], []]
        for number in range(-1, QUICK_LAUNCHES if quick else LAUNCHES):
            for which, way in enumerate(ways):
                done = burst(way, rate=1, count=1)
                if number >= 0:
                    taken[which].append((done.signs[0] - done.latencies_s[0], done.signs[0]))
                time.sleep(PAUSE_S)
        pid = with_marks.pid
    all_marks = [Mark(*ast.literal_eval(line)) for line in marks.read_text().splitlines()]
    launches, unmarked = taken
    return Timeline(
        launches=len(launches),
        steps=steps(pid, all_marks, launches),
        marked_us=statistics.median(read - written for written, read in launches) * MICRO,
        unmarked_us=statistics.median(read - written for written, read in unmarked) * MICRO,
    )


def marked(program: Path, marks: Path, which: str) -> Path:
    """Make a program that runs `which` with marks."""
    command = shlex.join([sys.executable, "-I", os.fspath(MARKER), os.fspath(marks), which])
    program.write_text(f'#!/bin/sh\nexec {command} "$0" "$@"\n')
    program.chmod(0o755)
    return program


def steps(daemon: int, marks: Sequence[Mark], launches: Sequence[tuple[float, float]]) -> list[Step]:
    found: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    servers = {mark.pid for mark in marks if mark.what == FORKS}
    # What is left to do belongs to the launch too, until the next one.
    ends = [*(written for written, _ in launches[1:]), math.inf]
    for (written, read), end in zip(launches, ends, strict=True):
        these = (mark for mark in marks if written <= mark.begun < end)
        for key, mark in numbered(daemon, servers, these).items():
            found[key].append((mark.begun - written, mark.ended - mark.begun))
        found[CLIENT, "read APP_READY"].append((read - written, 0))
    done = [
        Step(statistics.median(at for at, _ in times) * MICRO, statistics.median(took for _, took in times) * MICRO, *key)
        for key, times in found.items()
        if len(times) * 2 >= len(launches)
    ]  # fmt: skip
    return sorted(done)


def numbered(daemon: int, servers: Container[int], marks: Iterable[Mark]) -> Mapping[tuple[str, str], Mark]:
    """The marks of one launch, by who and what; what is done again has a number."""
    times = Counter[tuple[str, str]]()
    result = {}
    for mark in sorted(marks, key=lambda mark: mark.begun):
        who = DAEMON if mark.pid == daemon else SERVER if mark.pid in servers else SESSION
        key = (who, mark.what)
        times[key] += 1
        result[key if times[key] == 1 else (key[0], f"{mark.what} ({times[key]})")] = mark
    return result


def bar(step: Step, whole_us: float) -> str:
    """Where it is in the time until READY, as a line of letters."""
    if step.at_us > whole_us:
        return ""
    scale = BAR / whole_us
    begin = min(BAR - 1, int(step.at_us * scale))
    return f"{' ' * begin}{'=' * max(1, min(BAR - begin, round(step.took_us * scale)))}"


def show(result: Timeline) -> str:
    rows = [
        (
            step.who,
            step.what.ljust(40),
            f"{step.at_us:.0f}",
            f"{step.took_us:.0f}",
            bar(step, result.marked_us).ljust(BAR),
        )
        for step in result.steps
    ]
    return "\n".join(
        (
            f"A launch of hello, microseconds since LAUNCH_APP was written, medians of {result.launches}",
            "",
            table(("", "", "at us", "takes us", ""), rows),
            "",
            f"Until READY: {result.marked_us:.0f} us; without the marks, by another daemon in turns: {result.unmarked_us:.0f} us.",
        )
    )
