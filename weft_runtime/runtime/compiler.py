# SPDX-License-Identifier: Apache-2.0
"""Compiling a module in a child process, where its cost is bounded and a crash is only an error."""

import fcntl
import mmap
import os
import re
import resource
import select
import signal
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, NoReturn

import wasmtime

from weft_runtime import code_cache, limits
from weft_runtime.binary import without_costly_names
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable
from weft_runtime.limits import Limit
from weft_runtime.manifest import ReadyMode
from weft_runtime.runtime import cgroup
from weft_runtime.runtime.engine import NOT_EXECUTABLE, Engine, compatibility, not_executable, one_line
from weft_runtime.runtime.parent import end_with_parent
from weft_runtime.wasm import foreign, rules

TELL_S = 5.0
"""Seconds between two signs that a compiler is at work: whoever waits for READY waits 30 s for the next one."""

TELL_FIRST_S = 0.5
"""Seconds until the first of them: usual modules are compiled by then, and nobody need hear of it."""

_TICK_MS = 500
"""Milliseconds between two looks at what the compiler uses, of which nothing is left to see after its end."""

_CPU_GRACE_S = 5
"""Seconds from SIGXCPU, which the bound on CPU time sends, to SIGKILL."""

_REFUSED = 1
"""Exit status of the child for a module that the engine does not accept."""

_HOST_FAILED = 2
"""Exit status of the child where the system, not the module, was in its way."""

_UNFIT = 3
"""Exit status of the child for a module whose bytes say that it cannot be started; it has told why, as JSON."""

_TEXT_MAX = 32 * limits.KIB
"""Bytes of what the child may tell: an error's text, a panic message, or all that is wrong with a module."""

# What the allocators of Rust and Python say when the memory bound is hit. Each is written by a single call, so that
# another thread can write before and behind it, but not within.
_OUT_OF_MEMORY = (
    "memory allocation of", " bytes failed", "to avoid potential recursion", "MemoryError", "Cannot allocate memory",
)  # fmt: skip

_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP)

# What the child is at, in memory that it shares with its parent.
_PREPARING, _COMPILING, _COMPILED = 0, 1, 2

_CGROUPS = Path("/sys/fs/cgroup")

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Usage(NamedTuple):
    """What a compiler has used: seconds of CPU time, bytes of memory at most, seconds by the clock."""

    cpu: float
    memory: int
    elapsed: float

    def __str__(self) -> str:
        memory = f"{self.memory / limits.MIB:.0f} MiB of memory"
        return f"{self.cpu:.1f} s of CPU time, {memory} and {self.elapsed:.0f} s by the clock"


class Bounds(NamedTuple):
    """What a compiler may use; its memory is always bounded by `limits.COMPILE_MEMORY`."""

    cpu: Limit = limits.COMPILE_CPU
    elapsed: Limit = limits.COMPILE_TIME
    hint: str | None = None
    """What helps where one of them is hit."""


class Compilation:
    """A compilation under way in a child; the parent can prepare the guest meanwhile."""

    def __init__(
        self,
        engine: Engine,
        module_fd: int,
        source: str,
        group: Path | None,
        bounds: Bounds | None = None,
        ready: ReadyMode | None = None,
    ) -> None:
        """Start compiling the module open on `module_fd`, unless its bytes say that it cannot be started.

        `source` is its path for messages, `ready` what the app's manifest says.

        The compiler enters a control group of its own by the file `group`, if that can be done.
        The engine must not have compiled anything in this process with threads: those do not survive a fork. The other threads, which wait for stop signals and for a log that does not read, hold no lock that the compiler needs.
        """
        self._source = source
        self._group = group
        self._bounds = bounds or Bounds()
        self._cpu = limits.effective(self._bounds.cpu, resource.RLIMIT_CPU)
        self._memory = limits.effective(limits.COMPILE_MEMORY, resource.RLIMIT_DATA)
        self._killed_before = _killed_for_memory(group)
        self._begun = time.monotonic()
        self._data = 0
        self._stage = mmap.mmap(-1, 1)
        self.note = ""
        """What the compiler had to say besides: one safe line."""
        try:
            self._code_fd = os.memfd_create("weft-code", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            # Never written to beyond what a pipe holds, so that nobody has to read it meanwhile.
            self._text_fd, text_end = os.pipe()
            os.set_blocking(text_end, False)
            parent = os.getpid()
            self._pid = os.fork()
        except OSError as error:
            raise from_os_error("start the compiler", error) from None
        if self._pid == 0:
            _end_with(parent)
            _Child(engine, module_fd, self._code_fd, self._stage, ready).work(
                text_end, group, self._cpu, self._memory
            )
        os.close(text_end)

    def result(self, tell: Callable[[], None] = lambda: None) -> int:
        """Wait for the child: a descriptor of the entry that it made, which nobody can change; it is the caller's.

        `tell` is called at once and then every few seconds as long as the compiler works. Raises WeftError:
        MODULE_INVALID or LIMIT_EXCEEDED where the module is at fault, COMPILE_LIMIT or COMPILE_STARVED naming the limit, COMPILE_MEMORY where the kernel has ended the
        compiler for want of memory, or INTERNAL_ERROR where it crashed.
        """
        try:
            status, used = self._wait(tell)
            text = os.read(self._text_fd, _TEXT_MAX).decode(errors="replace")
            if status == _UNFIT:
                raise self._unfit(text)
            self.note = one_line(text)
            if status != 0:
                raise self._error(status, used)
            # What has written it is gone: from here on it stays as it is.
            fcntl.fcntl(self._code_fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException as error:
            os.close(self._code_fd)
            if isinstance(error, OSError):
                raise from_os_error("wait for the compiler", error) from None
            raise
        finally:
            os.close(self._text_fd)
            self._stage.close()
        return self._code_fd

    def is_short_of_memory(self) -> bool:
        """Whether the kernel has ended a process of its control group for want of memory since it began."""
        return _killed_for_memory(self._group) > self._killed_before

    def _wait(self, tell: Callable[[], None]) -> tuple[int, Usage]:
        """The child's exit status, or minus the number of the signal that ended it, and what it has used.

        Whatever goes wrong here, the child is gone and collected in the end.
        """
        deadline, next_told = self._begun + self._bounds.elapsed.value, self._begun + TELL_FIRST_S
        has_ended, in_time = False, True
        try:
            pidfd = os.pidfd_open(self._pid)
            try:
                waiting = select.poll()
                waiting.register(pidfd, select.POLLIN)
                while in_time and not has_ended:
                    if time.monotonic() >= next_told:
                        tell()
                        next_told = time.monotonic() + TELL_S
                    has_ended = bool(waiting.poll(_TICK_MS))
                    self._data = max(self._data, _data_of(self._pid))
                    in_time = time.monotonic() < deadline
            finally:
                os.close(pidfd)
        finally:
            if not has_ended:
                os.kill(self._pid, signal.SIGKILL)
            _, status, spent = os.wait4(self._pid, 0)
        used = Usage(
            spent.ru_utime + spent.ru_stime, spent.ru_maxrss * limits.KIB, time.monotonic() - self._begun
        )
        if not has_ended:
            raise self._exceeded(Problem.COMPILE_STARVED, self._bounds.elapsed, used)
        return os.waitstatus_to_exitcode(status), used

    def _unfit(self, text: str) -> WeftError:
        import json  # noqa: PLC0415 - for nothing but this

        try:
            problem, message, hint = json.loads(text)
            return WeftError(
                Problem(problem), f"{self._source} {printable(message)}", hint and printable(hint)
            )
        except (ValueError, TypeError):
            message = f"the compiler ended with status {_UNFIT} on {self._source} and told no reason"
            return WeftError(Problem.INTERNAL_ERROR, message)

    def _error(self, status: int, used: Usage) -> WeftError:
        if status == -signal.SIGXCPU or (status == -signal.SIGKILL and used.cpu >= self._cpu.value):
            return self._exceeded(Problem.COMPILE_LIMIT, self._cpu, used)
        if self._is_out_of_memory(status, used):
            return self._exceeded(Problem.COMPILE_LIMIT, self._memory, used)
        if status == -signal.SIGKILL and self.is_short_of_memory():
            what = f"its control group has no more memory, and it has used {used}"
            message = f"{self._source} is too costly to compile: {what}"
            # Which may be that of others.
            return WeftError(Problem.COMPILE_MEMORY, message, self._bounds.hint)
        if NOT_EXECUTABLE in self.note:
            return not_executable(self.note)
        if status == _REFUSED:
            message = f"{self._source} is not a valid module: {self.note}"
            return WeftError(Problem.MODULE_INVALID, message, foreign.proposal(self.note))
        if status == _HOST_FAILED:
            why = self.note or "no reason was told"
            return WeftError(Problem.OS_ERROR, f"cannot compile {self._source}: {why}")
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        # What a compiler wrote while it crashed can be pieces of several texts: it is for the log, not for the reason.
        hint = "the kernel may have been short of memory" if status == -signal.SIGKILL else None
        return WeftError(Problem.INTERNAL_ERROR, f"the compiler ended with {how} on {self._source}", hint)

    def _is_out_of_memory(self, status: int, used: Usage) -> bool:
        """Whether that was its bound on memory, which has no signal of its own: an allocation fails, and it gives up."""
        if status == _REFUSED:
            return False  # the text is the engine's word on a module, and may quote that
        if any(words in self.note for words in _OUT_OF_MEMORY):
            return True
        # As a rule what fails is an allocation of half of all that there is: a table that doubles its size.
        is_near = max(self._data, used.memory) >= self._memory.value // 2
        return status in [-number for number in _CRASHES] and self._stage[0] == _COMPILING and is_near

    def _exceeded(self, problem: Problem, limit: Limit, used: Usage) -> WeftError:
        found = f"{self._source} is too costly to compile: the compiler has used {used}"
        if problem is Problem.COMPILE_STARVED:
            found = f"{self._source} is still not compiled: the compiler has used {used}"
        message = limits.exceeded(limit, found).message
        return WeftError(problem, message, self._bounds.hint)


def _data_of(pid: int) -> int:
    """Bytes of memory that count for the bound; 0 of a process that has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[5]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        return 0


def _killed_for_memory(group: Path | None) -> int:
    """How often the kernel has ended a process for want of memory, in that control group or else in our own."""
    try:
        own = re.search(r"^0::(/.*)$", Path("/proc/self/cgroup").read_text(encoding="utf-8"), re.MULTILINE)
        place = _CGROUPS / own[1].lstrip("/") if group is None and own else (group or _CGROUPS).parent
        text = (place / "memory.events").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


class _Child:
    """The child: leaves by os._exit or a signal, never through the parent's code."""

    def __init__(
        self, engine: Engine, module_fd: int, code_fd: int, stage: mmap.mmap, ready: ReadyMode | None
    ) -> None:
        self._ready = ready
        self._engine = engine
        self._module_fd = module_fd
        self._code_fd = code_fd
        self._stage = stage

    def work(self, text_fd: int, group: Path | None, cpu: Limit, memory: Limit) -> NoReturn:
        """Compile within the bounds; what there is to tell goes to `text_fd`."""
        status = _REFUSED
        try:
            os.dup2(text_fd, 1)
            os.dup2(text_fd, 2)
            note = _enter(group)
            _bound(cpu.value, memory.value)
            module = self._read()
            if (complaint := rules.judge(module, self._ready)) is not None:
                status = _UNFIT
                import json  # noqa: PLC0415 - for nothing but this

                told = json.dumps((complaint.problem, complaint.message, complaint.hint))
                os.write(2, told.encode())
            else:
                self._compile(module)
                os.write(2, note.encode(errors="replace"))
                status = 0
        except BaseException as error:  # whatever it is, the parent tells it
            status = _REFUSED if isinstance(error, wasmtime.WasmtimeError) else _HOST_FAILED
            text = repr(error) if isinstance(error, MemoryError) else str(error)
            os.write(2, text.encode(errors="replace")[:_TEXT_MAX])
        finally:
            os._exit(status)

    def _read(self) -> bytes:
        with open(self._module_fd, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()

    def _compile(self, module: bytes) -> None:
        digest = sha256(module).digest()
        self._stage[0] = _COMPILING
        code = wasmtime.Module(self._engine.engine, without_costly_names(module)).serialize()
        self._stage[0] = _COMPILED
        made_by = compatibility(self._engine.kind)
        assert made_by is not None  # what compiles any module compiles an empty one
        with open(self._code_fd, "wb", closefd=False) as file:
            file.write(code)
            file.write(code_cache.trailer(code, code_cache.Key(made_by, digest)))


def _bound(cpu: int, memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    last = cpu + _CPU_GRACE_S if hard == resource.RLIM_INFINITY else min(cpu + _CPU_GRACE_S, hard)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGXCPU,))
    # Of two that are the same SIGKILL comes first, and does not say what for.
    first = cpu if cpu < last else max(1, cpu - 1)
    resource.setrlimit(resource.RLIMIT_CPU, (first, last))


def _enter(group: Path | None) -> str:
    """Enter a control group; what kept this process from it, in words."""
    try:
        if group is not None:
            cgroup.enter(group)
    except OSError as error:
        return f"cannot enter the control group of {group}: {error.strerror}"
    return ""


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends: it blocks all that could stop it."""
    end_with_parent()
    if os.getppid() != parent:  # it ended before the call
        os._exit(_REFUSED)
