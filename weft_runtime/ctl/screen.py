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
_ELLIPSIS = "..."


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
    keeps_end: bool = False
    """Where there is no room for all of it, the end says more than the beginning, as of an app id."""


class Screen:
    """Standard output and standard error; colour only where a person sees it and has nothing against it."""

    def __init__(self, environ: Mapping[str, str], *, as_json: bool = False) -> None:
        self.as_json = as_json
        # Without a standard output Python has none either, and print does nothing.
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._has_colour = on_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self.on_terminal = on_terminal
        self.width: int | None = None
        """Columns of the terminal, if there is one."""
        self.height: int | None = None
        self.measure()

    def measure(self) -> None:
        """Look how large the terminal is now."""
        if self.on_terminal:
            self.width, self.height = shutil.get_terminal_size()

    def table(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[str | Cell]],
        *,
        cut: bool = False,
        shrink: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Print rows below a header, if there is one; see `lines`."""
        if lines := self.lines(header, rows, cut=cut, shrink=shrink):
            write_result("\n".join(lines))

    def lines(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[str | Cell]],
        *,
        cut: bool = False,
        shrink: Sequence[tuple[int, int]] = (),
    ) -> list[str]:
        """The lines of a table. On a terminal that is too narrow, with `cut`, the columns of `shrink` are made narrower.

        Each pair there is a column and the width that it has at least then; they are taken in order, as far as it is
        necessary, and in the end whatever is beyond the terminal's last column is left out.
        """
        cells = [[_cell(value) for value in row] for row in rows]
        if header:
            cells.insert(0, [Cell(name, Colour.BOLD) for name in header])
        if not cells:
            return []
        widths = [max(_width(cell.text) for cell in column) for column in zip(*cells, strict=True)]
        room = self.width if cut else None
        if room is not None:
            for column, least in shrink:
                surplus = sum(widths) + len(_COLUMN_GAP) * (len(widths) - 1) - room
                widths[column] -= max(0, min(surplus, widths[column] - least))
        return [self._line(line, widths, room) for line in cells]

    def fitting(self, text: str, width: int) -> str:
        """As much of a line as there is room for in `width` columns."""
        return cut_to(visible(text), width)

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

    def _line(self, cells: Sequence[Cell], widths: Sequence[int], room: int | None = None) -> str:
        """One line; with `room` no cell is wider than its column, and none leaves the terminal."""
        parts, used = [], 0
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            is_last = index == len(cells) - 1
            text = cell.text
            if room is not None:
                text = cut_to(text, max(0, min(width, room - used)), keeps_end=cell.keeps_end)
            padding = "" if is_last else " " * (width - _width(text)) + _COLUMN_GAP
            used += max(width, _width(text)) + len(_COLUMN_GAP)
            parts.append(self._coloured(text, cell.colour) + padding)
        return "".join(parts).rstrip()

    def _coloured(self, text: str, colour: Colour) -> str:
        if not self._has_colour or colour is Colour.PLAIN or not text:
            return text
        return f"\x1b[{colour}m{text}\x1b[0m"


def _cell(value: str | Cell) -> Cell:
    cell = value if isinstance(value, Cell) else Cell(value)
    return cell._replace(text=visible(cell.text))


def visible(text: str) -> str:
    """`text` as standard output will have it: what does not print, or is not in the encoding, is made a backslash escape.

    That is to be done before a width is measured.
    """
    text = printable(text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _width(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    if text.isascii():  # the usual case, a hundred times as fast
        return len(text)
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut_to(text: str, width: int, *, keeps_end: bool = False) -> str:
    """As much of `text` as there is room for in `width` columns: its beginning, or its end."""
    if _width(text) <= width:
        return text
    ellipsis = _ELLIPSIS if width > 2 * len(_ELLIPSIS) else ""
    room = width - len(ellipsis)
    kept: list[str] = []
    for char in reversed(text) if keeps_end else text:
        room -= _char_width(char)
        if room < 0:
            break
        kept.append(char)
    return ellipsis + "".join(reversed(kept)) if keeps_end else "".join(kept) + ellipsis
