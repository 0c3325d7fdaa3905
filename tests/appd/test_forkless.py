# SPDX-License-Identifier: Apache-2.0
"""The tests whose meaning depends on the fork server, once more without it."""

import os
import subprocess
import sys

from tests.unit.needs import ROOT


def test_sessions_are_the_same_without_the_fork_server() -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "sessions and not once", "tests/appd"],
        cwd=ROOT, env={**environ, "WEFT_FORK_SERVER": "false"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
