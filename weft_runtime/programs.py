# SPDX-License-Identifier: Apache-2.0
"""Other programs that are asked for something, and what systemd's tools say of units."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from weft_runtime.account import Account

TIMEOUT_S = 30.0
"""Seconds for a program that is asked for its version or the like, on the slowest device."""

UNIT = "weft-appd.service"
"""The unit of the system's daemon."""

SOCKET_UNIT, WEBSOCKET_UNIT = "weft-appd.socket", "weft-appd-ws.socket"
"""Those of its sockets."""

APP_UNITS = "weft-app@*.service"
"""The pattern of the units of apps as services (weft-app@(8))."""

_FILE_MAX = 64 * 1024
"""Bytes of an EnvironmentFile=: a hundred times an honest one."""


class Done(NamedTuple):
    """What a program did; `complaint` is None if it succeeded."""

    output: str
    complaint: str | None
    status: int = 0


def run(argv: Sequence[str], environ: Mapping[str, str], account: Account | None = None) -> Done | None:
    """Run a program to its end, as `account` if that is given; None where there is no such program."""
    user, group, groups = (account.uid, account.gid, account.groups) if account is not None else (None,) * 3
    try:
        done = subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S,
            encoding="utf-8", errors="backslashreplace", user=user, group=group, extra_groups=groups,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Done("", f"it does not end within {TIMEOUT_S:g} s")
    except PermissionError:
        return Done("", "permission denied")
    except (OSError, ValueError):  # ValueError: a name with a NUL, as only a daemon that lies has one
        return None
    if done.returncode == 0:
        return Done(done.stdout.strip(), None)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # Without the head of a log line: program, process, level.
    complaint = lines[-1].rpartition("err: ")[2] if lines else f"it ends with status {done.returncode}"
    return Done(done.stdout.strip(), complaint, done.returncode)


def is_booted() -> bool:
    """Whether systemd runs this machine (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def app_unit(app_id: str) -> str:
    """The unit of an app as a service."""
    return APP_UNITS.replace("*", app_id)


def instance(unit: str) -> str | None:
    """What stands in the name of an app's unit where the id belongs, whatever that is; None for any other unit."""
    prefix, suffix = APP_UNITS.split("*")
    is_one = unit.startswith(prefix) and unit.endswith(suffix)
    return unit.removeprefix(prefix).removesuffix(suffix) if is_one else None


def show(units: Sequence[str], properties: str, environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Properties of units, by the name of each; a pattern stands for those that systemd has in memory. Nothing where
    systemd does not run the machine. Times are Unix seconds with an @ before them."""
    if not is_booted():
        return {}
    argv = ["systemctl", "show", "--timestamp=unix", f"--property=Id,{properties}", "--", *units]
    done = run(argv, environ)
    return parse_shown(done.output) if done is not None and done.complaint is None else {}


def parse_shown(text: str) -> dict[str, dict[str, str]]:
    """What `systemctl show` has printed, the property Id among it, by that of each unit."""
    found = {}
    for block in text.split("\n\n"):
        # Not splitlines(): what an app says of itself may hold other line breaks.
        values = dict(line.split("=", 1) for line in block.split("\n") if "=" in line)
        if "Id" in values:
            found[values["Id"]] = values
    return found


def environment(unit: Mapping[str, str]) -> dict[str, str]:
    """The variables that a unit sets: `Environment` and `EnvironmentFiles` of its properties (systemd.exec(5))."""
    found = _assignments(unit.get("Environment", ""))
    for name in unit.get("EnvironmentFiles", "").splitlines():
        path = name.partition(" (ignore_errors=")[0].strip()
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read(_FILE_MAX).splitlines()
        except (OSError, ValueError):
            continue  # systemd says so itself, at the start
        for line in lines:
            if not line.lstrip().startswith(("#", ";")):
                found.update(_assignments(line))
    return found


def _assignments(text: str) -> dict[str, str]:
    try:
        words = shlex.split(text)
    except ValueError:
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def default_path(environ: Mapping[str, str]) -> str:
    """Where programs are looked for."""
    return environ.get("PATH", os.defpath)
