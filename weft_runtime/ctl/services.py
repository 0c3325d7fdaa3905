# SPDX-License-Identifier: Apache-2.0
"""The services of weft-app@, as systemd has them; sessions are weft-appd's."""

import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from weft_runtime import statusline, store
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.ids import AppId
from weft_runtime.programs import APP_UNITS, instance, is_booted, parse_shown
from weft_runtime.settings import SYSTEM_STORES

SYSTEMCTL = "systemctl"

START_S = 1800.0
"""Seconds for systemctl to start an app: as long as compiling it may take."""

ANSWER_S = 30.0
"""Seconds for what it only has to say."""

STATE_DIRECTORY = Path("/var/lib/private/weft-apps")
"""Where systemd keeps the data of the services (DynamicUser=, StateDirectory=)."""

RUNNING, STARTING, STOPPING, STOPPED = "running", "starting", "stopping", "stopped"
"""Those of sessions, in the words of the control protocol."""

RESTARTING, FAILED = "restarting", "failed"
"""What systemd does besides: wait for the next start, and give up."""

_STATES = {
    "active": RUNNING, "reloading": RUNNING, "refreshing": RUNNING, "activating": STARTING, "deactivating": STOPPING,
    "inactive": STOPPED, "failed": FAILED,
}  # fmt: skip
_WAITS = ("auto-restart", "auto-restart-queued")

_MOMENTS = ("ActiveEnter", "ActiveExit", "InactiveEnter", "InactiveExit", "ExecMainStart", "ExecMainExit")
_PROPERTIES = (
    "Id", "ActiveState", "SubState", "UnitFileState", "Result", "StatusText", "MainPID", "NRestarts", "MemoryCurrent",
    "MemoryPeak", "CPUUsageNSec", "ExecMainCode", "ExecMainStatus", "ControlGroup",
    *(f"{name}Timestamp{clock}" for name in _MOMENTS for clock in ("", "Monotonic")),
)  # fmt: skip

_CGROUPS = Path("/sys/fs/cgroup")

_UNSET = 2**64 - 1
"""What systemd shows for a number that nobody counts, where it does not say so."""

_SUSPENDED_S = 1.0
"""Seconds of sleep since the boot from which on the monotonic clock says nothing about past moments."""

_EXITED, _KILLED, _DUMPED = "1", "2", "3"
"""How a process ended: `si_code` of waitid(2)."""


class Refused(Exception):
    """What systemctl says when it fails, on one line."""


class Service(NamedTuple):
    """Times are Unix seconds."""

    unit: str
    app_id: str
    state: str
    is_enabled: bool
    """Whether it starts at boot."""
    pid: int | None
    launched: float | None
    ready: float | None
    stopped: float | None
    since: float | None
    """When it got into its state."""
    exit_status: int | None
    signal: str | None
    reason: str | None
    version: str | None
    restarts: int
    """By systemd, since somebody started it."""
    memory: int | None
    memory_peak: int | None
    cpu: float | None


def find(environ: Mapping[str, str]) -> list[Service]:
    """All that systemd knows of, by the names of their apps: those that run, are enabled, or have failed.

    Raises WeftError(OS_ERROR) where it cannot be asked.
    """
    if not is_booted():
        raise WeftError(Problem.OS_ERROR, "systemd does not run this machine")
    properties = f"--property={','.join(_PROPERTIES)}"
    try:
        shown = systemctl(environ, "show", "--timestamp=unix", properties, APP_UNITS, patience_s=ANSWER_S)
    except Refused as refusal:
        raise WeftError(Problem.OS_ERROR, printable(str(refusal))) from None
    found = [_service(unit, values) for unit, values in parse_shown(shown).items()]
    return sorted((service for service in found if service is not None), key=lambda service: service.app_id)


def of_app(environ: Mapping[str, str], app_id: str) -> Service | None:
    """The service of an app; None where there is none, as where systemd cannot be asked."""
    try:
        return next((service for service in find(environ) if service.app_id == app_id), None)
    except WeftError:
        return None


def systemctl(environ: Mapping[str, str], *args: str, patience_s: float = START_S) -> str:
    """What systemctl prints, which asks nobody for a password. Raises Refused where it fails."""
    argv = [SYSTEMCTL, "--no-pager", "--no-ask-password", *args]
    try:
        done = subprocess.run(
            argv, env={**environ, "LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=patience_s, encoding="utf-8", errors="backslashreplace", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Refused(f"{SYSTEMCTL} does not end within {patience_s:g} s") from None
    except OSError as error:
        raise Refused(f"cannot run {SYSTEMCTL}: {error.strerror}") from None
    if done.returncode:
        raise Refused(" ".join(done.stderr.split()) or f"{SYSTEMCTL} ends with status {done.returncode}")
    return done.stdout


def installed_version(app_id: str) -> str | None:
    """The version that the next start of the app's service would run, as its status line would have it."""
    try:
        manifest = store.read_manifest(store.find(AppId.parse(app_id), SYSTEM_STORES))
    except (WeftError, ValueError):
        return None
    return printable(manifest.version, statusline.VERSION_MAX)


def _service(unit: str, values: Mapping[str, str]) -> Service | None:
    app_id = instance(unit)
    if app_id is None:
        return None
    state = _STATES.get(values.get("ActiveState", ""), STOPPED)
    if values.get("SubState") in _WAITS:
        state = RESTARTING
    moments = {name: _moment(values, name) for name in _MOMENTS}
    launched, ended, active = moments["ExecMainStart"], moments["ExecMainExit"], moments["ActiveEnter"]
    is_over = _number(values, "MainPID") in (None, 0)
    if launched is None or not is_over:
        ended = None
    ready = active if active is not None and launched is not None and active >= launched else None
    code, status = values.get("ExecMainCode"), _number(values, "ExecMainStatus")
    has_ended = is_over and launched is not None
    killed = _signal_name(status) if has_ended and code in (_KILLED, _DUMPED) else None
    text, version = statusline.parse(values.get("StatusText", ""))
    restarts = _number(values, "NRestarts") or 0
    reason = None
    if state in (STOPPED, FAILED, RESTARTING):
        reason = _reason(values.get("Result", ""), text, killed, was_ready=ready is not None)
        if state == FAILED and restarts:
            reason = f"{reason or 'it has ended'}; systemd has given up"
    peak = _number(values, "MemoryPeak")
    cpu = _number(values, "CPUUsageNSec")
    return Service(
        unit=unit,
        app_id=app_id,
        state=state,
        is_enabled=values.get("UnitFileState", "").startswith("enabled"),
        pid=None if is_over else _number(values, "MainPID"),
        launched=launched,
        ready=ready,
        stopped=ended,
        since={
            RUNNING: active, STARTING: moments["InactiveExit"], STOPPING: moments["ActiveExit"],
            STOPPED: moments["InactiveEnter"], FAILED: moments["InactiveEnter"], RESTARTING: ended,
        }[state],
        exit_status=status if has_ended and code == _EXITED else None,
        signal=killed,
        reason=reason,
        version=version if state in (RUNNING, STARTING, STOPPING) else None,
        restarts=restarts,
        memory=_number(values, "MemoryCurrent"),
        memory_peak=_peak(values) if peak is None else peak,
        cpu=None if cpu is None else cpu / 1e9,
    )  # fmt: skip


def _reason(result: str, text: str, killed: str | None, *, was_ready: bool) -> str | None:
    """Why it does not run; `text` is what it said last of itself, unless it had no time for that."""
    match result:
        case "success" | "exit-code":
            return None if text.startswith("the app is running") else text or None
        case "signal" | "core-dump":
            return f"killed by {killed or 'a signal'}"
        case "oom-kill":
            return "out of memory"
        case "timeout":
            return "it did not end in time" if was_ready else "it did not say READY in time"
        case "start-limit-hit":
            return f"started too often: {text}" if text else "started too often"
        case _:
            return f"systemd says '{printable(result)}'"


def _moment(values: Mapping[str, str], name: str) -> float | None:
    """Unix seconds of a moment, as the wall clock of today gives them to it: somebody may have set that since."""
    monotonic = _number(values, f"{name}TimestampMonotonic")
    if not monotonic:
        return None
    now, since_boot = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
    if since_boot - now < _SUSPENDED_S:
        return time.time() - (now - monotonic / 1e6)
    unix = values.get(f"{name}Timestamp", "").removeprefix("@")
    return float(unix) if unix.isdigit() else None


def _number(values: Mapping[str, str], name: str) -> int | None:
    text = values.get(name, "")
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(_UNSET))
    return int(text) if is_number and int(text) < _UNSET else None


def _peak(values: Mapping[str, str]) -> int | None:
    """From the kernel: the systemd of Debian 12 does not have it."""
    group = values.get("ControlGroup", "").strip("/")
    try:
        text = (_CGROUPS / group / "memory.peak").read_text(encoding="utf-8").strip() if group else ""
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _signal_name(number: int | None) -> str | None:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"
