# SPDX-License-Identifier: Apache-2.0
"""Runs weft-pack in a process of its own, as installed in this environment."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

RUN_SECONDS = 60  # of a whole run: only what has come to a halt takes so long


class Done(NamedTuple):
    """How a run ended."""

    status: int
    out: str
    err: str

    @property
    def problems(self) -> list[str]:
        return self.err.splitlines()


def pack(
    *arguments: str | Path,
    python: Path | None = None,
    env: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Done:
    """Run weft-pack with these arguments; there must be no traceback."""
    program: Sequence[str | Path] = (python or sys.executable, "-m", "weft_runtime.pack.main")
    command: Sequence[str | Path] = (*wrapper, *program, *arguments)
    done = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=RUN_SECONDS,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    err = done.stderr.decode(errors="surrogateescape")
    assert "Traceback" not in err, err
    return Done(done.returncode, done.stdout.decode(errors="surrogateescape"), err)
