# SPDX-License-Identifier: Apache-2.0
"""Compiling a module in a child process, where its cost is bounded and a crash is only an error."""

import ctypes
import os
import re
import resource
import select
import signal
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import wasmtime

from weft_runtime import code_cache, limits
from weft_runtime.binary import without_costly_names
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.limits import Limit
from weft_runtime.runtime import cgroup
from weft_runtime.runtime.engine import NOT_EXECUTABLE, Engine, compatibility, not_executable, one_line

_PR_SET_PDEATHSIG = 1
_REFUSED = 1
"""Exit status of the child for a module that the engine does not accept."""

_HOST_FAILED = 2
"""Exit status of the child where the system, not the module, was in its way."""

_TEXT_MAX = 8192
"""Bytes of what the child may tell: an error's text, or a panic message."""

# What the allocators of Rust and Python say when the memory bound is hit.
_OUT_OF_MEMORY = ("memory allocation of", "MemoryError", "Cannot allocate memory")


class Compilation:
    """A compilation under way in a child; the parent can prepare the guest meanwhile."""

    def __init__(
        self,
        engine: Engine,
        module_fd: int,
        source: str,
        group: Path | None,
        time_limit: Limit = limits.COMPILE_SECONDS,
    ) -> None:
        """Start compiling the module open on `module_fd`; `source` is its path for messages.

        The compiler enters a control group of its own by the file `group`, if that can be done.
        The engine must not have compiled anything in this process with threads: those do not survive a fork. The only other thread, the one that waits for stop signals, holds no lock.
        """
        self._source = source
        self._group = group
        self._time_limit = time_limit
        self._killed_before = _killed_for_memory(group)
        self.note = ""
        """What the compiler had to say although it succeeded: one safe line."""
        try:
            self._code_fd = os.memfd_create("weft-code")
            # Never written to beyond what a pipe holds, so that nobody has to read it meanwhile.
            self._text_fd, text_end = os.pipe()
            os.set_blocking(text_end, False)
            parent = os.getpid()
            self._pid = os.fork()
        except OSError as error:
            raise from_os_error("start the compiler", error) from None
        if self._pid == 0:
            _compile_and_exit(engine, module_fd, self._code_fd, text_end, parent, group)
        os.close(text_end)

    def result(self) -> int:
        """Wait for the child: a descriptor of the sealed entry that it made, which is the caller's.

        No other process has that file open, and nobody but the child has written it. Raises WeftError:
        MODULE_INVALID, LIMIT_EXCEEDED naming the limit, or INTERNAL_ERROR where the compiler crashed.
        """
        try:
            status = self._wait()
            text = one_line(os.read(self._text_fd, _TEXT_MAX).decode(errors="replace"))
            if status != 0:
                raise self._error(status, text)
            self.note = text
        except BaseException as error:
            os.close(self._code_fd)
            if isinstance(error, OSError):
                os.kill(self._pid, signal.SIGKILL)
                raise from_os_error("wait for the compiler", error) from None
            raise
        finally:
            os.close(self._text_fd)
        return self._code_fd

    def _wait(self) -> int:
        """The child's exit status, or minus the number of the signal that ended it."""
        pidfd = os.pidfd_open(self._pid)
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        in_time = waiting.poll(self._time_limit.value * 1000)
        os.close(pidfd)
        if not in_time:
            os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        if not in_time:
            raise limits.exceeded(self._time_limit, f"{self._source} is still not compiled")
        return os.waitstatus_to_exitcode(status)

    def _error(self, status: int, text: str) -> WeftError:
        if any(words in text for words in _OUT_OF_MEMORY):
            return limits.exceeded(limits.COMPILE_MEMORY, f"{self._source} is too costly to compile: {text}")
        if status == -signal.SIGKILL and _killed_for_memory(self._group) > self._killed_before:
            found = f"{self._source} is too costly to compile: its control group has no more memory"
            return limits.exceeded(limits.COMPILE_MEMORY, found)
        if NOT_EXECUTABLE in text:
            return not_executable(text)
        if status == _REFUSED:
            return WeftError(Problem.MODULE_INVALID, f"{self._source} is not a valid module: {text}")
        if status == _HOST_FAILED:
            return WeftError(
                Problem.OS_ERROR, f"cannot compile {self._source}: {text or 'no reason was told'}"
            )
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        hint = "the kernel may have been short of memory" if status == -signal.SIGKILL else text or None
        return WeftError(Problem.INTERNAL_ERROR, f"the compiler ended with {how} on {self._source}", hint)


def _killed_for_memory(group: Path | None) -> int:
    """How often the kernel has ended a process of that control group for want of memory."""
    try:
        text = "" if group is None else group.with_name("memory.events").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _compile_and_exit(
    engine: Engine, module_fd: int, code_fd: int, text_fd: int, parent: int, group: Path | None
) -> NoReturn:
    """The child: leaves by os._exit or a signal, never through the parent's code."""
    status = _REFUSED
    try:
        os.dup2(text_fd, 1)
        os.dup2(text_fd, 2)
        _end_with(parent)
        note = _enter(group)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        bound = limits.COMPILE_MEMORY.value
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            bound = min(bound, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
        with open(module_fd, "rb", closefd=False) as file:
            file.seek(0)
            module = file.read()
        digest = sha256(module).digest()
        code = wasmtime.Module(engine.engine, without_costly_names(module)).serialize()
        made_by = compatibility(engine.kind)
        assert made_by is not None  # what compiles any module compiles an empty one
        with open(code_fd, "wb", closefd=False) as file:
            file.write(code)
            file.write(code_cache.trailer(code, code_cache.Key(made_by, digest)))
        os.write(2, note.encode(errors="replace"))
        status = 0
    except BaseException as error:  # whatever it is, the parent tells it
        status = _REFUSED if isinstance(error, wasmtime.WasmtimeError) else _HOST_FAILED
        text = repr(error) if isinstance(error, MemoryError) else str(error)
        os.write(2, text.encode(errors="replace")[:_TEXT_MAX])
    finally:
        os._exit(status)


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
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os._exit(_REFUSED)
