# SPDX-License-Identifier: Apache-2.0
"""Units of systemd: the daemon's, its sockets, and the services of apps."""

import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from weft_runtime import programs
from weft_runtime.ctl import logs
from weft_runtime.ctl.checks.starts import DIRECTORIES, start_limits
from weft_runtime.ctl.finding import INSTALL, RESET, RESTART, SERVICES, Finding, note, ok, problem
from weft_runtime.ctl.scene import COMPILE_UNITS, Scene
from weft_runtime.errors import ExitStatus
from weft_runtime.escape import printable
from weft_runtime.ids import AppId
from weft_runtime.plural import counted
from weft_runtime.programs import SOCKET_UNIT, UNIT, WEBSOCKET_UNIT
from weft_runtime.settings import SYSTEM_STORES

_ENABLED = ("enabled", "enabled-runtime", "linked", "linked-runtime", "static", "alias", "generated")
_WEBSOCKET_OFF = f"systemctl disable --now {WEBSOCKET_UNIT} && {RESTART}"
_LISTENS = "0A"
"""The state of a TCP socket, as /proc/net/tcp has it."""

_RESULTS = {
    "timeout": "it took longer than the unit lets it (TimeoutStartSec=, TimeoutStopSec=)",
    "oom-kill": "out of memory (MemoryMax=)",
    "watchdog": "it did not answer its watchdog",
    "start-limit-hit": "it failed too often in a short time (StartLimitBurst=)",
    "resources": "systemd could not give it what the unit asks for",
    "signal": "a signal ended it",
    "core-dump": "a signal ended it",
    "protocol": "it did not say READY",
}


def service(scene: Scene) -> list[Finding]:
    if not scene.is_system:
        return [ok("none needed: this weft-appd is one that a user runs")]
    if not scene.unit and programs.is_booted():
        return [
            note("systemd does not answer", "nothing is known of units", "systemctl status dbus.service")
        ]
    if not scene.unit:
        return [ok("systemd does not run this machine, so nobody looks after weft-appd")]
    if scene.unit.get("LoadState") == "not-found":
        return [problem(f"there is no {UNIT}", None, INSTALL)]
    found = _masked(scene) or _unloaded(scene)
    if not found:
        found = [_state_of_service(scene), *_failed(scene, SOCKET_UNIT, *COMPILE_UNITS)]
    stale = [
        name for name in (UNIT, SOCKET_UNIT) if scene.units.get(name, {}).get("NeedDaemonReload") == "yes"
    ]
    if stale:
        what = f"the files of {' and '.join(stale)} were changed, and systemd goes by those before"
        apply = "" if scene.is_stopped else f" && {RESTART}"
        found.append(note(what, None, f"systemctl daemon-reload{apply}"))
    return found


def _masked(scene: Scene) -> list[Finding]:
    masked = [name for name in (UNIT, SOCKET_UNIT) if scene.units.get(name, {}).get("LoadState") == "masked"]
    if not masked:
        return []
    what = f"{' and '.join(masked)} {'is' if len(masked) == 1 else 'are'} masked"
    return [
        problem(
            what,
            "nothing can start it",
            f"systemctl unmask {' '.join(masked)} && systemctl start {SERVICES}",
        )
    ]


def _unloaded(scene: Scene) -> list[Finding]:
    """Units whose files systemd does not take, as those of an operator's mistake."""
    found = []
    for name in (UNIT, SOCKET_UNIT, WEBSOCKET_UNIT):
        state = scene.units.get(name, {}).get("LoadState", "loaded")
        if state in ("bad-setting", "error"):
            what = f"systemd cannot load {name}: {state}"
            mend = f"systemctl revert {name}; systemctl daemon-reload; {RESET}; systemctl restart {SERVICES}"
            found.append(
                problem(what, f"'systemd-analyze verify {name}' says where; files in /etc are removed", mend)
            )
    return found


def _state_of_service(scene: Scene) -> Finding:
    state = scene.unit.get("ActiveState", "unknown")
    restarts = counted(int(scene.unit.get("NRestarts") or 0), "restart")
    if state in ("active", "reloading") or (state == "activating" and scene.status is not None):
        return ok(f"{UNIT} is {state}, pid {scene.unit.get('MainPID')}, {restarts}")
    if scene.is_stopped:
        return note(f"{UNIT} is stopped, and so are its sockets", None, f"systemctl start {SERVICES}")
    start = f"{RESET}; systemctl start {SERVICES}"
    if state in ("inactive", "deactivating"):
        return problem(f"{UNIT} is {state}", "a part of it does not run", start)
    why = f"result: {scene.unit.get('Result')}, {restarts}"
    # After too many failures in a row systemd refuses even to start it.
    return problem(f"{UNIT} is {state}", f"{why}; its last words: {_last_words(scene, UNIT)}", start)


def _failed(scene: Scene, *names: str) -> list[Finding]:
    """The other units of the package that have failed."""
    found = []
    for name in names:
        unit = scene.units.get(name, {})
        if unit.get("ActiveState") == "failed":
            mend = f"systemctl reset-failed {name}; systemctl restart {name}"
            if name == SOCKET_UNIT:
                mend = f"{RESET}; systemctl restart {SERVICES}"
            found.append(problem(f"{name} is failed", f"result: {unit.get('Result')}", mend))
    return found


def boot(scene: Scene) -> list[Finding]:
    """Whether what runs now runs after the next start of the system as well."""
    states = {name: scene.units.get(name, {}).get("UnitFileState", "") for name in (UNIT, SOCKET_UNIT)}
    if not any(states.values()):
        return [ok("no unit to enable")]
    disabled = [name for name, state in states.items() if state not in _ENABLED]
    mend = f"systemctl enable {SERVICES}"
    if len(disabled) == len(states):
        what = f"{' and '.join(disabled)} are {' and '.join(dict.fromkeys(states.values()))}"
        why = "nothing starts at the next boot, and no app comes back"
        if scene.is_stopped or "masked" in states.values():
            return [
                note(what, why, mend if "masked" not in states.values() else f"systemctl unmask {SERVICES}")
            ]
        return [problem(what, why, mend)]
    if disabled == [UNIT]:
        what = f"{UNIT} is {states[UNIT]}"
        return [note(what, "after the next boot it starts when somebody asks it something", mend)]
    if disabled:
        return [note(f"{SOCKET_UNIT} is {states[SOCKET_UNIT]}", f"{UNIT} opens it at the next boot", mend)]
    return [ok(f"{UNIT} and {SOCKET_UNIT} are enabled")]


def websocket(scene: Scene) -> list[Finding]:
    unit = scene.units.get(WEBSOCKET_UNIT, {})
    if unit.get("LoadState") != "loaded":
        return [ok("no unit opens one")]
    if stale := _stale_links():
        return [stale]
    state, wanted = unit.get("ActiveState"), unit.get("UnitFileState") in _ENABLED
    address = unit.get("Listen", "").partition(" ")[0]
    if state == "active":
        if wanted:
            return [ok(f"at {address}")]
        return [
            note(
                f"open at {address}, but {WEBSOCKET_UNIT} is not enabled",
                "it is gone after a boot",
                _WEBSOCKET_OFF,
            )
        ]
    if state == "failed" or (wanted and not scene.is_stopped):
        what = f"{WEBSOCKET_UNIT} is {'enabled' if wanted else 'not enabled'} and {state}: nobody listens at {address}"
        open_it = (
            f"systemctl reset-failed {WEBSOCKET_UNIT}; {RESTART} && systemctl is-active {WEBSOCKET_UNIT}"
        )
        if not wanted:
            return [
                problem(what, f"result: {unit.get('Result')}", f"systemctl reset-failed {WEBSOCKET_UNIT}")
            ]
        if (holder := _holder(address)) is not None:
            why, end = holder
            return [problem(what, why, f"{end}; {open_it}")]
        return [
            problem(what, f"result: {unit.get('Result')}; systemd opens it when weft-appd starts", open_it)
        ]
    return [ok(f"{WEBSOCKET_UNIT} is {'enabled' if wanted else 'off'}, {state}")]


def _stale_links() -> Finding | None:
    """A link by which a boot opens the WebSocket by itself: the first release made one."""
    links = (directory / "sockets.target.wants" / WEBSOCKET_UNIT for directory in DIRECTORIES)
    link = next((link for link in links if link.is_symlink()), None)
    if link is None:
        return None
    why = f"a boot opens {WEBSOCKET_UNIT} even where weft-appd is disabled"
    return problem(f"{link} is left of an earlier release", why, f"systemctl reenable {WEBSOCKET_UNIT}")


def _holder(address: str) -> tuple[str, str] | None:
    """Who else listens on the port of `address`: a sentence, and the command that ends them."""
    port = address.rpartition(":")[2]
    if not port.isdecimal():
        return None
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError, IndexError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == int(port):
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(fd.readlink()) in inodes for fd in (process / "fd").iterdir()):
                name = printable((process / "comm").read_text(encoding="utf-8", errors="replace").strip())
                group = (process / "cgroup").read_text(encoding="utf-8").strip()
                unit = re.search(r"/([^/]+\.service)(/|$)", group)
                end = f"systemctl stop {unit[1]}" if unit and process.name != "1" else f"kill {process.name}"
                return f"port {port} is in use by {name}, process {process.name}", end
    return f"port {port} is in use by another program", f"fuser --kill {port}/tcp"


def apps(scene: Scene) -> list[Finding]:
    """The services of apps: those that have failed, and those that will."""
    units = {name: unit for name, unit in scene.units.items() if programs.instance(name) is not None}
    if not scene.unit:
        return [ok("no services")]
    found = []
    for name in sorted({*units, *_enabled()}):
        unit = units.get(name, {})
        app_id, quoted = programs.instance(name) or "", shlex.quote(name)
        gone = f"systemctl disable --now {quoted}; systemctl reset-failed {quoted}"
        is_there = any(os.path.lexists(store / app_id) for store in SYSTEM_STORES)
        if unit.get("ActiveState") == "failed":
            mend = f"systemctl reset-failed {quoted}; systemctl restart {quoted}" if is_there else gone
            found.append(problem(f"{name} is failed", _reason(scene, unit, name), mend))
        elif unit.get("SubState") == "auto-restart":
            what = f"{name} fails and is started again, {unit.get('NRestarts')} times so far"
            mend = f"systemctl restart {quoted}" if is_there else gone
            found.append(problem(what, _reason(scene, unit, name), mend))
        elif not is_there and unit.get("ActiveState") != "active":
            found.append(
                problem(f"{name} is enabled", f"{app_id} is not installed: it fails at each boot", gone)
            )
    found += start_limits(scene, {*units, *_enabled()})
    running = sum(unit.get("ActiveState") == "active" for unit in units.values())
    return found or [ok(f"{counted(running, 'service')} of apps running, none failed")]


def _enabled() -> list[str]:
    """Services of apps that a boot starts; list-unit-files does not have the instances of a template."""
    links = [link for directory in DIRECTORIES for link in directory.glob(f"*.*/{programs.APP_UNITS}")]
    return [link.name for link in links if link.is_symlink() and _app_id(link.name) is not None]


def _app_id(unit: str) -> AppId | None:
    try:
        return AppId.parse(programs.instance(unit) or "")
    except ValueError:
        return None


def _reason(scene: Scene, unit: Mapping[str, str], name: str) -> str:
    """Why a service has failed: what systemd knows, and the last words of the runtime."""
    result, text = unit.get("Result", ""), _RESULTS.get(unit.get("Result", ""), "")
    if result == "exit-code" and unit.get("ExecMainStatus", "").isdecimal():
        status = int(unit["ExecMainStatus"])
        meaning = {item.value: item.meaning for item in ExitStatus}.get(status)
        text = f"it ended with status {status}" + (f", {meaning}" if meaning else "")
    words = _last_words(scene, name, since=unit.get("ExecMainStartTimestamp", ""))
    return "; ".join(part for part in (text or f"result: {result}", words) if part)


def _last_words(scene: Scene, name: str, since: str = "") -> str:
    """The last error that a unit has logged, or what systemd says of it."""
    matches = [f"_SYSTEMD_UNIT={name}"]
    if (app_id := _app_id(name)) is not None:
        matches = logs.service_matches(app_id)[1:]
    options = [f"--since={since}"] if since.startswith("@") else []
    argv = [
        "journalctl",
        "--quiet",
        "--no-pager",
        "--output=cat",
        "--priority=err",
        "--lines=20",
        *options,
        *matches,
    ]
    done = programs.run(argv, scene.caller)
    lines = [] if done is None else [line for line in done.output.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("Failed to start", name))]
    return printable((own or lines or [""])[-1], 1000)
