# SPDX-License-Identifier: Apache-2.0
"""What a test needs from its machine: absent, it skips for a developer and fails in CI."""

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]


def find(name: str) -> str | None:
    """The path of the program `name`, beside this Python or on PATH."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def tool(name: str, package: str) -> str:
    """The path of the program `name`, which is in the Debian package or Python distribution `package`."""
    found = find(name)
    if found is None:
        missing(f"the program {name} is missing [package: {package}]")
    return found


def missing(reason: str) -> NoReturn:
    """Skip the test that calls, or fail it where nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
