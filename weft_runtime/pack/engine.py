# SPDX-License-Identifier: Apache-2.0
"""The engine, asked from outside: whether it would start a module, and for the code that it makes of it.

The runtime itself is executed for it, which does what it does at a launch. Root does not run a compiler on what others
have made: a user without rights does, and what that gives back root believes only as far as it can see for itself.
"""

import ctypes
import fcntl
import json
import os
import pwd
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from weft_runtime import limits, store
from weft_runtime.errors import ExitStatus, Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote

RUNTIME = "weft-runtime-wasmtime"

SECONDS = limits.COMPILE_TIME.value + 60
"""For the runtime's answer: it gives up compiling earlier by itself."""

_CPU_S = limits.COMPILE_CPU.value + 60
"""CPU time of each of its processes; the compiler is one of them, and bounds itself to less."""

USER = "weft-compile"
"""Who compiles for root, made by the Debian package. Nothing else runs as this user."""

LOCK = Path("/run/weft-compile/lock")

_NOBODY = 65534
"""Its number where no name says it."""

_TASKS_MAX = 1024
"""Processes and threads of the user: the engine compiles with a thread for each processor."""

_REPORT_MAX = 64 * 1024
"""Bytes: what a pipe holds, so that nobody has to read it meanwhile."""

_TICK_MS = 1000

_AT_ANOTHER_TIME = "try again when less is going on"

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_prctl = ctypes.CDLL(None).prctl


class Account(NamedTuple):
    """Whoever executes the runtime for root."""

    name: str
    uid: int
    gid: int

    @property
    def is_ours(self) -> bool:
        """Whether all that runs as this user was started here."""
        return self.name == USER


class Answer(NamedTuple):
    """What the engine has said."""

    complaint: str
    """What it has against the module, empty for nothing."""
    note: str | None = None
    """Why there is no code although it was asked for."""
    is_too_costly: bool = False
    """Whether the compiler ran into a limit, which is the complaint then."""


class ShortOfMemoryError(WeftError):
    """The kernel has ended the compiler for want of memory, which may have been that of others."""

    def __init__(self, complaint: str) -> None:
        """`complaint` completes "MODULE ..."."""
        super().__init__(Problem.COMPILE_MEMORY, f"the module {complaint}", _AT_ANOTHER_TIME)
        self.complaint = complaint


class _Ended(NamedTuple):
    status: int
    report: bytes


def ask(
    module_fd: int,
    environ: Mapping[str, str],
    code_fd: int | None = None,
    *,
    waiting: Callable[[], None] = lambda: None,
) -> Answer | None:
    """Ask the engine about the module that is open on `module_fd`; None where there is no engine.

    Where it would start it, its code is in the empty file `code_fd` afterwards. `waiting` is called now and then.
    Raises WeftError where it cannot be asked, ShortOfMemoryError where its compiler was killed.
    """
    program = find_runtime(environ)
    if program is None:
        return None
    try:
        if os.geteuid() == 0:
            return _ask_as_root(program, module_fd, environ, code_fd, waiting)
        return _answer(_execute(program, module_fd, code_fd, environ, None, waiting))
    except OSError as error:
        raise from_os_error(f"execute {quote(program)}", error) from None


def find_runtime(environ: Mapping[str, str], program: str = RUNTIME) -> str | None:
    """A program of ours that runs apps: the one beside this program, or the first on PATH."""
    beside = [str(Path(sys.argv[0]).resolve().parent), str(Path(sys.executable).parent)]
    found = shutil.which(program, path=os.pathsep.join([*beside, environ.get("PATH", os.defpath)]))
    return found and str(Path(found).absolute())


def _ask_as_root(
    program: str,
    module_fd: int,
    environ: Mapping[str, str],
    code_fd: int | None,
    waiting: Callable[[], None],
) -> Answer | None:
    account, env = _account(), {"LC_ALL": "C.UTF-8"}
    if (kind := environ.get("WEFT_ENGINE")) is not None:
        env["WEFT_ENGINE"] = kind
    with _alone(account) if account.is_ours else nullcontext():
        try:
            ended = _execute(program, module_fd, code_fd, env, account, waiting)
            # Only what does not work without a module either is done as root: the module may have ended it.
            works = ended.status == 0 or bool(ended.report) or _can_execute(account, program, env)
        except OSError:  # in a private directory, or where there are no other users
            works = False
    if works:
        return _answer(ended)
    answer = _answer(_execute(program, module_fd, None, environ, None, waiting))
    if answer is None or code_fd is None:
        return answer
    note = f"the compiled code is not kept: the user {account.name} cannot execute {quote(program)}"
    return answer._replace(note=note)


def _account() -> Account:
    for name in (USER, "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    return Account(str(_NOBODY), _NOBODY, _NOBODY)


def _execute(
    program: str,
    module_fd: int,
    code_fd: int | None,
    env: Mapping[str, str],
    account: Account | None,
    waiting: Callable[[], None],
) -> _Ended:
    """Execute the runtime, as `account` if there is one. Raises OSError where it does not start, else WeftError."""
    command = [program, "--check-module", "-"]
    fds = () if code_fd is None else (code_fd,)
    command += [f"--code-to={fd}" for fd in fds]
    os.lseek(module_fd, 0, os.SEEK_SET)
    reader, writer = os.pipe()
    env = {**env, "WEFT_LOG": "stderr", "WEFT_REPORT_FD": str(writer)}
    with open(reader, "rb", buffering=0) as report:
        try:
            child = _start(command, env, account, stdin=module_fd, pass_fds=(*fds, writer))
        finally:
            os.close(writer)
        with child:
            try:
                in_time = _wait(child, waiting)
            finally:
                child.kill()
        if not in_time:
            raise WeftError(Problem.OS_ERROR, f"{printable(program)} did not answer in {SECONDS} s")
        # Not to its end: something that outlives the child could hold the other one open.
        os.set_blocking(reader, False)
        return _Ended(child.returncode, report.read(_REPORT_MAX) or b"")


def _start(
    command: Sequence[str],
    env: Mapping[str, str],
    account: Account | None,
    stdin: int = subprocess.DEVNULL,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """Raises OSError."""
    return subprocess.Popen(
        command,
        env=env,
        cwd="/",
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=pass_fds,
        start_new_session=True,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else (),
        preexec_fn=lambda: _bound(account),  # after the change of users, and there is no other thread
    )


def _bound(account: Account | None) -> None:
    """In the child, before the program is executed: it can gain nothing, and does not outlive who started it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    memory = limits.COMPILE_MEMORY.value + limits.MEMORIES.value * limits.MEMORY.value
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: _CPU_S,
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_FSIZE: limits.CODE_CACHE.value,
    }
    if account is not None and account.is_ours:  # it counts all that a user runs
        bounds[resource.RLIMIT_NPROC] = _TASKS_MAX
    for what, value in bounds.items():
        _, hard = resource.getrlimit(what)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (bound, bound))


def _wait(child: subprocess.Popen[bytes], waiting: Callable[[], None]) -> bool:
    """Whether it has ended in time."""
    deadline = time.monotonic() + SECONDS
    pidfd = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        while time.monotonic() < deadline:
            if poll.poll(_TICK_MS):
                return True
            waiting()
        return False
    finally:
        os.close(pidfd)


def _can_execute(account: Account, program: str, env: Mapping[str, str]) -> bool:
    """Raises OSError."""
    with _start([program, "--version"], env, account) as child:
        try:
            return _wait(child, lambda: None) and child.wait() == 0
        finally:
            child.kill()


def _answer(ended: _Ended) -> Answer | None:
    """Raises WeftError where that was none."""
    if ended.status == 0:
        return Answer("")
    if ended.status == ExitStatus.UNAVAILABLE:
        return None
    if ended.status == -signal.SIGKILL:
        # Not by us, who wait for it longer than it takes: as a rule by the kernel.
        raise ShortOfMemoryError("could not be compiled: the compiler was killed, as for want of memory")
    try:
        # The last line is about the end.
        *_, line = ended.report.splitlines()
        report = json.loads(line)
        reason, problem = str(report["reason"]), report.get("problem")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        reason, problem = f"{RUNTIME} ended with status {ended.status} and told no reason", None
    # Its name there is that of the way it came, which nobody knows who has asked for a check.
    reason = reason.replace(store.shown("-"), "the module")
    about_it = reason.removeprefix("the module").lstrip()
    if ended.status == ExitStatus.DATA:
        return Answer(about_it)
    if ended.status == ExitStatus.TRY_AGAIN and problem == Problem.COMPILE_LIMIT:
        return Answer(about_it, is_too_costly=True)
    if ended.status == ExitStatus.TRY_AGAIN and problem == Problem.COMPILE_MEMORY:
        raise ShortOfMemoryError(about_it)
    if ended.status == ExitStatus.TRY_AGAIN:
        raise WeftError(Problem.COMPILE_STARVED, f"the module {about_it}", _AT_ANOTHER_TIME)
    raise WeftError(Problem.OS_ERROR, f"the module could not be checked: {reason}")


@contextmanager
def _alone(account: Account) -> Iterator[None]:
    """One at a time, and what has outlived another one is ended: it could tamper with the compiler of the next.

    Raises WeftError.
    """
    try:
        LOCK.parent.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise from_os_error(f"write {quote(str(LOCK))}", error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _end_all(account)
        try:
            yield
        finally:
            _end_all(account)
    finally:
        os.close(lock)


def _end_all(account: Account) -> None:
    """End every process of the user: by one of its own, which the kernel lets signal no others."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(account.gid, account.gid, account.gid)
            os.setresuid(account.uid, account.uid, account.uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
