# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a device that runs apps: one function a question."""

import grp
import os
import platform
import pwd
import stat
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from weft_runtime import __version__, policy, store
from weft_runtime.client import SEE_LOG
from weft_runtime.ctl import logs
from weft_runtime.ctl.daemon import own_store
from weft_runtime.ctl.scene import CONFIG_FILE, UNIT, Scene, run
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import quote
from weft_runtime.ids import AppId
from weft_runtime.policy import Policy
from weft_runtime.settings import SYSTEM_STORES, stores
from weft_runtime.trust import Places, trusted_keys

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "memory", "pids")

_RUNTIME = "weft-runtime-wasmtime"
_INSTALL_HINT = "install the Debian package weft-runtime"


class Verdict(StrEnum):
    OK = "ok"
    NOTE = "note"
    """Worth knowing; apps run all the same."""
    WRONG = "wrong"


class Finding(NamedTuple):
    verdict: Verdict
    text: str
    advice: str | None = None


def versions(scene: Scene) -> Finding:
    done = run(["journalctl", "--version"], scene.caller)
    systemd = " ".join(done.output.split()[:2]) if done is not None and done.output else "no systemd"
    text = f"weftctl {__version__}, Python {platform.python_version()}, {systemd}"
    if scene.status is not None and scene.status.version != __version__:
        apply = "systemctl reload weft-appd" if scene.is_system else "weft-appd --reload"
        return Finding(
            Verdict.NOTE, f"{text}, but weft-appd {scene.status.version} is running", f"'{apply}'"
        )
    return Finding(Verdict.OK, text)


def socket(scene: Scene) -> Finding:
    if isinstance(scene.answer, WeftError):
        return Finding(Verdict.WRONG, scene.answer.message, scene.answer.hint)
    took, sessions = scene.answer_seconds * 1000, _count(scene.answer.live, "session")
    text = f"{scene.socket}: weft-appd, pid {scene.answer.pid}, answers within {took:.0f} ms, {sessions}"
    return Finding(Verdict.OK, text)


def service(scene: Scene) -> Finding:
    if not scene.is_system:
        return Finding(Verdict.OK, "none needed: this weft-appd is one that a user runs")
    if not scene.unit:
        return Finding(Verdict.NOTE, "systemd does not run this machine, so nobody looks after weft-appd")
    if scene.unit.get("LoadState") == "not-found":
        return Finding(Verdict.WRONG, f"there is no {UNIT}", _INSTALL_HINT)
    state = scene.unit.get("ActiveState", "unknown")
    restarts = _count(int(scene.unit.get("NRestarts") or 0), "restart")
    if state in ("active", "activating", "reloading"):
        return Finding(Verdict.OK, f"{UNIT} is {state}, pid {scene.unit.get('MainPID')}, {restarts}")
    if state == "inactive":
        return Finding(Verdict.WRONG, f"{UNIT} is inactive", "systemctl enable --now weft-appd")
    text = f"{UNIT} is {state} (result: {scene.unit.get('Result')}, {restarts})"
    # After too many failures in a row systemd refuses even to restart it.
    apply = "'systemctl reset-failed weft-appd' and 'systemctl restart weft-appd'"
    advice = f"see '{SEE_LOG}', then {apply}"
    return Finding(Verdict.WRONG, text, advice)


def group(scene: Scene) -> Finding:
    try:
        status = scene.socket.stat()
    except OSError as error:
        return Finding(Verdict.NOTE, f"cannot be known: {scene.socket}: {error.strerror}")
    if os.geteuid() == 0:
        return Finding(Verdict.OK, "none needed: you are root")
    if os.geteuid() == status.st_uid:
        return Finding(Verdict.OK, "none needed: the socket is yours")
    try:
        entry = grp.getgrgid(status.st_gid)
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        return Finding(Verdict.WRONG, f"the socket's group, or you, have no name: {error}", _INSTALL_HINT)
    name = quote(entry.gr_name)
    if not status.st_mode & stat.S_IWGRP:
        text = f"the socket is not open to its group {name}: its mode is {stat.S_IMODE(status.st_mode):o}"
        return Finding(Verdict.WRONG, text, "systemctl restart weft-appd.socket")
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return Finding(Verdict.OK, f"you are a member of {name}")
    if user in entry.gr_mem:
        return Finding(Verdict.WRONG, f"you became a member of {name} after your login", "log in again")
    advice = f"'usermod -aG {entry.gr_name} {user}' as root, then log in again"
    return Finding(Verdict.WRONG, f"you are not a member of {name}", advice)


def journal(scene: Scene) -> Finding:
    complaint = logs.denied(of_system=scene.is_system)
    if complaint is None:
        return Finding(Verdict.OK, "can be read")
    # A user's own daemon writes its log to the terminal it was started from.
    verdict = Verdict.WRONG if scene.is_system else Verdict.NOTE
    return Finding(verdict, complaint.message, complaint.hint)


def engine(scene: Scene) -> Finding:
    if scene.status is not None:
        if scene.status.runtime_problem is not None:
            return Finding(Verdict.WRONG, scene.status.runtime_problem, _INSTALL_HINT)
        runtime = scene.status.runtime
    else:
        runtime = scene.setting("runtime_bin", "WEFT_RUNTIME_BIN") or scene.program(_RUNTIME)
    if not runtime:
        return Finding(Verdict.WRONG, f"{_RUNTIME} is not installed: no app can run", _INSTALL_HINT)
    done = run([runtime, "--version"], {**scene.environ, "WEFT_LOG": "stderr"})
    if done is None:
        text = f"the runtime {quote(runtime)} is no program"
        return Finding(Verdict.WRONG, text, "see the setting runtime_bin, or WEFT_RUNTIME_BIN")
    if done.complaint is not None:
        return Finding(Verdict.WRONG, f"{runtime} --version: {done.complaint}", _INSTALL_HINT)
    if "stub" in done.output:
        advice = f"{_INSTALL_HINT}, or pip install 'weft-runtime[wasmtime-runtime]'"
        return Finding(Verdict.WRONG, f"{done.output}: no app runs", advice)
    return Finding(Verdict.OK, done.output)


def launches(scene: Scene) -> Finding:
    """Where the processes of sessions come from."""
    if scene.status is None:
        return Finding(Verdict.NOTE, "cannot be known: weft-appd does not say")
    if scene.status.fork_server is not None:
        spares = _count(scene.status.spares, "fork")
        return Finding(Verdict.OK, f"by the fork server, pid {scene.status.fork_server}; {spares} ready")
    if not scene.is_on("fork_server", "WEFT_FORK_SERVER"):
        return Finding(Verdict.OK, "each executes the runtime: fork_server is off")
    text = "there is no fork server now: each launch executes the runtime, which takes longer"
    return Finding(
        Verdict.NOTE,
        text,
        f"weft-appd tries again unless the runtime has none: '{SEE_LOG}' says why",
    )


def settings(scene: Scene) -> Finding:
    program = scene.program("weft-appd")
    done = None if program is None else run([program, "--check"], {**scene.environ, "WEFT_LOG": "stderr"})
    if done is None:
        return Finding(Verdict.WRONG, "weft-appd is not installed", _INSTALL_HINT)
    if done.complaint is not None:
        apply = "systemctl reload-or-restart weft-appd" if scene.is_system else "weft-appd --reload"
        return Finding(Verdict.WRONG, done.complaint, f"correct them, then '{apply}'")
    source = str(CONFIG_FILE) if CONFIG_FILE.exists() else f"there is no {CONFIG_FILE}, the defaults"
    return Finding(Verdict.OK, f"{source}: valid")


def packages(scene: Scene) -> Finding:
    """The stores that the daemon reads, and what is in them."""
    only = scene.setting("app_store", "WEFT_APP_STORE")
    if only is not None:
        searched: Sequence[Path] = (Path(only),)
    else:
        searched = SYSTEM_STORES if scene.is_system else stores(scene.environ)
    found = [directory for directory in searched if _is_directory(directory)]
    for directory in found:
        if scene.is_system and (complaint := _unfit(directory)):
            return Finding(Verdict.WRONG, f"{directory} {complaint[0]}", complaint[1])
    broken = [text for directory in found for text in _broken(directory)]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        return Finding(Verdict.WRONG, f"{broken[0]}{more}", "install the package again, or remove it")
    count = _count(len(store.installed(searched)), "app")
    text = f"{count} in {', '.join(map(str, found)) or 'no store'}"
    if not found:
        return Finding(Verdict.NOTE, f"none: {', '.join(map(str, searched))}", "install apps there")
    own = own_store(scene.caller)
    if own is not None and own not in searched and (others := store.installed([own])):
        text += f"; {_count(len(others), 'app')} in {own}, which this weft-appd does not read"
        return Finding(Verdict.NOTE, text, f"install them into {searched[0]}")
    return Finding(Verdict.OK, text)


def trust(scene: Scene) -> Finding:
    """The policy for packages, and the keys behind it."""
    places = Places()
    try:
        rule = policy.read(places.config, owner=places.owner)
        keys = trusted_keys(places)
    except WeftError as error:
        text = f"{error.message}: no package is installed, and none started where a signature is required"
        return Finding(Verdict.WRONG, text, "correct it, or remove it")
    text = f"policy '{rule}', {_count(len(keys.by_value), 'trusted key')}, {len(keys.revoked)} revoked"
    if keys.complaints:
        return Finding(Verdict.NOTE, f"{text}; ignored: {'; '.join(keys.complaints)}", "correct these files")
    if rule is Policy.REQUIRE and not keys.by_value:
        return Finding(Verdict.WRONG, f"{text}: no app can start", f"put a key into {places.keys[0]}")
    return Finding(Verdict.OK, text)


def controllers(scene: Scene) -> Finding:
    """What the limits of sessions need."""
    directory = CGROUPS / scene.unit.get("ControlGroup", "").lstrip("/")
    try:
        there = (directory / "cgroup.controllers").read_text(encoding="utf-8").split()
    except OSError:
        text = "there is no unified cgroup hierarchy: apps run without limits"
        return Finding(Verdict.NOTE, text, "boot with systemd.unified_cgroup_hierarchy=1")
    if scene.status is not None:
        there = list(scene.status.controllers)  # what the unit has is not always left to the daemon
    missing = [name for name in CONTROLLERS if name not in there]
    if missing:
        advice = "see Delegate= of the unit, and cgroup_enable= of the kernel's command line"
        text = f"{', '.join(missing)} not there: apps run without these limits"
        return Finding(Verdict.NOTE, text, advice)
    return Finding(Verdict.OK, f"{', '.join(CONTROLLERS)} are there")


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # it cannot be looked at, and so not read either


def _unfit(directory: Path) -> tuple[str, str] | None:
    """What is wrong with a store of the system as a directory, and what to do."""
    status = directory.stat()
    if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others than root", f"chown root: {directory}; chmod 755 {directory}"
    if not status.st_mode & stat.S_IROTH or not status.st_mode & stat.S_IXOTH:
        return "cannot be read by weft-appd", f"chmod 755 {directory}"
    return None


def _broken(directory: Path) -> list[str]:
    """Packages in a store that cannot be launched, and why; a directory without a manifest is none."""
    found = []
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        return [f"{directory}: {error.strerror}"]
    for name in names:
        try:
            package = store.open_package(AppId.parse(name), [directory])
            os.close(package.module_fd)
        except ValueError:
            continue
        except WeftError as error:
            if error.problem is not Problem.PACKAGE_NOT_FOUND:
                found.append(error.message)
    return found


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
