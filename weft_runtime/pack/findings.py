# SPDX-License-Identifier: Apache-2.0
"""What a check finds."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """What a finding comes to."""

    ERROR = "error"
    """The package is refused."""
    NOTE = "note"
    """It is not, but may do something else than its author expects."""


class Finding(NamedTuple):
    """One thing that is wrong with a package, or is noted; `str` makes its line of text."""

    file: str
    """Its path in the package."""
    message: str
    line: int | None = None
    offset: int | None = None
    """In bytes, of a module."""
    level: Level = Level.ERROR

    def __str__(self) -> str:
        place = ""
        if self.line is not None:
            place = f":{self.line}"
        elif self.offset is not None:
            place = f":{self.offset:#x}"
        level = "note: " if self.level is Level.NOTE else ""
        return f"{self.file}{place}: {level}{self.message}"
