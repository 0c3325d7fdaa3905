# SPDX-License-Identifier: Apache-2.0
"""The daemon: what it says of itself, its socket, what it starts apps with, what it has to start again."""

import json
import os
import platform
import shlex
import stat
from pathlib import Path

from weft_runtime import __version__, programs
from weft_runtime.account import Account
from weft_runtime.appd import files
from weft_runtime.client import SEE_LOG
from weft_runtime.ctl.checks.settings import without_variable
from weft_runtime.ctl.finding import (
    INSTALL,
    RESET,
    RESTART,
    SERVICES,
    USERS,
    Finding,
    note,
    ok,
    problem,
)
from weft_runtime.ctl.scene import Scene
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import quote
from weft_runtime.plural import counted
from weft_runtime.programs import SOCKET_UNIT

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "memory", "pids")
_KERNEL = "cat /proc/cmdline /sys/fs/cgroup/cgroup.controllers"
"""What the kernel was told, and has: how to tell it depends on what boots the device."""

_RUNTIME = "weft-runtime-wasmtime"


def versions(scene: Scene) -> list[Finding]:
    done = programs.run(["journalctl", "--version"], scene.caller)
    systemd = " ".join(done.output.split()[:2]) if done is not None and done.output else "no systemd"
    text = f"weftctl {__version__}, Python {platform.python_version()}, {systemd}"
    if scene.status is not None and scene.status.version != __version__:
        apply = "systemctl reload weft-appd" if scene.is_system else "weft-appd --reload"
        what = f"{text}, but weft-appd {scene.status.version} is running"
        return [note(what, "the installed one has not taken over", apply)]
    return [ok(text)]


def socket(scene: Scene) -> list[Finding]:
    found = [*_doors(scene)] if scene.is_system else []
    if not isinstance(scene.answer, WeftError):
        took, sessions = scene.answer_seconds * 1000, counted(scene.answer.live, "session")
        text = f"{scene.socket}: weft-appd, pid {scene.answer.pid}, answers within {took:.0f} ms, {sessions}"
        return [ok(text), *found]
    what, why = scene.answer.message, scene.answer.hint
    if not scene.is_system:
        return [problem(what, why, "weft-appd")]
    if scene.is_stopped:
        return [note("not open: weft-appd is stopped", None, f"systemctl start {SERVICES}"), *found]
    if found:  # what is wrong with it, and how to mend that, says more
        return found
    if scene.answer.problem is Problem.NOT_PERMITTED:  # the next check says how to get in
        return [note(what, "so nothing is known of what weft-appd says of itself", "sudo weftctl doctor")]
    if not scene.unit:
        return [problem(what, why, "weft-appd")]
    if scene.unit.get("LoadState") == "not-found":
        return [problem(what, None, INSTALL)]
    if scene.account is None:
        return [problem(what, "the daemon's user is not there", USERS)]
    return [problem(what, f"'{SEE_LOG}' says more", f"{RESET}; systemctl restart {SERVICES}")]


def _doors(scene: Scene) -> list[Finding]:
    """What is wrong with the socket's file, against its unit."""
    unit = scene.units.get(SOCKET_UNIT, {})
    try:
        directory, status = scene.socket.parent.stat(), scene.socket.lstat()
    except OSError:
        return []
    found = []
    if not directory.st_mode & stat.S_IXOTH:
        why = f"its mode is {stat.S_IMODE(directory.st_mode):o}"
        what = f"nobody but its owner gets into {scene.socket.parent}"
        found.append(problem(what, why, f"chmod 755 {scene.socket.parent}"))
    if not stat.S_ISSOCK(status.st_mode):
        again = f"rm -r {scene.socket} && {RESET}; systemctl restart {SERVICES}"
        return [problem(f"{scene.socket} is no socket", "nobody can talk to weft-appd", again)]
    if unit.get("ActiveState") != "active":
        if scene.status is None and unit.get("LoadState") == "loaded":
            why = f"{SOCKET_UNIT} is {unit.get('ActiveState')}"
            found.append(note(f"{scene.socket} is there, and nobody listens", why, f"rm {scene.socket}"))
        return found
    mode, wanted = stat.S_IMODE(status.st_mode), int(unit.get("SocketMode") or "0660", 8)
    if mode != wanted:
        what = f"the mode of {scene.socket} is {mode:o}, not {wanted:o}"
        why = (
            "others than the group can start and end apps"
            if mode & 0o006
            else "its group cannot talk to weft-appd"
        )
        found.append(problem(what, why, f"chmod {wanted:o} {scene.socket}"))
    owner = Account.find(unit.get("SocketUser") or "root", unit.get("SocketGroup", ""))
    if owner is not None and (status.st_uid, status.st_gid) != (owner.uid, owner.gid):
        what = f"{scene.socket} belongs to {status.st_uid}:{status.st_gid}, not to {owner.uid}:{owner.gid}"
        why = "the wrong users can start and end apps"
        found.append(problem(what, why, f"chown {owner.uid}:{owner.gid} {scene.socket}"))
    return found


def engine(scene: Scene) -> list[Finding]:
    if scene.status is not None:
        if scene.status.runtime_problem is not None:
            return [_no_engine(scene, scene.status.runtime_problem)]
        runtime = scene.status.runtime
    else:
        runtime = scene.setting("runtime_bin", "WEFT_RUNTIME_BIN") or scene.program(_RUNTIME)
    if not runtime:
        return [_no_engine(scene, f"{_RUNTIME} is not installed")]
    account = scene.account if scene.is_system and os.geteuid() == 0 else None
    done = programs.run([runtime, "--version"], {**scene.environ, "WEFT_LOG": "stderr"}, account)
    if done is None:
        return [_no_engine(scene, f"the runtime {quote(runtime)} is no program")]
    if done.complaint is not None:
        return [_no_engine(scene, f"{runtime} --version: {done.complaint}")]
    if "stub" in done.output:
        return [_no_engine(scene, done.output)]
    return [ok(done.output)]


def _no_engine(scene: Scene, what: str) -> Finding:
    """With the command for where the program is named: a drop-in of the unit, or the package."""
    why = "no app runs"
    if not scene.is_system:
        return problem(what, why, "pip install 'weft-runtime[wasmtime-runtime]'")
    if mend := without_variable(scene, "WEFT_RUNTIME_BIN"):
        return problem(what, why, mend)
    path = Path(scene.environ.get("WEFT_RUNTIME_BIN", ""))
    if path.is_absolute() and path.is_file() and not path.stat().st_mode & stat.S_IXOTH:
        return problem(what, why, f"chmod 755 {path} && {RESTART}")
    return problem(what, why, f"{INSTALL} && {RESTART}")


def restore(scene: Scene) -> list[Finding]:
    """Apps of the last session that were not started again."""
    waiting = scene.waiting
    if waiting is None:
        return [ok("not known: weft-appd does not say")]
    found = []
    first = {app.app_id: app for app in reversed(waiting.apps) if app.attempts}
    for app_id, app in sorted(first.items()):
        what = f"{app_id} waits to be started again, tried {counted(app.attempts, 'time')}"
        found.append(problem(what, app.reason, f"weftctl restore {shlex.quote(app_id)}"))
    for item in waiting.refused:
        what = f"the apps in {item.path} were not started again"
        found.append(
            problem(what, item.reason, f"weftctl restore{'' if _is_list(item.path) else ' --forget'}")
        )
    if waiting.problem is not None:
        what, reload = "the list of the apps to start again is not saved", "systemctl reload weft-appd"
        found.append(problem(what, waiting.problem, reload if scene.is_system else "weft-appd --reload"))
    begun = sum(not app.attempts for app in waiting.apps)
    return found or [ok(f"{counted(begun, 'app')} to be started again, none in vain")]


def _is_list(path: str) -> bool:
    """Whether a list that was refused can be used; who cannot read it does not know better."""
    try:
        return isinstance(json.loads(files.read(Path(path))), list)
    except PermissionError:
        return True
    except (OSError, ValueError, RecursionError):
        return False


def launches(scene: Scene) -> list[Finding]:
    """Where the processes of sessions come from."""
    if scene.status is None:
        return [ok("not known: weft-appd does not say")]
    is_wanted = scene.is_on("fork_server", "WEFT_FORK_SERVER")
    status = (scene.fork_server() if is_wanted else None) or scene.status
    if status.fork_server is not None:
        return [ok(f"by the fork server, pid {status.fork_server}; {counted(status.spares, 'fork')} ready")]
    if not is_wanted:
        return [ok("each executes the runtime: fork_server is off")]
    what = "there is no fork server now: each launch executes the runtime, which takes longer"
    apply = "systemctl reload weft-appd" if scene.is_system else "weft-appd --reload"
    return [note(what, f"weft-appd tries again by itself; '{SEE_LOG}' says why", apply)]


def controllers(scene: Scene) -> list[Finding]:
    """What the limits of sessions need."""
    directory = CGROUPS / scene.unit.get("ControlGroup", "").lstrip("/")
    try:
        there = (directory / "cgroup.controllers").read_text(encoding="utf-8").split()
    except OSError:
        if os.path.exists(CGROUPS / "cgroup.controllers"):
            return [ok("not known: weft-appd has no control group now")]
        what = "there is no unified cgroup hierarchy: apps run without limits"
        return [
            note(
                what, "the kernel's command line says otherwise: systemd.unified_cgroup_hierarchy=1", _KERNEL
            )
        ]
    if scene.status is not None:
        there = list(scene.status.controllers)  # what the unit has is not always left to the daemon
    missing = [name for name in CONTROLLERS if name not in there]
    if missing:
        why = "see Delegate= of the unit, and cgroup_enable= of the kernel's command line"
        what = f"{', '.join(missing)} not there: apps run without these limits"
        return [note(what, why, _KERNEL)]
    return [ok(f"{', '.join(CONTROLLERS)} are there")]
