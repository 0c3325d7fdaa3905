# SPDX-License-Identifier: Apache-2.0
"""The command that shows what sessions and services use, again and again."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

from weft_runtime.ctl import words
from weft_runtime.ctl.listing import VERSION_ROOM, identity, version
from weft_runtime.ctl.running import Kind, Overview, Running, overview
from weft_runtime.ctl.screen import Cell, Screen
from weft_runtime.ctl.services import FAILED
from weft_runtime.ctl.terminal import Terminal
from weft_runtime.errors import WeftError

INTERVAL_S = 2.0
"""Seconds between two looks, by default."""

INTERVAL_MIN_S = 0.2

SHARE = 0.1
"""Of a CPU that this may use itself: where a look takes long, the next one comes later."""

FIRST_S = 0.5
"""Seconds between the two looks whose difference the first use of CPU time is."""

COLUMNS = ("ID", "KIND", "APP", "VERSION", "STATE", " CPU%", " MEMORY", "TIME")
_SHRINK = ((2, 20), (3, 8), (2, 12), (7, 0))


class Order(StrEnum):
    """What the table is sorted by; the first letter is the key for it."""

    CPU = "cpu"
    MEMORY = "memory"
    TIME = "time"
    APP = "app"
    ID = "id"
    SINCE = "since"
    RESTARTS = "restarts"


class Use(NamedTuple):
    item: Running
    percent: float | None
    """Of one CPU, since the look before; None is not known."""

    def to_json(self) -> dict[str, object]:
        return {**self.item.to_json(), "cpu_percent": self.percent}


def _number(value: float | None) -> float:
    """Large ones first, and those that are not known last."""
    return float("inf") if value is None else -value


_KEYS: Mapping[Order, Callable[[Use], object]] = {
    Order.CPU: lambda use: _number(use.percent),
    Order.MEMORY: lambda use: _number(use.item.memory),
    Order.TIME: lambda use: _number(use.item.cpu),
    Order.APP: lambda use: use.item.app_id,
    Order.ID: lambda use: 0,
    Order.SINCE: lambda use: _number(use.item.since),
    Order.RESTARTS: lambda use: _number(use.item.restarts),
}


def ordered(uses: Sequence[Use], order: Order) -> list[Use]:
    """Those that are equal by `order` as `list` has them: sessions by their numbers, then services by their apps."""
    return sorted(uses, key=_KEYS[order])  # type: ignore[arg-type] # each key's values can be compared


class Meter:
    """Tells what has been used between two looks."""

    def __init__(self) -> None:
        self._before: dict[tuple[object, ...], float] = {}
        self._at = 0.0

    def measure(self, items: Sequence[Running], now: float) -> list[Use]:
        """`now` is monotonic, in seconds."""
        passed, before = now - self._at, self._before
        self._before = {_identity(item): item.cpu for item in items if item.cpu is not None}
        self._at = now
        return [Use(item, _percent(item, before.get(_identity(item)), passed)) for item in items]


def _identity(item: Running) -> tuple[object, ...]:
    # Whatever was restarted is another one.
    return item.kind, item.session_id, item.app_id, item.pid


def _percent(item: Running, before: float | None, passed: float) -> float | None:
    if item.cpu is None or before is None or passed <= 0:
        return None
    return round(max(0.0, item.cpu - before) / passed * 100, 1)


def top(screen: Screen, environ: Mapping[str, str], *, order: Order, interval: float, once: bool) -> int:
    """Show it until 'q' is typed, or once. Raises WeftError where `once` fails, or there is no terminal."""
    meter = Meter()
    if once or screen.as_json:
        found = _look(environ, meter, wait_s=FIRST_S)
        while True:
            if found.daemon_problem is not None and not found.items:
                raise found.daemon_problem
            uses = ordered(found.uses, order)
            if screen.as_json:
                screen.json([use.to_json() for use in uses])
            else:
                _print(screen, found, uses)
            if once and found.daemon_problem is not None:
                raise found.daemon_problem
            if once:
                return 0
            time.sleep(_pause(found, interval))
            found = _look(environ, meter)
    with Terminal(environ.get("TERM")) as terminal, suppress(EOFError):
        _show(screen, environ, terminal, meter, order, interval)
    return 0


class _Look(NamedTuple):
    items: Sequence[Running]
    uses: Sequence[Use]
    daemon_problem: WeftError | None
    services_problem: WeftError | None
    took: float
    """Seconds."""


def _look(environ: Mapping[str, str], meter: Meter, *, wait_s: float = 0) -> _Look:
    """What is used now; with `wait_s` a first look comes so long before."""
    if wait_s:
        meter.measure(_shown(overview(environ)), time.monotonic())
        time.sleep(wait_s)
    began = time.monotonic()
    found = overview(environ)
    uses = meter.measure(_shown(found), time.monotonic())
    took = time.monotonic() - began
    return _Look(found.items, uses, found.daemon_problem, found.services_problem, took)


def _pause(found: _Look, interval: float) -> float:
    """Seconds until the next look."""
    return max(interval, found.took / SHARE)


def _shown(found: Overview) -> list[Running]:
    return [item for item in found.items if item.is_live or item.state == FAILED]


def _print(screen: Screen, found: _Look, uses: Sequence[Use]) -> None:
    screen.table(COLUMNS, _rows(screen, uses), cut=True, shrink=_SHRINK)
    if found.services_problem is not None:
        screen.note(f"services are not shown: {found.services_problem}")


def _rows(screen: Screen, uses: Sequence[Use]) -> list[tuple[str | Cell, ...]]:
    return [
        (
            identity(use.item),
            use.item.kind,
            Cell(use.item.app_id, keeps_end=True),
            version(use.item, None if screen.width is None else VERSION_ROOM),
            words.state(use.item),
            f"{words.NOTHING if use.percent is None else f'{use.percent:.1f}':>5}",
            f"{words.size(use.item.memory):>7}",
            words.seconds(use.item.cpu),
        )
        for use in uses
    ]


def _show(
    screen: Screen,
    environ: Mapping[str, str],
    terminal: Terminal,
    meter: Meter,
    order: Order,
    interval: float,
) -> None:
    keys = {item[0]: item for item in Order}
    found = _look(environ, meter)
    due = time.monotonic() + min(FIRST_S, interval)
    while True:
        screen.measure()
        terminal.draw(_frame(screen, found, order))
        typed = terminal.wait(max(0.0, due - time.monotonic()))
        if "q" in typed:
            return
        for key in typed:
            order = keys.get(key, order)
        if time.monotonic() >= due:
            found = _look(environ, meter)
            due = time.monotonic() + _pause(found, interval)


def _frame(screen: Screen, found: _Look, order: Order) -> list[str]:
    """All lines of the screen: as many as there is room for."""
    width, height = screen.width or 80, screen.height or 24
    sessions = sum(use.item.kind is Kind.SESSION for use in found.uses)
    services = len(found.uses) - sessions
    counts = f"{sessions} session{'s' * (sessions != 1)}, {services} service{'s' * (services != 1)}"
    head = [f"{counts}, by {order}; {words.local_time(time.time(), '%H:%M:%S')}"]
    problems = [found.daemon_problem, found.services_problem]
    head += [str(problem) for problem in problems if problem is not None]
    table = screen.lines(COLUMNS, _rows(screen, ordered(found.uses, order)), cut=True, shrink=_SHRINK)
    foot = "q quits; sort by " + ", ".join(f"{item[0]} {item}" for item in Order)
    room = max(1, height - len(head) - 1)
    if len(table) > room:
        table = [*table[: room - 1], f"{len(table) - room + 1} more"]
    lines = [*(screen.fitting(line, width) for line in head), *table]
    return [*lines, *[""] * (height - len(lines) - 1), screen.fitting(foot, width)][:height]
