# SPDX-License-Identifier: Apache-2.0
"""The process of a session: how it is started, signalled, and what it leaves behind."""

import contextlib
import errno
import os
import resource  # noqa: F401 - os.wait4 imports it at its first call, and could not without a free descriptor
import signal
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

from weft_runtime.appd.cgroups import SessionGroup
from weft_runtime.escape import printable
from weft_runtime.journal import Level

REPORT_FD = 3
"""Where the child finds the descriptor for its report: the first after the standard streams."""

_TEXT_MAX = 64 * 1024
"""Bytes of what a child has said to the end: what a pipe holds."""

_OOM_SCORE_ABOVE_OURS = 200
"""How much likelier than the daemon a session is to be killed when memory runs out."""

# What the interpreter ignores, or the daemon's own parent, a child must not inherit.
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

# The daemon's own: a child that used one of these would speak for it.
_OURS = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}
    | {"JOURNAL_STREAM", "INVOCATION_ID", "MAINPID"}
)

# What an app's process may see of our environment: none of the above, and nothing else that nobody needs.
_PASSED = (
    "CACHE_DIRECTORY",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "PATH",
    "TZ",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "WEFT_APP_STORE",
    "WEFT_BACKGROUND",
    "WEFT_ENGINE",
)


# Enters a control group before it becomes the program, so that all of that counts there. It is a process
# of its own because entering can wait for the kernel (RCU), for which the daemon must not; posix_spawn(3)
# can do it only since glibc 2.39.
_ENTER = ("/bin/sh", "-c", 'echo $$ >"$1" && shift && exec "$@"', "weft-appd")


_FIRST_LINE_MAX = 256
"""Bytes of a script's first line that the kernel reads (execve(2))."""


class Child(NamedTuple):
    """A running process and the descriptors that belong to it. All are non-blocking and closed on exec."""

    pid: int
    pidfd: int
    stdout: int
    stderr: int
    report: int


class Exit(NamedTuple):
    """How a process ended."""

    status: int | None
    signal: str | None
    cpu_seconds: float


def environment(
    environ: Mapping[str, str],
    *,
    log_to_journal: bool,
    log_level: Level = Level.INFO,
    compiler_procs: Path | None = None,
) -> dict[str, str]:
    """The environment of a session's process; by `compiler_procs` a compiler enters its control group."""
    passed = {name: environ[name] for name in _PASSED if name in environ}
    # The daemon tells the course of a session itself.
    passed |= {"WEFT_REPORT_FD": str(REPORT_FD), "WEFT_SUPERVISED": "1"}
    if compiler_procs is not None:
        passed["WEFT_COMPILER_GROUP"] = os.fspath(compiler_procs)
    if log_level >= Level.DEBUG:
        passed["WEFT_LOG_LEVEL"] = log_level.name.lower()
    if log_to_journal:
        return {**passed, "WEFT_LOG": "journal"}
    # Its lines come through standard error.
    return {"WEFT_LOG_LEVEL": "warning", **passed, "WEFT_LOG": "stderr"}


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what systemd means for the daemon alone."""
    return {name: value for name, value in environ.items() if name not in _OURS}


def spawn(
    argv: list[str], env: Mapping[str, str], group: SessionGroup | None = None, *, third: int | None = None
) -> Child:
    """Start `argv` in a process group of its own, and in `group`, its streams connected to pipes.

    Its descriptor 3 is for the report, or `third`. Raises OSError.
    """
    if group is not None:
        _check_executable(argv[0])
        argv = [*_ENTER, os.fspath(group.procs), *argv]
    with _Pipes(3) as pipes:
        null = pipes.open_null()
        stdout, stderr, report = pipes.theirs
        pid = os.posix_spawn(
            argv[0],
            argv,
            env,
            # Every other descriptor of ours is closed on exec.
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                (os.POSIX_SPAWN_DUP2, stderr, 2),
                (os.POSIX_SPAWN_DUP2, report if third is None else third, REPORT_FD),
            ],
            setpgroup=0,
            setsigmask=[],
            setsigdef=_SIGNALS,
        )
        # What the fork server forks inherits it from there.
        _raise_oom_score(pid)
        return _adopted(pid, pipes)


def forked(pid: int, descriptors: Sequence[int]) -> Child:
    """The same by a fork server, which has made a child of ours and says so with these descriptors."""
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)  # until now it was in the group of the fork server
    return Child(pid, *descriptors)


class _Pipes:
    """The pipes of a process that is about to start; whatever is not kept is closed in the end."""

    def __init__(self, count: int) -> None:
        """Raises OSError."""
        self._open: set[int] = set()
        try:
            pairs = [self.open_pipe() for _ in range(count)]
        except OSError:
            self.__exit__()
            raise
        self.ours = [ours for ours, _ in pairs]
        self.theirs = [theirs for _, theirs in pairs]

    def open_pipe(self) -> tuple[int, int]:
        """The end to read from, and the one to write to."""
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def open_null(self) -> int:
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._open.add(fd)
        return fd

    def keep(self, *fds: int) -> None:
        self._open.difference_update(fds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open:
            os.close(fd)


def _adopted(pid: int, pipes: _Pipes) -> Child:
    """The process `pid`, which has just been started with `pipes`. Raises OSError, and then it is gone again."""
    try:
        child = Child(pid, os.pidfd_open(pid), *pipes.ours)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    for fd in pipes.ours:
        os.set_blocking(fd, False)
    pipes.keep(*pipes.ours)
    return child


def _check_executable(program: str) -> None:
    """Raises the OSError of execve(2) for a script without its interpreter, or what is no program at all.

    Behind _ENTER it would be too late: the launch would be acknowledged, and the shell run a file of any text.
    """
    try:
        # O_NONBLOCK: should a FIFO have the name, opening it must not wait for a writer.
        with open(os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            first_line = file.readline(_FIRST_LINE_MAX)
    except PermissionError:
        return  # what may not be read may be executed all the same
    if first_line.startswith(b"#!"):
        interpreter, *_ = first_line.removeprefix(b"#!").split() or [b""]
        os.close(os.open(interpreter, os.O_PATH | os.O_CLOEXEC))
    elif not first_line.startswith(b"\x7fELF"):
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC))


def terminate(child: Child) -> None:
    """Ask the process to end. No process but this can be hit, even if it has just ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGTERM)


def kill_group(child: Child) -> None:
    """End the process and whatever it started in its process group; it must not be reaped yet."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def reap(child: Child) -> Exit:
    """Collect the process, which has ended, and end its group; its number is then free for others."""
    kill_group(child)
    _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    name = signal.Signals(-code).name if code < 0 else None
    return Exit(code if code >= 0 else None, name, usage.ru_utime + usage.ru_stime)


def abandon(child: Child) -> None:
    """End a process of which nobody wants to know more, and its group, without waiting for that.

    Unless it has ended already, the daemon hears of its end by SIGCHLD, and collects it as a stray.
    """
    kill_group(child)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)
    close(child)


def read_text(fd: int) -> str:
    """What is in a pipe, on one safe line."""
    try:
        return printable(" ".join(os.read(fd, _TEXT_MAX).decode(errors="replace").split()))
    except OSError:
        return ""


def close(child: Child) -> None:
    """Close the descriptors of a child that is reaped."""
    for fd in (child.pidfd, child.stdout, child.stderr, child.report):
        os.close(fd)


def _raise_oom_score(pid: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # it may have ended already; then it does not matter
        fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, _oom_score().encode())
        finally:
            os.close(fd)


@cache
def _oom_score() -> str:
    """That of a session; ours is set before we start. Raises OSError and ValueError."""
    ours = int(Path("/proc/self/oom_score_adj").read_text(encoding="utf-8"))
    return str(min(1000, ours + _OOM_SCORE_ABOVE_OURS))


def spawn_shell(argv: list[str], environ: Mapping[str, str]) -> int:
    """Start the program that shows an app's user interface; its process number. Raises OSError."""
    return os.posix_spawn(
        argv[0],
        argv,
        without_ours(environ),
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1)],
        setpgroup=0,
        setsigmask=[],
        setsigdef=_SIGNALS,
    )


def kill_and_reap(pid: int) -> None:
    """End a child and its process group at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
