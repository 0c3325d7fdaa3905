# SPDX-License-Identifier: Apache-2.0
"""The benchmark works on a device: in a container, as root, on the installed package. No test asserts a figure."""

import json
import subprocess
import sys
from pathlib import Path

from tests.figures import check_shown, check_table

ROOT = Path(__file__).resolve().parents[2]


def test_quick_run_measures_the_installed_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--results", str(tmp_path), "packaged"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "packaged.json").read_text())
    assert figures["notes"] == []
    check_table(figures["packaged"])
    assert "limits of a session: " in figures["packaged"]["what"]
    check_shown(tmp_path, "packaged")
