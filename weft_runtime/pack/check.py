# SPDX-License-Identifier: Apache-2.0
"""`weft-pack check`: all that can be known of a package before it runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from weft_runtime.errors import Problem, WeftError
from weft_runtime.manifest import Manifest
from weft_runtime.pack.screen import Screen


class Finding(NamedTuple):
    """One thing that is wrong with a package; `str` makes the line of text."""

    file: str
    """Its path in the package."""
    line: int | None
    offset: int | None
    """In bytes, of a module."""
    message: str

    def __str__(self) -> str:
        place = f":{self.line}" if self.line is not None else ""
        if self.offset is not None:
            place = f":{self.offset:#x}"
        return f"{self.file}{place}: {self.message}"


class Checked(NamedTuple):
    """What came of a check: the manifest is None only where it could not be read at all."""

    manifest: Manifest | None
    findings: tuple[Finding, ...]


def check(directory: Path, environ: Mapping[str, str], screen: Screen) -> Checked:
    """Find all that is wrong with the package in `directory`. Raises WeftError where it cannot be looked at."""
    raise WeftError(Problem.INTERNAL_ERROR, "not written yet")


def show(screen: Screen, environ: Mapping[str, str], directory: Path, *, as_json: bool) -> int:
    raise WeftError(Problem.INTERNAL_ERROR, "not written yet")
