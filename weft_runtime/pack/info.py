# SPDX-License-Identifier: Apache-2.0
"""`weft-pack info`: what the manifest of a package says."""

from pathlib import Path

from weft_runtime import manifest
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import quote
from weft_runtime.manifest import FILE_NAME, Manifest
from weft_runtime.pack.check import expect_directory, read_manifest
from weft_runtime.pack.screen import Screen
from weft_runtime.store import WrongPath


def show(screen: Screen, directory: Path, *, as_json: bool) -> int:
    """Print the manifest; returns the exit status. Raises WeftError where it is invalid."""
    values = parse_manifest(directory)
    if as_json:
        screen.json({**values._asdict(), "env": dict(values.env)})
        return 0
    lines = [("id", values.id), ("name", values.name), ("version", values.version)]
    lines += [("desc", values.description)] if values.description is not None else []
    lines += [("author", values.author)] if values.author is not None else []
    lines += [("module", values.module)]
    lines += [("ui", values.ui_entry)] if values.ui_entry is not None else []
    lines += [("cap", capability) for capability in values.capabilities]
    for label, value in lines:
        screen.line(f"{label + ':':<9}{value}")
    return 0


def parse_manifest(directory: Path) -> Manifest:
    """The manifest of a package that is installed nowhere. Raises WeftError."""
    expect_directory(directory)
    try:
        data = read_manifest(directory)
    except WrongPath as error:
        message = f"{quote(str(directory / FILE_NAME))} {error}"
        raise WeftError(Problem.PACKAGE_NOT_FOUND, message) from None
    return manifest.parse(data, FILE_NAME)
