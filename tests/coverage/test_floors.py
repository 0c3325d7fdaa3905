# SPDX-License-Identifier: Apache-2.0
"""The tests reach as much of the modules that must not lose a line as tools/coverage wants."""

import os
import subprocess
import sys

from tests.unit.needs import ROOT


def test_no_module_is_below_its_floor() -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Beside all other tests, not before or after them: these wait most of their time.
    done = subprocess.run(
        [sys.executable, ROOT / "tools/coverage", "--numprocesses=1"],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
