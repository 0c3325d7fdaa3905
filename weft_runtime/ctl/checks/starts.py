# SPDX-License-Identifier: Apache-2.0
"""How often the service of an app is started: whether one that never says READY fails in the end (systemd.unit(5))."""

import math
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from weft_runtime import programs
from weft_runtime.ctl.finding import Finding, note
from weft_runtime.ctl.scene import Scene

DIRECTORIES = (Path("/etc/systemd/system"), Path("/run/systemd/system"))
"""Where operators put units, and files beside them that change them."""

_PROBE = programs.app_unit("org.example.unit")
"""Any instance: what systemd says of it is what it says of all that have no file of their own."""

_PROPERTIES = "TimeoutStartUSec,TimeoutStopUSec,RestartUSec,StartLimitIntervalUSec,StartLimitBurst,Restart"

_SLACK_S = 60
"""Seconds that the command gives more than is needed: on a busy device a round takes longer."""

_SPANS = {
    "us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800, "month": 2629800, "y": 31557600,
}  # fmt: skip
"""Seconds of what systemctl shows of times: systemd.time(7)."""


class _Starts(NamedTuple):
    needed: int
    """Seconds that all rounds of one that never says READY take, and one more."""
    interval: float
    """Seconds in which there have to be so many for it to fail."""


def start_limits(scene: Scene, names: Iterable[str]) -> list[Finding]:
    """Services whose limit is too short for their times; `names` are units that there are."""
    own = {path.name.removesuffix(".d") for path in _drop_ins() if path.name != _template_directory()}
    shown = programs.show([_PROBE, *sorted({*names, *own})], _PROPERTIES, scene.caller)
    usual = _starts(shown.pop(_PROBE, {}))
    found = [] if usual is None else _finding("weft-app@.service", usual)
    for name, properties in sorted(shown.items()):
        starts = _starts(properties)
        if starts is not None and starts != usual:
            found += _finding(name, starts)
    return found


def seconds(text: str) -> float | None:
    """The seconds of a span as systemctl shows it, such as `1min 30s`; infinity has no end. None where it is none."""
    if text == "infinity":
        return math.inf
    total = 0.0
    for part in text.split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        try:
            total += float(number) * (_SPANS[part[len(number) :]] if part != "0" else 0)
        except (ValueError, KeyError):
            return None
    return total if text else None


def _drop_ins() -> list[Path]:
    return [path for directory in DIRECTORIES for path in directory.glob(f"{programs.APP_UNITS}.d")]


def _template_directory() -> str:
    return f"{programs.app_unit('')}.d"


def _starts(properties: Mapping[str, str]) -> _Starts | None:
    """None where systemd does not say, or one that never says READY is not started again anyway."""
    times = [
        seconds(properties.get(f"{name}USec", ""))
        for name in ("TimeoutStart", "TimeoutStop", "Restart", "StartLimitInterval")
    ]
    known = [time for time in times if time is not None]
    burst = properties.get("StartLimitBurst", "")
    is_again = properties.get("Restart") not in ("no", "on-success", "on-abort", "on-watchdog")
    if len(known) < len(times) or not burst.isdecimal() or not is_again or not math.isfinite(sum(known[:3])):
        return None
    # As ExecStopPost= of the unit says it when it happens.
    return _Starts(int(burst) * sum(map(math.ceil, known[:3])) + 1, known[3])


def _finding(name: str, starts: _Starts) -> list[Finding]:
    if starts.interval >= starts.needed:
        return []
    directory = DIRECTORIES[0] / f"{name}.d"
    # After all others: the last one counts.
    file, value = directory / "zz-start-limit.conf", starts.needed + _SLACK_S
    mend = (
        f"mkdir -p {shlex.quote(str(directory))} && printf '[Unit]\\nStartLimitIntervalSec={value}\\n'"
        f" >{shlex.quote(str(file))} && systemctl daemon-reload"
    )
    what = f"{name} is started again for ever where the app never says READY"
    why = f"StartLimitIntervalSec= is {starts.interval:g} s, and its times need {starts.needed} s"
    return [note(what, why, mend)]
