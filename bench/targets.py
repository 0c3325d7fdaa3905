# SPDX-License-Identifier: Apache-2.0
"""The targets: what each is called, how much is asked for, and the figures of one place, as values and for people."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench.measure import percentile
from bench.report import MILLI, table


class Target(NamedTuple):
    """What is asked for: of our figure as a multiple of the other one, or of ours alone where there is no other."""

    what: str
    limit: float | None
    """None is for information."""
    at_least: bool = False
    """Whether it is to be that or more; else that or less."""


TARGETS = {
    "launch-p50": Target("LAUNCH_APP to READY, hello, after 50 ms, Unix socket, p50", 0.5),
    "launch-p99": Target("the same, p99", 1.0),
    "ws-p50": Target("the same by the WebSocket, p50", 0.5),
    "ws-p99": Target("the same by the WebSocket, p99", 1.0),
    "burst-p50": Target("back to back, Unix socket, p50", 0.5),
    "ws-burst-p50": Target("back to back, WebSocket, p50", 0.5),
    "open-p50": Target("100 launches a second, open loop, Unix socket, p50", 1.0),
    "open-p99": Target("100 launches a second, open loop, Unix socket, p99", 2.0),
    "ws-open-p50": Target("100 launches a second, open loop, WebSocket, p50", 1.0),
    "ws-open-p99": Target("100 launches a second, open loop, WebSocket, p99", 2.0),
    "several-p50": Target("another app each time, eight in turns, p50", 0.6),
    "large-p50": Target("a module of 22 MB, p50", 0.4),
    "sustained-4": Target("launches a second, to the end, four at a time", 1.2, at_least=True),
    "sustained-1": Target("launches a second, to the end, one at a time", None),
    "memory": Target("PSS of a sleeping session, of 50", 0.45),
    "cpu-launch": Target("CPU of a launch, session and fork server", 0.6),
    "cpu-daemon": Target("CPU of a launch, the daemon's share", None),
    "cpu-journal": Target("CPU of a launch, journald's share", None),
    "rest": Target("daemon, fork server and what waits, at rest, MiB", 30),
    "cold": Target("weft-runtime-wasmtime ID 1 / python3 -I, import wasmtime", 0.6),
    "service": Target("systemctl start weft-app@ID", 1.0),
    "service-open": Target("the same / the command in a unit without a sandbox", None),
    "require": Target("hello under policy 'require' / without a policy, p50", 1.2),
    "crowd": Target("with 500 live sessions / with 1, p50", 1.2),
    "cpu": Target("speed of a guest that computes, the worst of three", 0.98, at_least=True),
    "exec": Target("without the fork server, p50", None),
    "noexec": Target("with a noexec cache, p50", None),
}
"""By key, in the order in which they are shown. The other figure is that of the `wasmtime` command, if `what` names none."""

PLACES = {"packaged": "Debian 12", "packaged-trixie": "Debian 13", "bare": "bare"}
"""The files of figures, and what their columns are called."""

BY_PLACE = {("packaged", "sustained-4"): 0.9, ("packaged-trixie", "sustained-4"): 0.9}
"""Limits that differ from those above: control groups, the hardened unit and journald have their price."""

ABSENT = {"bare": {"service", "service-open", "require", "noexec"}}
"""What a place may lack: only a booted system has units and a policy of its own."""


class Row(NamedTuple):
    """The figure of one target in one place."""

    key: str
    what: str
    unit: str
    ours: float
    theirs: float | None
    """Of what we are compared with; None where ours counts as it is."""
    ratio: float
    """Ours as a multiple of theirs, or ours alone."""
    limit: float | None
    at_least: bool
    note: str

    @classmethod
    def of(
        cls, place: str, key: str, unit: str, ours: float, theirs: float | None, *, ratio: float | None = None,
        note: str = "",
    ) -> "Row":  # fmt: skip
        """`ratio` is given where it is not that of the two figures, but of rounds."""
        target = TARGETS[key]
        if ratio is None:
            ratio = ours if theirs is None else ours / theirs
        limit = BY_PLACE.get((place, key), target.limit)
        return cls(key, target.what, unit, ours, theirs, ratio, limit, target.at_least, note)

    @property
    def is_met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit

    @property
    def asked(self) -> str:
        return "-" if self.limit is None else f"{'>=' if self.at_least else '<='} {self.limit:g}"

    @property
    def shown(self) -> str:
        """The ratio, with enough digits to be compared with the limit."""
        return f"{self.ratio:.1f}" if self.ratio >= 10 else f"{self.ratio:.3f}"

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: "-"}[self.is_met]


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
    """Every launch of the first rows."""
    notes: Sequence[str]
    """What could not be measured, and why."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Table":
        """From what `plain` made of one."""
        rows = [Row(**row) for row in values["rows"]]
        curves = {name: [Point(**point) for point in points] for name, points in values["curves"].items()}
        return cls(**{**values, "rows": rows, "curves": curves})


class Pair(NamedTuple):
    """Seconds of launches in turns: ours, and of the command."""

    ours: Sequence[float]
    theirs: Sequence[float]

    def row(self, place: str, key: str, percent: int = 50, note: str = "") -> Row:
        ours, theirs = percentile(self.ours, percent), percentile(self.theirs, percent)
        return Row.of(place, key, "ms", ours * MILLI, theirs * MILLI, note=note)

    def point(self, x: float) -> Point:
        return Point(x, statistics.median(self.ours) * MILLI, statistics.median(self.theirs) * MILLI)


def in_order(rows: Sequence[Row]) -> list[Row]:
    keys = list(TARGETS)
    return sorted(rows, key=lambda row: keys.index(row.key))


def show(result: Table) -> str:
    rows = [
        (
            row.what,
            f"{row.ours:.2f}",
            "-" if row.theirs is None else f"{row.theirs:.2f}",
            row.unit,
            row.shown,
            row.asked,
            row.verdict,
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


def markdown(tables: Mapping[str, Table]) -> str:
    """All places side by side, by the names of their files: the ratio, in bold where the target is missed."""
    rows = {name: {row.key: row for row in it.rows} for name, it in tables.items()}
    lines = [
        f"| What | Target | {' | '.join(PLACES[name] for name in tables)} |",
        f"| --- | --- |{' --- |' * len(tables)}",
    ]
    for key, target in TARGETS.items():
        found = [(name, rows[name].get(key)) for name in tables]
        known = [row for _, row in found if row is not None]
        if known:
            asked = " / ".join(dict.fromkeys(row.asked for row in known))
            lines.append(f"| {target.what} | {asked} | {' | '.join(_cell(row) for _, row in found)} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return f"**{row.shown}, missed**" if row.is_met is False else row.shown
