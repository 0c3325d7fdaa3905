# SPDX-License-Identifier: Apache-2.0
"""A control group for each session, below the daemon's unit: its limits, its end, and what it has used.

The rules are those of https://systemd.io/CGROUP_DELEGATION/ and of the kernel's cgroup-v2 documentation.
"""

import contextlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from weft_runtime.limits import COMPILE_MEMORY, MIB

_MOUNT = Path("/sys/fs/cgroup")
_SUPERVISOR = "supervisor"
"""The daemon's own leaf: processes may be in leaves only."""

_COMPILER = "compiler"
"""The leaf of all compilers. What compiling a large module takes is not what an app may use."""

_COMPILER_ROOM = 512 * MIB
"""Beside the compiler's own bound, which leaves out its program and the code that it hands over."""

_COMPILER_TASKS = 512
"""The engine compiles with a thread for each processor, and several modules may be compiled at a time."""

_SUPERVISOR_WEIGHT = 10_000
"""The most that there is: the daemon answers everybody with a few milliseconds of CPU time each, and must get them though
each of its sessions computes without end. It has the fork server beside it, which is as idle."""

_COMPILER_WEIGHT = 50
"""Half of what each session has, which is the kernel's 100: a compiler takes all CPUs that it can get, and the apps that
run come first."""

_DESCENDANTS_MAX, _DEPTH_MAX = 64, 8
"""Groups that a runtime may make below its session's: one that runs containers has a few. More would be work for the
daemon when the session has ended."""

STEPS_A_TURN = 50
"""Groups that are entered or removed in one turn of the event loop: a few milliseconds."""

_PREFIX = "session-"
"""Of every session's group."""

CONTROLLERS = ("cpu", "memory", "pids")
_CPU_PERIOD_USEC = 100_000
_OPTIONAL = frozenset({"memory.swap.max"})
"""Not there in a kernel without swap."""


class Limits(NamedTuple):
    """What a session may use; None is "no limit"."""

    memory_max: int | None
    """Bytes."""
    cpu_quota: int | None
    """Percent of one CPU."""
    tasks_max: int | None


class Usage(NamedTuple):
    """What a session has used."""

    cpu_seconds: float
    memory_peak: int | None
    """Bytes; None where no memory controller counts them."""
    out_of_memory: str | None
    """The reason of its end, where that was a lack of memory."""


class _Retry(NamedTuple):
    """Seconds between two tries: each is twice as long as the one before it."""

    start: float
    longest: float


RETRY_S = _Retry(0.02, 30)
"""What was killed is gone in milliseconds as a rule; a process that waits for a broken disk is not for hours."""

_READ_SIZE = 8192
"""Bytes: the kernel gives each of the files that are read here whole, and the longest has one."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class SessionGroup(NamedTuple):
    """The control group of one session."""

    path: Path

    @property
    def procs(self) -> Path:
        """The file by which a process enters the group."""
        return self.path / "cgroup.procs"

    def kill(self) -> None:
        """End every process in it, whatever process group or session it has made for itself."""
        with contextlib.suppress(OSError):  # it is gone, and with it all that could be ended
            _write(f"{self.path}/cgroup.kill", "1")

    def remove(self) -> bool:
        """Remove it at once if nothing is in it, as when its process has ended and was collected; whether it is gone."""
        try:
            self.path.rmdir()
        except OSError:
            return False
        return True

    def use(self) -> tuple[int | None, int | None, float | None]:
        """Bytes of memory that it has now, the most that it had, seconds on CPUs; None for what nobody counts."""
        cpu = _read_keys(f"{self.path}/cpu.stat").get("usage_usec")
        memory, peak = (_read(f"{self.path}/{name}") for name in ("memory.current", "memory.peak"))
        return (
            int(memory) if memory.isdigit() else None,
            int(peak) if peak.isdigit() else None,
            None if cpu is None else cpu / 1e6,
        )

    def usage(self, *, is_killed: bool) -> Usage:
        """To be called when its process has ended, by SIGKILL or not, before `remove`."""
        cpu, peak = _read_keys(f"{self.path}/cpu.stat"), _read(f"{self.path}/memory.peak")
        reason = None
        # A lack of memory ends the whole group.
        if is_killed and (events := _read_keys(f"{self.path}/memory.events")).get("oom_kill"):
            limit = _read(f"{self.path}/memory.max")
            # "oom" counts the times that this group, and not the whole device, had no memory left.
            reached = f"it needed more than {in_units(int(limit))}" if limit.isdigit() else "it had a limit"
            reason = f"out of memory: {reached if events.get('oom') else 'the device has no more'}"
        # cpu.stat is there in every group, with the controller and without.
        return Usage(cpu.get("usage_usec", 0) / 1e6, int(peak) if peak.isdigit() else None, reason)


class Removal:
    """Removes a group with those that were made below it, depth first, in small pieces of work.

    They are walked by descriptors, since a tree may be deeper than the longest path. Whoever runs as the daemon's user
    can make one of any size: limits of a group can be lifted by its owner.
    """

    def __init__(self, group: SessionGroup) -> None:
        self.group = group
        self._delay_s = RETRY_S.start
        self._fd: int | None = None
        """Of the group that the walk has come to, while there is a walk."""
        self._depth = 0
        """How many levels that is below the group."""

    def work(self) -> float | None:
        """Do STEPS_A_TURN steps at most. Returns the seconds until the next piece of work; None when all are gone."""
        try:
            if self._fd is None:
                # Most have no others below them.
                if self.group.remove():
                    return None
                self._fd = os.open(self.group.path, _DIRECTORY)
            for _ in range(STEPS_A_TURN):
                if not self._step():
                    self.close()
                    self.group.path.rmdir()
                    return None
        except FileNotFoundError:
            self.close()
            if not self.group.path.exists():
                return None
        except OSError:
            self.close()
        else:
            return 0  # there is more to do
        # What was killed in there is still on its way out.
        delay, self._delay_s = self._delay_s, min(2 * self._delay_s, RETRY_S.longest)
        return delay

    def close(self) -> None:
        """End the walk; the next one begins at the top."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._depth = None, 0

    def _step(self) -> bool:
        """Go one level down, or remove a group, or go one level up; whether there is another step. Raises OSError."""
        assert self._fd is not None
        child = _first_directory(self._fd)
        if child is not None:
            try:
                os.rmdir(child, dir_fd=self._fd)
            except OSError:
                below = os.open(child, _DIRECTORY, dir_fd=self._fd)
                try:
                    is_empty = _first_directory(below) is None
                except OSError:
                    os.close(below)
                    raise
                if is_empty:
                    os.close(below)
                    raise  # it is not empty of processes
                self._move(below, +1)
        elif self._depth == 0:
            return False
        else:
            self._move(os.open("..", _DIRECTORY, dir_fd=self._fd), -1)
        return True

    def _move(self, fd: int, levels: int) -> None:
        assert self._fd is not None
        os.close(self._fd)
        self._fd = fd
        self._depth += levels


class SessionGroups:
    """The control groups of all sessions."""

    def __init__(self, base: Path) -> None:
        """Move this process to its leaf below `base`, and have the kernel control the leaves beside it.

        Raises OSError.
        """
        self._base = base
        leaf = base / _SUPERVISOR
        leaf.mkdir(exist_ok=True)
        _write(leaf / "cgroup.procs", str(os.getpid()))
        # A runtime of another kind is asked in here whether it has a fork server, and may answer with groups.
        _write(leaf / "cgroup.max.descendants", "0")
        offered = _read(base / "cgroup.controllers").split()
        self.controllers = tuple(name for name in CONTROLLERS if name in offered)
        """Those that hold the limits; without one of CONTROLLERS its limit is not there."""
        for name in self.controllers:
            _write(base / "cgroup.subtree_control", f"+{name}")
        if "cpu" in self.controllers:
            _write(leaf / "cpu.weight", str(_SUPERVISOR_WEIGHT))
        self._prepared: dict[Limits, list[tuple[str, str]]] = {}
        """What is written into a new group, by its limits."""
        self.compiler_procs = self._make_compiler_group()
        """The file by which a compiler enters the group for it; None where there is no such group."""

    def make(self, session_id: int, limits: Limits) -> SessionGroup:
        """Make the group of a new session. Raises OSError."""
        group = self._group(session_id)
        if (files := self._prepared.get(limits)) is None:
            # What is "max" in a new group need not be written.
            files = [item for item in self._files(limits).items() if not item[1].startswith("max")]
            self._prepared[limits] = files
        group.path.mkdir()
        self._set(group, files)
        return group

    def find(self, session_id: int) -> SessionGroup | None:
        """The group that `make` of an earlier process image has made for a session."""
        group = self._group(session_id)
        return group if group.path.is_dir() else None

    def others(self, known: Collection[SessionGroup]) -> list[SessionGroup]:
        """The groups that are there but not `known`."""
        return [
            SessionGroup(path) for path in self._base.glob(f"{_PREFIX}*") if SessionGroup(path) not in known
        ]

    def _group(self, session_id: int) -> SessionGroup:
        # Without the app's id: a process may wait in there before it is known which app it will run.
        return SessionGroup(self._base / f"{_PREFIX}{session_id}")

    def _make_compiler_group(self) -> Path | None:
        group = SessionGroup(self._base / _COMPILER)
        limits = Limits(COMPILE_MEMORY.value + _COMPILER_ROOM, None, _COMPILER_TASKS)
        # One compiler that is too large is ended, and not all of them.
        files = {name: value for name, value in self._files(limits).items() if name != "memory.oom.group"}
        files["cgroup.max.descendants"] = "0"
        if "cpu" in self.controllers:
            files["cpu.weight"] = str(_COMPILER_WEIGHT)
        try:
            group.path.mkdir(exist_ok=True)
            self._set(group, files.items())
        except OSError:
            return None  # they count as part of their sessions then
        return group.procs

    def _set(self, group: SessionGroup, files: Iterable[tuple[str, str]]) -> None:
        """Write the limits, or remove the group. Raises OSError."""
        try:
            for name, value in files:
                try:
                    _write(f"{group.path}/{name}", value)
                except FileNotFoundError:
                    if name not in _OPTIONAL:
                        raise
        except OSError:
            group.remove()
            raise

    def _files(self, limits: Limits) -> dict[str, str]:
        quota = limits.cpu_quota
        files = {
            "memory.max": _or_max(limits.memory_max),
            # An app that is too large is ended and told so, instead of wearing out the device's storage.
            "memory.swap.max": "0",
            # An app of which a part is gone is of no use: end all of it, with one reason.
            "memory.oom.group": "1",
            "cpu.max": f"{_or_max(None if quota is None else quota * _CPU_PERIOD_USEC // 100)} {_CPU_PERIOD_USEC}",
            "pids.max": _or_max(limits.tasks_max),
            "cgroup.max.descendants": str(_DESCENDANTS_MAX),
            "cgroup.max.depth": str(_DEPTH_MAX),
        }
        held = ("cgroup", *self.controllers)
        return {name: value for name, value in files.items() if name.partition(".")[0] in held}


def delegated_group() -> Path | None:
    """The group of this process's unit, if systemd has left it to us (Delegate= of systemd.resource-control(5))."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        if line.startswith("0::/"):
            path = _MOUNT / line.removeprefix("0::/")
            # A process image before this one has been here already.
            base = path.parent if path.name == _SUPERVISOR else path
            with contextlib.suppress(OSError):
                return base if os.getxattr(base, "user.delegate") == b"1" else None
    return None


def in_units(size: int) -> str:
    """A number of bytes for people, as systemd shows it: 128.0M."""
    value, unit = float(size), "B"
    for unit in ("B", "K", "M", "G", "T"):
        if value < 1024 or unit == "T":
            break
        value /= 1024
    return f"{size}B" if unit == "B" else f"{value:.1f}{unit}"


def _first_directory(fd: int) -> str | None:
    with os.scandir(fd) as entries:
        return next((entry.name for entry in entries if entry.is_dir(follow_symlinks=False)), None)


def _or_max(value: int | None) -> str:
    return "max" if value is None else str(value)


def _write(path: str | Path, text: str) -> None:
    # Not buffered: the error of a buffered write would come when nobody asks for it any more.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(path: str | Path) -> str:
    """The text of a file of the kernel; empty where this kernel or this group has none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, _READ_SIZE).decode().strip()
    except OSError:
        return ""
    finally:
        os.close(fd)


def _read_keys(path: str) -> dict[str, int]:
    """A file of "flat keyed" lines."""
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
