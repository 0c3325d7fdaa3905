# SPDX-License-Identifier: Apache-2.0
"""`python -m bench`: measure, print tables, and write the figures as JSON."""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench import floor, installed, launch, log, machine, page, picture, rates, table, targets, timeline
from bench.journal import Journal
from bench.measure import BenchError, Launcher, open_launcher
from bench.places import Bare
from bench.report import plain
from bench.report import table as columns
from tests.system.container import Suite

OF_THE_DAEMON = frozenset({"bare", "timeline", "rates", "log"})
PARTS = ("packaged", "bare", "timeline", "floor", "rates", "launch", "log")

T = TypeVar("T")

WARM_UPS = 2
"""Rounds that are not counted: they fill the page cache, Python's .pyc files and the caches of code."""


class Tools(NamedTuple):
    """What the parts share."""

    launcher: Launcher
    journal: Journal | None
    """Of the daemon."""
    rounds: int
    warm_ups: int
    quick: bool
    suite: Suite
    """In which the package is installed."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare weft-runtime-wasmtime and weft-appd with others, in turns. See docs/performance.md.",
        epilog="No figure makes it fail: the exit status is 0 unless something could not be run.",
    )
    parser.add_argument("part", nargs="*", help=f"what to measure (default: {' '.join(PARTS)})")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one round, to see that everything works")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="write each part's figures to DIR/PART.json and PART.txt too",
    )
    parser.add_argument(
        "--suite", type=Suite, choices=Suite, default=Suite.BOOKWORM, metavar="NAME",
        help="the release of Debian for 'packaged': bookworm (the default) or trixie",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.part) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if arguments.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    # Whoever gives up on it: end as by Ctrl-C, so that no daemon, journal or container stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        measure(
            arguments.part or PARTS, arguments.rounds, arguments.suite,
            quick=arguments.quick, results=arguments.results,
        )  # fmt: skip
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def measure(parts: Sequence[str], rounds: int, suite: Suite, *, quick: bool, results: Path | None) -> None:
    """Measure `parts`; print each, and write it to `results`, as soon as it is there. Raises BenchError."""
    described = machine.describe()
    launcher, notes = open_launcher()
    journal: Journal | None = None
    if not OF_THE_DAEMON.isdisjoint(parts):
        try:
            journal = Journal()
        except BenchError as error:
            notes.append(f"no journal for the daemon, which logs to a file, and 'log' is left out: {error}")
    if "packaged" in parts and (lack := installed.lack()):
        notes.append(f"no container, and 'packaged' is left out: missing: {', '.join(lack)}")
        parts = [part for part in parts if part != "packaged"]
    if journal is None:
        parts = [part for part in parts if part != "log"]
    print(columns(("Machine", ""), list(described.items())))
    for note in notes:
        print(f"\nNote: {note}")
    if quick:
        print("\nOne round: it shows that the benchmark works, its figures mean nothing.")
    closing = contextlib.nullcontext() if journal is None else journal
    tools = Tools(launcher, journal, *((1, 0) if quick else (rounds, WARM_UPS)), quick, suite)
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as temporary, launcher, closing:
        for part in PARTS:
            if part in parts:
                load = machine.load()
                scratch = Path(temporary, part)
                scratch.mkdir()
                figures, text = run(part, scratch, tools)
                print(f"\n{text}", flush=True)
                if results is not None:
                    results.mkdir(parents=True, exist_ok=True)
                    written = {
                        "machine": described,
                        "notes": notes,
                        "quick": quick,
                        "load": load,
                        part: figures,
                    }
                    name = f"{part}-{suite}" if part == "packaged" and suite is not Suite.BOOKWORM else part
                    (results / f"{name}.json").write_text(f"{json.dumps(plain(written), indent=2)}\n")
                    (results / f"{name}.txt").write_text(f"{text}\n")
    if results is not None:
        picture.draw(results)
        page.write_table(results)


def run(part: str, scratch: Path, tools: Tools) -> tuple[object, str]:
    """Measure one part: its figures, and what they are for people. Raises BenchError."""
    launcher, journal, rounds, warm_ups, quick, suite = tools
    match part:
        case "packaged":
            return shown(targets.show, installed.run(suite, quick=quick))
        case "bare":
            return shown(targets.show, table.run(Bare(scratch, journal), scratch, quick=quick))
        case "timeline":
            return shown(timeline.show, timeline.run(journal, scratch, quick=quick))
        case "floor":
            return shown(floor.show, floor.run(scratch, quick=quick))
        case "rates":
            return shown(rates.show, rates.run(journal, scratch, rounds=rounds, quick=quick))
        case "launch":
            return shown(launch.show, launch.run(launcher, scratch, rounds=rounds, warm_ups=warm_ups))
        case _:
            assert journal is not None
            return shown(log.show, log.run(journal, scratch, rounds=rounds, warm_ups=warm_ups, quick=quick))


def shown(show: Callable[[T], str], result: T) -> tuple[T, str]:
    return result, show(result)


if __name__ == "__main__":
    sys.exit(main())
