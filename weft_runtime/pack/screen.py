# SPDX-License-Identifier: Apache-2.0
"""What a person or a script gets to see: results on standard output, everything else on standard error.

Every text passes through `escape.printable` here: none that came from a package can move the cursor or forge a
line.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from weft_runtime.commandline import write_note, write_result
from weft_runtime.escape import printable

PROGRAM = "weft-pack"

LINE_MAX = 64 * 1024
"""Characters of one line: more than all that is put into one, since values are cut where they are quoted."""

_RED = "31"


class Screen:
    """Standard output and standard error; progress and colour only where a person sees them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # Without a standard error Python has none either, and print does nothing.
        self._on_terminal = (
            sys.stderr is not None and sys.stderr.isatty() and environ.get("TERM", "dumb") != "dumb"
        )
        self._has_colour = self._on_terminal and not environ.get("NO_COLOR")

    def line(self, text: str) -> None:
        """Print a result."""
        write_result(printable(text, LINE_MAX))

    def json(self, value: object) -> None:
        """Print a result for a script; all but ASCII is escaped, so it is as safe as the rest."""
        write_result(json.dumps(value))

    def note(self, text: str) -> None:
        """Tell a person something that is no result."""
        self.problem(f"{PROGRAM}: {text}", in_red=False)

    def error(self, text: str) -> None:
        """Tell why it failed."""
        self.problem(f"{PROGRAM}: {text}")

    def problem(self, text: str, *, in_red: bool = True) -> None:
        """Tell what is wrong with a package, as a line that begins with the place."""
        text = printable(text, LINE_MAX)
        write_note(f"\x1b[{_RED}m{text}\x1b[0m" if in_red and self._has_colour else text)

    @contextmanager
    def progress(self, text: str) -> Iterator[Callable[[], None]]:
        """Show that something long is under way, on a terminal, until it is done.

        Whoever does it may call what this gives now and then: it shows the seconds since the beginning.
        """
        begun = time.monotonic()

        def go_on() -> None:
            if self._on_terminal:
                write_note(f"\r{printable(text)}... {time.monotonic() - begun:.0f} s", end="")

        if self._on_terminal:
            write_note(f"{printable(text)}...", end="")
        try:
            yield go_on
        finally:
            if self._on_terminal:
                write_note("\r\x1b[K", end="")  # back to the first column, and clear the line
