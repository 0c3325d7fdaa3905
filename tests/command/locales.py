# SPDX-License-Identifier: Apache-2.0
"""Locales that a device may have, and one that it has not."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.needs import tool

NAMES = ("C", "de_DE", "xx_XX.unknown")
"""`de_DE` is ISO-8859-1, by the charmap of which each byte is a character, and most characters are none."""


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, str]]:
    """The environment of each, and of a usual one, C.UTF-8."""
    places = tmp_path_factory.mktemp("locales")
    compile_ = [
        tool("localedef", "locales"),
        "--no-archive",
        "-i",
        "de_DE",
        "-f",
        "ISO-8859-1",
        str(places / "de_DE"),
    ]
    subprocess.run(compile_, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    environ = {name: {"LC_ALL": name, "LOCPATH": str(places)} for name in NAMES}
    assert encoding(environ["de_DE"]) == "iso8859-1"
    return {**environ, "C.UTF-8": {"LC_ALL": "C.UTF-8"}}


def encoding(environ: Mapping[str, str]) -> str:
    """What Python takes the names of files for."""
    code = [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"]
    done = subprocess.run(code, env=environ, capture_output=True, check=True, encoding="ascii")
    return done.stdout.strip()


def tree(directory: Path) -> dict[bytes, bytes]:
    """What is below a directory: each path, and the content of a file or the target of a link."""
    found: dict[bytes, bytes] = {}
    for root, directories, files in os.walk(os.fsencode(directory)):
        for name in [*directories, *files]:
            path = os.path.join(root, name)  # noqa: PTH118
            relative = os.path.relpath(path, os.fsencode(directory))
            if os.path.islink(path):  # noqa: PTH114
                found[relative] = b"-> " + os.readlink(path)  # noqa: PTH115
            elif os.path.isfile(path):  # noqa: PTH113
                found[relative] = Path(os.fsdecode(path)).read_bytes()
    return found
