# SPDX-License-Identifier: Apache-2.0
"""Users and groups: those that the package needs, and who asks."""

import grp
import os
import pwd
import stat

from weft_runtime.ctl.finding import INSTALL, USERS, Finding, note, ok, problem
from weft_runtime.ctl.scene import Scene
from weft_runtime.escape import quote
from weft_runtime.programs import SOCKET_UNIT

COMPILER = "weft-compile"
"""As whom modules are compiled for root."""


def users(scene: Scene) -> list[Finding]:
    """Those that the units of the system need."""
    if not scene.is_system or not scene.unit or scene.unit.get("LoadState") == "not-found":
        return [ok("none needed")]
    needed = [
        ("user", scene.unit.get("User", ""), "weft-appd.service runs as it"),
        ("group", scene.unit.get("Group", ""), "weft-appd.service runs with it"),
        (
            "group",
            scene.units.get(SOCKET_UNIT, {}).get("SocketGroup", ""),
            "the control socket belongs to it",
        ),
    ]
    missing = {(kind, name): why for kind, name, why in needed if name and not _is_there(kind, name)}
    found = [
        problem(f"there is no {kind} {quote(name)}", why, USERS) for (kind, name), why in missing.items()
    ]
    if not _is_there("user", COMPILER):
        what = f"there is no user {quote(COMPILER)}"
        found.append(problem(what, "no app is compiled when it is installed", "systemd-sysusers"))
    names = dict.fromkeys(name for _, name, _ in needed if name)
    return found or [ok(f"{', '.join([*names, COMPILER])} are there")]


def group(scene: Scene) -> list[Finding]:
    """Whether whoever asks may talk to the daemon."""
    try:
        status = scene.socket.stat()
    except OSError as error:
        return [ok(f"not known: {scene.socket}: {error.strerror}")]
    if os.geteuid() == 0:
        return [ok("none needed: you are root")]
    if os.geteuid() == status.st_uid:
        return [ok("none needed: the socket is yours")]
    try:
        entry = grp.getgrgid(status.st_gid)
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        return [problem("the socket's group, or you, have no name", str(error), USERS)]
    name = quote(entry.gr_name)
    if not status.st_mode & stat.S_IWGRP:
        why = f"its mode is {stat.S_IMODE(status.st_mode):o}"
        return [problem(f"the socket is not open to its group {name}", why, f"chmod 660 {scene.socket}")]
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return [ok(f"you are a member of {name}")]
    if user in entry.gr_mem:
        return [problem(f"you became a member of {name} after your login", "log in again", f"su - {user}")]
    why = "root can change that, and you log in again then"
    return [problem(f"you are not a member of {name}", why, f"usermod -aG {entry.gr_name} {user}")]


def view(scene: Scene) -> list[Finding]:
    """From whose point of view all of it was judged."""
    if not scene.is_system:
        return [ok("yours: this weft-appd is one that a user runs")]
    if scene.account is None:
        what = "nobody's: the daemon's user is not there"
        return [note(what, "nothing was judged from its point of view", USERS if scene.unit else INSTALL)]
    if scene.sees_all:
        return [ok(f"that of the user {scene.account.name}")]
    why = (
        "unknown are the data of apps, the daemon's own compiled code, and what else only root "
        f"and {scene.account.name} can read"
    )
    return [note("yours: you are neither root nor the daemon's user", why, "sudo weftctl doctor")]


def _is_there(kind: str, name: str) -> bool:
    try:
        if name.isdecimal():
            return True  # systemd takes a number as it is
        _ = pwd.getpwnam(name) if kind == "user" else grp.getgrnam(name)
    except KeyError:
        return False
    return True
