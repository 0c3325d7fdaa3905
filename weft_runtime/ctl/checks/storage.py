# SPDX-License-Identifier: Apache-2.0
"""Directories and disks: the daemon's own places, the data of apps, and what is left of the disks that they are on."""

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from weft_runtime.account import Account
from weft_runtime.ctl.finding import RESTART, Finding, note, ok, problem
from weft_runtime.ctl.scene import CACHE, DATA, RUNTIME, STATE, SYSTEM_CACHE, Scene
from weft_runtime.escape import printable
from weft_runtime.integrity import unsafe
from weft_runtime.limits import KIB, MIB
from weft_runtime.plural import counted

FULL_BYTES, LOW_BYTES = 4 * MIB, 64 * MIB
"""Bytes left: with less than the first, and a fiftieth of the disk, a list or a module may not fit any more; less than the
second and a twentieth is told in time."""

LEAST_BYTES = 64 * KIB
"""Less than that is too little on the smallest of disks."""

FULL_FILES = 16
"""Files that can still be made: the daemon needs a few for each of its own."""

_FILES_MAX = 20_000
"""Files of one app's data that are looked at: more would take seconds."""

_APPS = "apps"
_SERVICES = (Path("/var/lib/private/weft-apps"), Path("/var/cache/private/weft-apps"))
"""What the services of apps keep (DynamicUser=)."""

_JOURNAL, _APT = Path("/var/log/journal"), Path("/var/cache/apt/archives")


def directories(scene: Scene) -> list[Finding]:
    """Those of the daemon's unit: systemd makes them when it starts, and looks at them at no other time."""
    if not scene.is_system or not scene.unit:
        return [ok("not looked at: they are your own")]
    account = scene.account
    if account is None:
        return [ok("not looked at: their owner is not there")]
    is_active = scene.status is not None
    found = []
    if os.path.exists(RUNTIME) and scene.unit.get("ActiveState") in ("inactive", "failed"):
        found.append(note(f"{RUNTIME} is left of a weft-appd that has ended", None, f"rm -r {RUNTIME}"))
    for directory in (STATE, CACHE, *([RUNTIME] if is_active else ())):
        found += _own(account, directory, is_active=is_active)
    for directory in (SYSTEM_CACHE.parent, SYSTEM_CACHE, SYSTEM_CACHE / "code"):
        found += _roots(account, directory)
    return found or [ok(f"{STATE}, {CACHE} and {SYSTEM_CACHE} are as they should be")]


def _own(account: Account, directory: Path, *, is_active: bool) -> list[Finding]:
    """A directory that the daemon writes."""
    again = f"chown -hR {account.uid}:{account.gid} {directory} && chmod -R u+rwX,go-w {directory}"
    try:
        status = directory.stat()
    except FileNotFoundError:
        why = "weft-appd cannot keep anything there"
        return [problem(f"{directory} is not there", why, RESTART)] if is_active else []
    except OSError:
        return []
    why = {
        STATE: "the list of running apps is not kept, and they do not come back",
        CACHE: "apps are compiled at each launch",
    }.get(directory, "weft-appd cannot write there")
    if (complaint := unsafe(status, account.uid, is_directory=True)) is not None:
        return [problem(f"{directory} {complaint}", why, again)]
    if status.st_mode & 0o700 != 0o700:
        return [
            problem(f"{directory} cannot be used: its mode is {stat.S_IMODE(status.st_mode):o}", why, again)
        ]
    strangers = (
        [path for path in _below(directory) if path.lstat().st_uid not in (0, account.uid)]
        if os.geteuid() == 0
        else []
    )
    if strangers:
        what = f"{printable(str(strangers[0]))} belongs to neither root nor {account.name}"
        return [problem(what, why, again)]
    return []


def _roots(account: Account, directory: Path) -> list[Finding]:
    """A directory of root's cache, which the daemon reads and trusts."""
    why = "what is compiled there is not used"
    try:
        status = directory.stat()
    except OSError:
        return []  # it is made when something is compiled
    mend = f"chown root:root {directory} && chmod 755 {directory}"
    if (complaint := unsafe(status, 0, is_directory=True)) is not None:
        return [problem(f"{directory} {complaint}", why, mend)]
    if not account.may(directory, os.R_OK | os.X_OK):
        what = f"the user {account.name} cannot read {directory}"
        return [problem(what, f"{why}; its mode is {stat.S_IMODE(status.st_mode):o}", mend)]
    return []


def data(scene: Scene) -> list[Finding]:
    """The directories of apps, each of which its app must be able to write."""
    account = scene.account
    if not scene.is_system or account is None or not scene.sees_all:
        return [ok("not looked at")]
    root = scene.data_root
    try:
        names = sorted(entry.name for entry in os.scandir(root))
    except FileNotFoundError:
        return [ok(f"{root} is not there yet")]
    except OSError as error:
        return [
            problem(f"{root} cannot be read", error.strerror, f"chown {account.uid}:{account.gid} {root}")
        ]
    found = []
    if root == DATA:
        found += _wrong(account, root, "no app with data starts", depth=0)
    for name in names:
        found += _wrong(account, root / name, f"{printable(name)} cannot write its data, or does not start")
    return found or [ok(f"{counted(len(names), 'app')} with data in {root}")]


def _wrong(account: Account, directory: Path, why: str, depth: int = _FILES_MAX) -> list[Finding]:
    name = shlex.quote(str(directory))
    # Links are changed themselves: what one leads to is not the app's.
    option = "R" if depth else ""
    mend = (
        f"chown -h{option} {account.uid}:{account.gid} {name} && chmod {'-R ' if depth else ''}u+rwX {name}"
    )
    shown = printable(str(directory))
    try:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return [problem(f"{shown} is no directory", why, f"mv {name} {name}.wrong")]
        if status.st_uid != account.uid:
            return [
                problem(f"{shown} belongs to the user {status.st_uid}, not to {account.name}", why, mend)
            ]
        if status.st_mode & 0o700 != 0o700:
            mode = stat.S_IMODE(status.st_mode)
            return [problem(f"{shown} cannot be written: its mode is {mode:o}", why, mend)]
        others = [path for path in _below(directory, depth) if path.lstat().st_uid != account.uid]
    except OSError as error:
        return [problem(f"{shown} cannot be read", error.strerror, mend)]
    if others:
        what = f"{counted(len(others), 'file')} in {shown} belong to other users than {account.name}"
        return [problem(what, f"the first is {printable(str(others[0]))}", mend)]
    return []


def _below(directory: Path, limit: int = _FILES_MAX) -> Iterator[Path]:
    """What is in a directory, down to its last subdirectory; links are not followed."""
    for above, directories, files in os.walk(directory):
        for name in (*directories, *files):
            if (limit := limit - 1) < 0:
                return
            yield Path(above, name)


def disks(scene: Scene) -> list[Finding]:
    """What is left of each disk that something of this is on."""
    if not scene.is_system:
        return [ok("not looked at")]
    kept: dict[str, list[str]] = {}
    places = {
        "the state": STATE, "the data of apps": scene.data_root, "the data of services": _SERVICES[0],
        "compiled code": CACHE, "root's compiled code": SYSTEM_CACHE, "compiled code of services": _SERVICES[1],
        _APPS: scene.stores[0], "what lasts until the next boot": RUNTIME, "temporary files": Path("/tmp"), "the log": _JOURNAL,
    }  # fmt: skip
    for what, path in places.items():
        if (existing := _existing(path)) is not None:
            kept.setdefault(_mount(existing), []).append(what)
    found = []
    for mount, names in sorted(kept.items()):
        found += _space(mount, ", ".join(names))
    return found or [ok(f"{counted(len(kept), 'file system')} with room: {', '.join(sorted(kept))}")]


def _space(mount: str, what: str) -> list[Finding]:
    try:
        left = os.statvfs(mount)
    except OSError as error:
        return [
            problem(
                f"the disk at {printable(mount)} does not answer",
                error.strerror,
                f"fsck {shlex.quote(mount)}",
            )
        ]
    at, name = printable(mount), shlex.quote(mount)
    # A store may be part of an image that nobody writes.
    if left.f_flag & os.ST_RDONLY and what != _APPS:
        return [problem(f"the disk at {at} is read-only", f"there is {what}", f"mount -o remount,rw {name}")]
    room, size = left.f_bavail * left.f_frsize, left.f_blocks * left.f_frsize
    if room < max(LEAST_BYTES, min(FULL_BYTES, size // 50)):
        why = f"{room // KIB} KiB of {size // KIB} KiB are left for {what}"
        return [problem(f"the disk at {at} is full", why, _free(mount))]
    if left.f_files and left.f_favail < FULL_FILES:
        why = f"{left.f_favail} more files can be made there, of {left.f_files}: there is {what}"
        return [
            problem(
                f"the disk at {at} has no inodes left", why, f"du -x --inodes --max-depth=3 {name} | sort -n"
            )
        ]
    if room < LOW_BYTES and room < size / 20:
        return [
            note(f"the disk at {at} is almost full", f"{room // MIB} MiB are left for {what}", _free(mount))
        ]
    return []


def _free(mount: str) -> str:
    """What frees room without touching what is anybody's; then what shows who takes it."""
    steps = []
    if _JOURNAL.is_dir() and _mount(_JOURNAL) == mount:
        steps.append("journalctl --vacuum-size=16M")
    if _APT.is_dir() and _mount(_APT) == mount:
        steps.append("apt-get clean")
    return "; ".join([*steps, f"du -xha {shlex.quote(mount)} | sort -h | tail -n 20"])


def _existing(path: Path) -> Path | None:
    """The path, or what there is of it."""
    for part in (path, *path.parents):
        try:
            if part.exists():
                return part.resolve()
        except OSError:
            continue
    return None


def _mount(path: Path) -> str:
    """Where the file system of `path` is mounted (proc_pid_mountinfo(5))."""
    best = "/"
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return best
    for line in text.splitlines():
        target = (
            line.split(" ")[4].encode(errors="surrogateescape").decode("unicode_escape", errors="replace")
        )
        if path.is_relative_to(target) and len(target) >= len(best):
            best = target
    return best
