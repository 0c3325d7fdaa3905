# SPDX-License-Identifier: Apache-2.0
"""`python -m bench`: measure, print tables, and write the figures as JSON."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import cpu, launch, machine, phases
from bench.measure import BenchError, open_launcher
from bench.report import plain, table

PARTS = ("launch", "phases", "cpu")
WARM_UPS = 2
"""Rounds that are not counted: they fill the page cache, Python's .pyc files and the caches of code."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare weft-runtime-wasmtime with other runtimes, in turns. See docs/performance.md.",
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
    figures: dict[str, object] = {"machine": described, "notes": notes, "quick": quick}
    print(table(("Machine", ""), [(name, value) for name, value in described.items()]))
    for note in notes:
        print(f"\nNote: {note}")
    if quick:
        print("\nOne round: it shows that the benchmark works, its figures mean nothing.")
    load_before = machine.load()
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as name, launcher:
        scratch = Path(name)
        if "launch" in parts:
            launched = launch.run(launcher, scratch, rounds=rounds, warm_ups=warm_ups)
            print(f"\n{launch.show(launched)}", flush=True)
            figures["launch"] = launched
        if "phases" in parts:
            split = phases.run(launcher, scratch, rounds=rounds, warm_ups=warm_ups)
            print(f"\n{phases.show(split)}", flush=True)
            figures["phases"] = split
        if "cpu" in parts:
            computed = cpu.run(launcher, scratch, rounds=rounds, warm_ups=warm_ups, quick=quick)
            print(f"\n{cpu.show(computed)}", flush=True)
            figures["cpu"] = computed
    figures["load"] = {"before": load_before, "after": machine.load()}
    return figures


if __name__ == "__main__":
    sys.exit(main())
