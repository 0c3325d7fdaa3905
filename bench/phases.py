# SPDX-License-Identifier: Apache-2.0
"""Where the time of a launch goes: the steps of our program beside those of the baseline."""

import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import app
from bench.measure import BenchError, Case, Launcher, Sample, Spread
from bench.report import MILLI, table

PROBE = Path(__file__).with_name("probe.py")

# Steps in the order of the program. What has no name of its own is in REST.
START, REST, END, WHOLE = "start the interpreter", "all else", "end the process", "whole process"
COMPILER = "in the compiler's process: "
STEPS = (
    START,
    "import ours",
    "open the log",
    "parse the arguments",
    "import the binding",
    "import ours that use it",
    "open the package",
    "make the engine",
    "serialize",
    "look for compiled code",
    "fork the compiler",
    "make linker and store",
    "compile",
    "wait for the compiler",
    "load the code",
    "look at the exports",
    "link and instantiate",
    "say READY",
    "run the guest",
    "write log entries",
    REST,
    END,
    WHOLE,
    f"{COMPILER}compile",
    f"{COMPILER}serialize",
    f"{COMPILER}{REST}",
)


class Phases(NamedTuple):
    """Seconds of each step, by program."""

    rounds: int
    programs: Mapping[str, Mapping[str, Spread]]


def run(launcher: Launcher, scratch: Path, *, rounds: int, warm_ups: int) -> Phases:
    hello = app.install_example(scratch)
    readings = scratch / "readings"
    cases = [app.ours(hello, log="stderr"), app.baseline(hello)]
    if launcher.journal is not None:
        cases.insert(0, app.ours(hello, log="journal"))
    collected: dict[str, list[dict[str, float]]] = {case.name: [] for case in cases}
    for number in range(-warm_ups, rounds):
        for case in cases:
            readings.unlink(missing_ok=True)
            sample = launcher.run(probed(case, readings))
            if number >= 0:
                collected[case.name].append(steps(sample, readings.read_text().splitlines()))
    return Phases(rounds=rounds, programs={name: spreads(runs) for name, runs in collected.items()})


def probed(case: Case, readings: Path) -> Case:
    """`case` with the probe around it."""
    if case.name == "baseline":
        program, args = "baseline", case.argv[3:]
    else:
        program, args = "weft", case.argv[1:]
    return case._replace(argv=(sys.executable, "-I", str(PROBE), str(readings), program, *args))


def steps(sample: Sample, lines: Sequence[str]) -> dict[str, float]:
    """Seconds of each step of one run, of which the probe wrote `lines`: one for each process."""
    seconds: dict[str, float] = {}
    for line in lines:
        reading = ast.literal_eval(line)
        rest = reading["ended"] - reading["begun"] - sum(reading["seconds"].values())
        prefix = "" if reading["first"] else COMPILER
        for step, took in {**reading["seconds"], REST: rest}.items():
            seconds[prefix + step] = took
        if reading["first"]:
            seconds[START] = reading["begun"] - sample.begun
            seconds[END] = sample.ended - reading["ended"]
            seconds[WHOLE] = sample.wall
    if unknown := seconds.keys() - set(STEPS):
        raise BenchError(f"steps that have no place in the table: {unknown}")
    return seconds


def spreads(runs: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    return {step: Spread.of(run[step] for run in runs) for step in STEPS if all(step in run for run in runs)}


def show(result: Phases) -> str:
    names = list(result.programs)
    rows = [
        (step, *(milliseconds(result.programs[name].get(step)) for name in names))
        for step in STEPS
        if any(step in result.programs[name] for name in names)
    ]
    return "\n".join(
        (
            f"Where the time of a launch goes: median ms of {result.rounds} rounds, with a stopwatch inside",
            "",
            table(("", *names), rows),
        )
    )


def milliseconds(seconds: Spread | None) -> str:
    return "-" if seconds is None else f"{seconds.median * MILLI:.2f}"
