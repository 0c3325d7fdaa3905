# SPDX-License-Identifier: Apache-2.0
"""The table of targets as one picture."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from bench.targets import PLACES, TARGETS, Row, Table

NAME = "targets.svg"
COLOURS = {True: "#1a7f37", False: "#cf222e", None: "#6e7781"}
TINTS = {"packaged": 1.0, "packaged-trixie": 0.75, "bare": 0.5}
LABEL, BAR, WIDTH = 360, 400, 1030
BAR_LINE, BARS_MIN, HEAD, FOOT = 17, 2, 92, 34
SCALE_MAX = 2.0
"""The ratio at the right end; what is beyond it is cut, and says so."""


def draw(results: Path) -> None:
    """Write the picture of what is in `results`, if the table is."""
    tables, machine = read(results)
    if tables:
        (results / NAME).write_text(
            svg(tables, f"{machine['cpu']}, {machine['kernel']}, {machine['date'][:10]}")
        )


def read(results: Path) -> tuple[dict[str, Table], Mapping[str, str]]:
    """The tables that are there, by the names of their files, and the machine of the last one."""
    tables, machine = {}, {}
    for place in PLACES:
        file = results / f"{place}.json"
        if file.is_file():
            figures = json.loads(file.read_text())
            tables[place] = Table.of(figures[place.partition("-")[0]])
            machine = figures["machine"]
    return tables, machine


def svg(tables: dict[str, Table], machine: str) -> str:
    there = {row.key for it in tables.values() for row in it.rows if row.limit is not None}
    keys = [key for key in TARGETS if key in there]
    line = max(BARS_MIN, len(tables)) * BAR_LINE + 12
    height = HEAD + len(keys) * line + FOOT
    size = f'width="{WIDTH}" height="{height}"'
    explained = (
        "A bar that ends within the shaded part meets its target. "
        f"From above: {', '.join(PLACES[place] for place in tables)}."
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect {size} fill="#ffffff"/>',
        text(16, 28, "weft-runtime beside the wasmtime command: our figure / its figure", "bold", size=17),
        text(16, 50, explained),
        *scale(height),
    ]
    for number, key in enumerate(keys):
        rows = {place: row for place, it in tables.items() for row in it.rows if row.key == key}
        lines += target(HEAD + number * line, line, rows)
    lines += [text(16, height - 12, f"make bench; {machine}", colour="#6e7781"), "</svg>", ""]
    return "\n".join(lines)


def scale(height: int) -> Iterator[str]:
    for tenths in range(0, round(SCALE_MAX * 10) + 1, 5):
        x = position(tenths / 10)
        strong = tenths == 10
        yield (
            f'<line x1="{x}" y1="{HEAD - 8}" x2="{x}" y2="{height - FOOT}"'
            f' stroke="{"#24292f" if strong else "#d0d7de"}" stroke-width="{1.5 if strong else 1}"/>'
        )
        yield text(x, HEAD - 14, "1 = the same" if strong else f"{tenths / 10:g}", anchor="middle")


def target(y: int, height: int, rows: dict[str, Row]) -> Iterator[str]:
    """What is asked for, and a bar for each place."""
    row = next(iter(rows.values()))
    # Where there is nothing to compare with, the target itself is 1.
    one = row.limit if row.theirs is None else 1
    assert row.limit is not None
    assert one is not None
    limit = position(row.limit / one)
    left, right = (limit, position(SCALE_MAX)) if row.at_least else (LABEL, limit)
    yield f'<rect x="{left}" y="{y + 2}" width="{right - left}" height="{height - 6}" fill="#dafbe1"/>'
    for number, words in enumerate(wrapped(row.what)):
        yield text(16, y + 18 + 16 * number, words)
    for number, (place, it) in enumerate(rows.items()):
        top, x = y + 6 + number * BAR_LINE, position(it.ratio / one)
        at = position((it.limit or 0) / one)
        yield f'<line x1="{at}" y1="{top - 2}" x2="{at}" y2="{top + 16}" stroke="#1a7f37" stroke-width="2"/>'
        yield (
            f'<rect x="{LABEL}" y="{top}" width="{x - LABEL}" height="14" fill="{COLOURS[it.is_met]}"'
            f' fill-opacity="{TINTS[place]}"/>'
        )
        if it.ratio / one > SCALE_MAX:
            yield text(x - 4, top + 11, "▸", colour="#ffffff", anchor="end")
        sign = f"{'≥' if it.at_least else '≤'} {it.limit}"
        verdict = f"{it.ratio:.2f}  ({sign}: {'met' if it.is_met else 'missed'})"
        yield text(LABEL + BAR + 12, top + 12, f"{PLACES[place]}  {verdict}", colour=COLOURS[it.is_met])


def wrapped(what: str) -> Sequence[str]:
    """At most two lines of what fits beside the bars."""
    words, first = what.split(), ""
    while words and len(first) + len(words[0]) < 44:
        first = f"{first} {words.pop(0)}".strip()
    return [first, " ".join(words)]


def position(ratio: float) -> float:
    return round(LABEL + min(ratio, SCALE_MAX) / SCALE_MAX * BAR, 1)


def text(
    x: float, y: float, words: str, weight: str = "normal", *, size: int = 13, colour: str = "#24292f",
    anchor: str = "start",
) -> str:  # fmt: skip
    return (
        f'<text x="{x}" y="{y}" font-weight="{weight}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
        f">{escape(words)}</text>"
    )
