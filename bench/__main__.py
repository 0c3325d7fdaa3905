# SPDX-License-Identifier: Apache-2.0
"""`python -m bench`: measure, print tables, and write the figures as JSON."""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench import cpu, launch, live, log, machine, phases, rates
from bench.journal import Journal
from bench.measure import BenchError, open_launcher
from bench.report import plain, table

OF_THE_DAEMON = frozenset({"rates", "live", "log"})
PARTS = ("launch", "phases", "cpu", "rates", "live", "log")

T = TypeVar("T")
WARM_UPS = 2
"""Rounds that are not counted: they fill the page cache, Python's .pyc files and the caches of code."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare weft-runtime-wasmtime and weft-appd with others, in turns. See docs/performance.md.",
        epilog="No figure makes it fail: the exit status is 0 unless something could not be run.",
    )
    parser.add_argument("part", nargs="*", help=f"what to measure (default: {' '.join(PARTS)})")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="rounds (default: 20)")
    parser.add_argument("--quick", action="store_true", help="one round, to see that everything works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE too")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.part) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if arguments.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    try:
        figures = measure(arguments.part or PARTS, rounds=arguments.rounds, quick=arguments.quick)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if arguments.json is not None:
        arguments.json.write_text(f"{json.dumps(plain(figures), indent=2)}\n")
    return 0


def measure(parts: Sequence[str], *, rounds: int, quick: bool) -> dict[str, object]:
    """Measure `parts`, print each as soon as it is there, and return the figures."""
    rounds, warm_ups = (1, 0) if quick else (rounds, WARM_UPS)
    described = machine.describe()
    launcher, notes = open_launcher()
    journal: Journal | None = None
    if not OF_THE_DAEMON.isdisjoint(parts):
        try:
            journal = Journal()
        except BenchError as error:
            notes.append(f"no journal for the daemon, which logs to a file, and 'log' is left out: {error}")
    closing_journal = contextlib.nullcontext() if journal is None else journal
    figures: dict[str, object] = {"machine": described, "notes": notes, "quick": quick}
    print(table(("Machine", ""), [(name, value) for name, value in described.items()]))
    for note in notes:
        print(f"\nNote: {note}")
    if quick:
        print("\nOne round: it shows that the benchmark works, its figures mean nothing.")
    load_before = machine.load()

    def part(name: str, run: Callable[[Path], T], show: Callable[[T], str]) -> None:
        if name in parts:
            scratch = Path(temporary, name)
            scratch.mkdir()
            figures[name] = result = run(scratch)
            print(f"\n{show(result)}", flush=True)

    with tempfile.TemporaryDirectory(prefix="weft-bench-") as temporary, launcher, closing_journal:
        part("launch", partial(launch.run, launcher, rounds=rounds, warm_ups=warm_ups), launch.show)
        part("phases", partial(phases.run, launcher, rounds=rounds, warm_ups=warm_ups), phases.show)
        part("cpu", partial(cpu.run, launcher, rounds=rounds, warm_ups=warm_ups, quick=quick), cpu.show)
        part("rates", partial(rates.run, journal, rounds=rounds, quick=quick), rates.show)
        part("live", partial(live.run, journal, rounds=rounds, quick=quick), live.show)
        if journal is not None:
            part("log", partial(log.run, journal, rounds=rounds, warm_ups=warm_ups, quick=quick), log.show)
    figures["load"] = {"before": load_before, "after": machine.load()}
    return figures


if __name__ == "__main__":
    sys.exit(main())
