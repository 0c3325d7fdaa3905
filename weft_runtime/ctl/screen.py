# SPDX-License-Identifier: Apache-2.0
"""What a person or a script gets to see: aligned tables or JSON on standard output, notes on standard error.

Every text passes through `escape.printable` here: none that came from an app can move the cursor or forge a
line.
"""

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from weft_runtime.commandline import write_note, write_result
from weft_runtime.escape import printable

PROGRAM = "weftctl"

LINE_MAX = 128 * 1024
"""Characters of one line of an app's output: weft-appd logs 16 KiB, of which escapes can make 64."""

_COLUMN_GAP = "  "


class Colour(StrEnum):
    """How a cell looks on a terminal, as parameters of SGR (console_codes(4))."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"


class Cell(NamedTuple):
    text: str
    colour: Colour = Colour.PLAIN


class Screen:
    """Standard output and standard error; colour only where a person sees it and has nothing against it."""

    def __init__(self, environ: Mapping[str, str], *, as_json: bool = False) -> None:
        self.as_json = as_json
        # Without a standard output Python has none either, and print does nothing.
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._has_colour = on_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self._width = shutil.get_terminal_size().columns if on_terminal else None

    def table(
        self, header: Sequence[str], rows: Iterable[Sequence[str | Cell]], *, cut: bool = False
    ) -> None:
        """Print rows below a header, if there is one; `cut` the last column where a terminal's line ends."""
        lines = [[_cell(value) for value in row] for row in rows]
        if header:
            lines.insert(0, [Cell(name, Colour.BOLD) for name in header])
        if not lines:
            return
        widths = [max(_width(cell.text) for cell in column) for column in zip(*lines, strict=True)]
        write_result("\n".join(self._line(line, widths, cut=cut) for line in lines))

    def row(self, cells: Sequence[str | Cell], widths: Sequence[int]) -> None:
        """Print one line of a table that has no end; `widths` are those that its columns have at least."""
        write_result(self._line([_cell(value) for value in cells], widths))

    def line(self, text: str, limit: int = LINE_MAX) -> None:
        write_result(printable(text, limit))

    def error_line(self, text: str, limit: int = LINE_MAX) -> None:
        """What an app wrote to its standard error."""
        write_note(printable(text, limit))

    def json(self, value: object) -> None:
        """Print `value` on a line; all but ASCII is escaped, so it is as safe as the rest."""
        write_result(json.dumps(value))

    def event(self, name: str, session_id: int, app_id: str, **details: object) -> None:
        """Print something that has just happened to a session as JSON."""
        event = {"time": time.time(), "event": name, "session_id": session_id, "app_id": app_id}
        self.json({**event, **details})

    def note(self, text: str) -> None:
        """Tell a person something that is no result."""
        write_note(f"{PROGRAM}: {printable(text, LINE_MAX)}")

    def _line(self, cells: Sequence[Cell], widths: Sequence[int], *, cut: bool = False) -> str:
        parts, used = [], 0
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            is_last = index == len(cells) - 1
            text = cell.text
            if is_last and cut and self._width is not None:
                text = _cut(text, self._width - used)
            padding = "" if is_last else " " * (width - _width(text)) + _COLUMN_GAP
            used += max(width, _width(text)) + len(_COLUMN_GAP)
            parts.append(self._coloured(text, cell.colour) + padding)
        return "".join(parts).rstrip()

    def _coloured(self, text: str, colour: Colour) -> str:
        if not self._has_colour or colour is Colour.PLAIN or not text:
            return text
        return f"\x1b[{colour}m{text}\x1b[0m"


def _cell(value: str | Cell) -> Cell:
    text, colour = value if isinstance(value, Cell) else (value, Colour.PLAIN)
    return Cell(printable(text), colour)


def _width(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    if text.isascii():  # the usual case, a hundred times as fast
        return len(text)
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _cut(text: str, width: int) -> str:
    """The beginning of `text` in `width` columns; where there is no room for any, all of it."""
    ellipsis = "..."
    if width <= len(ellipsis) or _width(text) <= width:
        return text
    room = width - len(ellipsis)
    kept = ""
    for char in text:
        room -= _char_width(char)
        if room < 0:
            break
        kept += char
    return kept + ellipsis
