# SPDX-License-Identifier: Apache-2.0
"""Compiling a module in a child process, where its cost is bounded and a crash is only an error."""

import ctypes
import os
import resource
import select
import signal
from typing import NoReturn

import wasmtime

from weft_runtime import limits
from weft_runtime.binary import without_costly_names
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.runtime.engine import Engine, one_line

_PR_SET_PDEATHSIG = 1
_REFUSED = 1
"""Exit status of the child for a module that the engine does not accept."""

_HOST_FAILED = 2
"""Exit status of the child where the system, not the module, was in its way."""

_TEXT_MAX = 8192
"""Bytes of what the child may tell: an error's text, or a panic message."""

# What the allocators of Rust and Python say when the memory bound is hit.
_OUT_OF_MEMORY = ("memory allocation of", "MemoryError", "Cannot allocate memory")

# What the engine says where memory must not be written and executed.
_NOT_EXECUTABLE = "failed to make memory executable"
_PULLEY_HINT = "MemoryDenyWriteExecute= of systemd.exec(5) forbids it; WEFT_ENGINE=pulley does without"


class Compilation:
    """A compilation under way in a child; the parent can prepare the guest meanwhile."""

    def __init__(self, engine: Engine, module_fd: int, source: str) -> None:
        """Start compiling the module open on `module_fd`; `source` is its path for messages.

        The engine must not have compiled anything in this process: its compile threads do not survive
        a fork. The only other thread, the one that waits for stop signals, holds no lock.
        """
        self._engine = engine
        self._source = source
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
            _compile_and_exit(engine, module_fd, self._code_fd, text_end, parent)
        os.close(text_end)

    def result(self) -> wasmtime.Module:
        """Wait for the child and load what it made.

        Raises WeftError: MODULE_INVALID, LIMIT_EXCEEDED naming the limit, or INTERNAL_ERROR where the
        compiler crashed.
        """
        try:
            try:
                status = self._wait()
            except OSError as error:
                os.kill(self._pid, signal.SIGKILL)
                raise from_os_error("wait for the compiler", error) from None
            if status != 0:
                raise self._error(status)
            # The file is ours alone: a descriptor that no other process has, written by our own child.
            return wasmtime.Module.deserialize_file(self._engine.engine, f"/proc/self/fd/{self._code_fd}")
        except wasmtime.WasmtimeError as error:
            message = f"cannot load the compiled code of {self._source}: {one_line(str(error))}"
            raise WeftError(Problem.OS_ERROR, message) from None
        finally:
            os.close(self._code_fd)
            os.close(self._text_fd)

    def _wait(self) -> int:
        """The child's exit status, or minus the number of the signal that ended it."""
        pidfd = os.pidfd_open(self._pid)
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        in_time = waiting.poll(limits.COMPILE_SECONDS.value * 1000)
        os.close(pidfd)
        if not in_time:
            os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        if not in_time:
            raise limits.exceeded(limits.COMPILE_SECONDS, f"{self._source} is still not compiled")
        return os.waitstatus_to_exitcode(status)

    def _error(self, status: int) -> WeftError:
        text = one_line(os.read(self._text_fd, _TEXT_MAX).decode(errors="replace"))
        if any(words in text for words in _OUT_OF_MEMORY):
            return limits.exceeded(limits.COMPILE_MEMORY, f"{self._source} is too costly to compile: {text}")
        if _NOT_EXECUTABLE in text:
            message = f"compiled code may not be executed here: {text}"
            return WeftError(Problem.NOT_PERMITTED, message, _PULLEY_HINT)
        if status == _REFUSED:
            return WeftError(Problem.MODULE_INVALID, f"{self._source} is not a valid module: {text}")
        if status == _HOST_FAILED:
            return WeftError(
                Problem.OS_ERROR, f"cannot compile {self._source}: {text or 'no reason was told'}"
            )
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        hint = "the kernel may have been short of memory" if status == -signal.SIGKILL else text or None
        return WeftError(Problem.INTERNAL_ERROR, f"the compiler ended with {how} on {self._source}", hint)


def _compile_and_exit(engine: Engine, module_fd: int, code_fd: int, text_fd: int, parent: int) -> NoReturn:
    """The child: leaves by os._exit or a signal, never through the parent's code."""
    status = _REFUSED
    try:
        os.dup2(text_fd, 1)
        os.dup2(text_fd, 2)
        _end_with(parent)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        bound = limits.COMPILE_MEMORY.value
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            bound = min(bound, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
        with open(module_fd, "rb", closefd=False) as file:
            module = without_costly_names(file.read())
        code = wasmtime.Module(engine.engine, module).serialize()
        with open(code_fd, "wb", closefd=False) as file:
            file.write(code)
        status = 0
    except BaseException as error:  # whatever it is, the parent tells it
        status = _REFUSED if isinstance(error, wasmtime.WasmtimeError) else _HOST_FAILED
        text = repr(error) if isinstance(error, MemoryError) else str(error)
        os.write(2, text.encode(errors="replace")[:_TEXT_MAX])
    finally:
        os._exit(status)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends: it blocks all that could stop it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os._exit(_REFUSED)
