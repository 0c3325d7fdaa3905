# SPDX-License-Identifier: Apache-2.0
"""How fast a guest runs that does nothing but compute: its user CPU time, without that of its start.

The runtimes that are compared run at the same time on one CPU.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import wasmtime

from bench import app
from bench.measure import Case, Launcher, Sample, Spread, ratio
from bench.report import table, times

GUESTS = Path(__file__).with_name("guests")

# About a second on a machine of 2020, long against the start, whose noise is taken off with it. The sources
# say PASSES where they count.
PASSES = {"sieve": 300, "sha256": 4_000_000, "fib": 14}
QUICK_PASSES = {"sieve": 20}

TARGET = 0.98
"""How fast a guest is to run in our program at least, as a fraction of its speed in `wasmtime run`."""


class GuestSpeed(NamedTuple):
    """One guest in each runtime."""

    guest: str
    user_s: Mapping[str, Spread]
    """User CPU seconds by runtime, less those of the same guest with nothing to do."""
    speeds: Mapping[str, Spread]
    """Our speed as a fraction of another runtime's, round by round."""


class CpuSpeed(NamedTuple):
    """All guests."""

    rounds: int
    guests: Sequence[GuestSpeed]
    target_at_least: float


def run(launcher: Launcher, scratch: Path, *, rounds: int, warm_ups: int, quick: bool) -> CpuSpeed:
    """Measure every guest; with `quick` only one, for a moment."""
    guests = QUICK_PASSES if quick else PASSES
    return CpuSpeed(
        rounds=rounds,
        guests=[
            speed_of(launcher, scratch, guest, passes, rounds=rounds, warm_ups=warm_ups)
            for guest, passes in guests.items()
        ],
        target_at_least=TARGET,
    )


def speed_of(
    launcher: Launcher, scratch: Path, guest: str, passes: int, *, rounds: int, warm_ups: int
) -> GuestSpeed:
    # The same code to compile and to load, with nothing to do: what that takes is the start.
    idle = runtimes(app.install_module(scratch, f"bench.{guest}.idle", assemble(guest, 0)))
    busy = runtimes(app.install_module(scratch, f"bench.{guest}.busy", assemble(guest, passes)))
    starts = launcher.repeat_together(idle, rounds=rounds, warm_ups=warm_ups)
    runs = launcher.repeat_together(busy, rounds=rounds)
    user = {name: without_start(runs[name], starts[name]) for name in runs}
    ours, *others = user
    return GuestSpeed(
        guest=guest,
        user_s={name: Spread.of(seconds) for name, seconds in user.items()},
        speeds={name: ratio(user[name], user[ours]) for name in others},
    )


def runtimes(installed: app.App) -> list[Case]:
    """Ours first."""
    cases = (
        app.ours(installed, log="stderr"),
        app.baseline(installed),
        app.wasmtime(installed, cache=False),
    )
    return [case for case in cases if case is not None]


def without_start(busy: Sequence[Sample], idle: Sequence[Sample]) -> list[float]:
    start = Spread.of(sample.user for sample in idle).median
    return [sample.user - start for sample in busy]


def assemble(guest: str, passes: int) -> bytes:
    source = (GUESTS / f"{guest}.wat.in").read_text()
    return bytes(wasmtime.wat2wasm(source.replace("PASSES", str(passes))))


def show(result: CpuSpeed) -> str:
    runtimes_shown, speeds_shown = result.guests[0].user_s, result.guests[0].speeds
    head = ["", *(f"{name} s" for name in runtimes_shown)]
    for name in speeds_shown:
        head += [f"speed / {name}", "min-max"]
    rows = []
    for guest in result.guests:
        row = [guest.guest, *(f"{seconds.median:.3f}" for seconds in guest.user_s.values())]
        for speed in guest.speeds.values():
            row += times(speed)
        rows.append(row)
    return "\n".join(
        (
            f"A guest that computes: user CPU seconds without the start, {result.rounds} rounds",
            "",
            table(head, rows),
            "",
            f"Target: speed / wasmtime at least {result.target_at_least}.",
        )
    )
