# SPDX-License-Identifier: Apache-2.0
"""What it costs to run a small app from start to end: whole-process time, CPU time and peak memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import app
from bench.measure import BenchError, Case, Launcher, Sample, Spread, ratio
from bench.report import milliseconds, table, times

KIB_OF_MIB = 1024

PEAK_MARGIN = 1.05
"""The kernel's own count of a process's pages is off by some dozens."""

ENGINE = "from weft_runtime.thin.session import Machine; Machine()"
"""What a run that follows a plan needs beside the interpreter: the engine's library, an engine and a linker."""

# What is put into proportion to what, where both were measured.
PAIRS = (
    ("weft-journal", "baseline"),
    ("weft-stderr", "baseline"),
    ("weft-journal", "weft-stderr"),
    ("weft-journal", "wasmtime"),
    ("weft-journal", "wasmtime-precompiled"),
    ("weft-journal", "node"),
    ("weft-stderr", "python-import"),
    ("weft-stderr", "python-engine"),
    ("baseline", "wasmtime"),
)


class CaseCost(NamedTuple):
    """What one program cost."""

    name: str
    what: str
    wall_s: Spread
    cpu_s: Spread
    peak_kib: Spread
    """Of its largest process."""
    peak_is_real: bool
    """Else the program was smaller than what started it, and the kernel gave the size of that."""
    wall_samples_s: Sequence[float]


class Proportion(NamedTuple):
    """One program's cost as a multiple of another's, round by round."""

    of: str
    to: str
    wall: Spread
    """Of runs in turns."""
    cpu: Spread
    """Of runs at the same time on one CPU."""


class LaunchCost(NamedTuple):
    """All of it."""

    rounds: int
    journal: str
    cases: Sequence[CaseCost]
    proportions: Sequence[Proportion]


def run(launcher: Launcher, scratch: Path, *, rounds: int, warm_ups: int) -> LaunchCost:
    """Measure every runtime on the example hello."""
    hello = app.install_example(scratch)
    guests = [
        app.ours(hello, log="journal") if launcher.journal is not None else None,
        app.ours(hello, log="stderr"),
        app.baseline(hello),
        app.wasmtime(hello),
        app.precompiled(hello, scratch),
        app.node(hello),
    ]
    cases = [case for case in guests if case is not None]
    check_same_output(launcher, cases, scratch)
    cases += [
        app.python("python-import", "import wasmtime"),
        app.python("python-engine", ENGINE),
        app.python("python", "pass"),
    ]
    in_turns = launcher.repeat_in_turns(cases, rounds=rounds, warm_ups=warm_ups)
    together = launcher.repeat_together(cases, rounds=rounds)
    proportions = [
        Proportion(
            of=ours,
            to=theirs,
            wall=ratio(walls(in_turns[ours]), walls(in_turns[theirs])),
            cpu=ratio(cpus(together[ours]), cpus(together[theirs])),
        )
        for ours, theirs in PAIRS
        if in_turns.keys() >= {ours, theirs}
    ]
    return LaunchCost(
        rounds=rounds,
        journal=launcher.journal or "none",
        cases=[cost(case, in_turns[case.name], launcher) for case in cases],
        proportions=proportions,
    )


def check_same_output(launcher: Launcher, cases: Sequence[Case], scratch: Path) -> None:
    """Raise BenchError unless the guest says the same everywhere: else the work differs."""
    outputs = {}
    for case in cases:
        file = scratch / f"{case.name}.out"
        launcher.run(case, file)
        outputs[case.name] = file.read_bytes().removeprefix(b"READY\n")
    if len(set(outputs.values())) != 1 or b"" in outputs.values():
        raise BenchError(f"the guest does not say the same in every runtime: {outputs}")
    if launcher.counts_entries and launcher.entries(wanted=1) == 0:
        raise BenchError("weft-journal sent nothing to the journal")


def cost(case: Case, samples: Sequence[Sample], launcher: Launcher) -> CaseCost:
    return CaseCost(
        name=case.name,
        what=case.what,
        wall_s=Spread.of(walls(samples)),
        cpu_s=Spread.of(cpus(samples)),
        peak_kib=Spread.of(sample.peak_kib for sample in samples),
        peak_is_real=min(sample.peak_kib for sample in samples) > launcher.least_peak_kib * PEAK_MARGIN,
        wall_samples_s=walls(samples),
    )


def walls(samples: Sequence[Sample]) -> list[float]:
    return [sample.wall for sample in samples]


def cpus(samples: Sequence[Sample]) -> list[float]:
    return [sample.cpu for sample in samples]


def show(result: LaunchCost) -> str:
    costs = [
        (
            case.name,
            *milliseconds(case.wall_s),
            *milliseconds(case.cpu_s),
            f"{'' if case.peak_is_real else '<= '}{case.peak_kib.median / KIB_OF_MIB:.1f}",
        )
        for case in result.cases
    ]
    proportions = [(f"{it.of} / {it.to}", *times(it.wall), *times(it.cpu)) for it in result.proportions]
    return "\n".join(
        (
            f"Launch: examples/hello, whole process, {result.rounds} rounds",
            "",
            table(("", "wall ms", "min-max", "CPU ms", "min-max", "peak MiB"), costs),
            "",
            *(f"{case.name}: {case.what}" for case in result.cases),
            f"journal: {result.journal}",
            "",
            "As a multiple, median over the rounds (wall: in turns; CPU: all at once on one CPU):",
            "",
            table(("", "wall", "min-max", "CPU", "min-max"), proportions),
        )
    )
