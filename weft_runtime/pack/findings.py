# SPDX-License-Identifier: Apache-2.0
"""What a check finds."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that is wrong with a package; `str` makes its line of text."""

    file: str
    """Its path in the package."""
    message: str
    line: int | None = None
    offset: int | None = None
    """In bytes, of a module."""

    def __str__(self) -> str:
        place = ""
        if self.line is not None:
            place = f":{self.line}"
        elif self.offset is not None:
            place = f":{self.offset:#x}"
        return f"{self.file}{place}: {self.message}"
