# SPDX-License-Identifier: Apache-2.0
"""A session from its plan to its end, without a decision of its own.

Until the instance is made nothing of the app has run. Whatever is unusual up to there is left to the full runtime, which
is executed in this process and does everything again. From there on the full runtime's own code says what went wrong
(`runtime/aftermath.py`), and is imported for that.

Each object that a fork uses for the first time costs it a page. So this is straight code with few objects, and what does
not depend on the app is made before the fork.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
from ctypes import memmove, string_at

from weft_runtime import plan as plans
from weft_runtime.thin import library, outdated
from weft_runtime.thin.library import (
    EXTERN,
    EXTERN_FUNC,
    EXTERN_UNION,
    MEMORY,
    NAME,
    POINTER,
    STATUS,
    TRAP,
    VECTOR,
    Library,
    Words,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

READY_LINE = b"READY\n"

STACK_MIN = 1024 * 1024
"""Bytes, as in limits.py, which is not imported here."""

REPORT_FD = 3
"""Where a session of a supervisor finds its report, and CODE_FD its compiled code."""

CODE_FD = 4

_CODE = b"/proc/self/fd/%d" % CODE_FD

_REPORT = (
    b'{"event": "exited", "exit_status": %d, "signal": null, "reason": "the app exited with status %d",'
    b' "problem": null, "detail": ""}\n'
)

_START = b"_start"
_MEMORY = b"memory"
_WEFT_READY = b"weft_ready"
_START_SECTION = b"its start section"

_NAME_SIZES = (len(_START), len(_WEFT_READY))

_USUAL = 32
"""Arguments and variables that there is room for, without more memory than was made before the fork."""


class Unusual(Exception):
    """What the full runtime has to do, or to tell. Nothing of the app has run."""


class Failed(Exception):
    """What ended the app, if not its own will: the addresses of an error and of a trap of the library's."""

    def __init__(
        self,
        where: bytes,
        error: int | None = None,
        trap: int | None = None,
        *,
        memory: int | None = None,
        cause: OSError | None = None,
    ) -> None:
        """`memory` is what the app had of it, in bytes; `cause` is of the system, where the library had no part in it."""
        self.where = where
        self.error = error
        self.trap = trap
        self.memory = memory
        self.cause = cause


class Machine:
    """The engine of this process and what every guest may import: made once, by a fork server for all its forks."""

    def __init__(self) -> None:
        """Raises OSError where the library cannot be used, or no guest would have the stack that it may use."""
        stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
        if stack != resource.RLIM_INFINITY and stack < STACK_MIN:
            raise OSError(f"the stack limit of this process is {stack} bytes, less than {STACK_MIN}")
        self._file = library.path()
        self._state = outdated.state(self._file)
        self.library = call = Library()
        self.memory = Words()
        self.strings = [(ctypes.c_char_p * _USUAL)() for _ in range(3)]
        self.engine = call.wasm_engine_new_with_config(call.wasm_config_new())
        self.linker = call.wasmtime_linker_new(self.engine)
        if call.wasmtime_linker_define_wasi(self.linker):
            raise OSError("the engine does not know WASI")

    def with_library(self, library: Library) -> Machine:
        """The same with other functions, and memory of its own. Nothing is made by them."""
        other = Machine.__new__(Machine)
        # In the order of `__init__`: so the interpreter takes both for alike.
        other._file, other._state = self._file, self._state
        other.library, other.memory, other.strings = library, Words(), self.strings
        other.engine, other.linker = self.engine, self.linker
        return other

    @property
    def is_outdated(self) -> bool:
        """Whether what is on the disk by now is not what this process has begun with: it goes on with what it has."""
        return outdated.state(self._file) != self._state


class Session:
    """One run of one app."""

    def __init__(self, machine: Machine) -> None:
        """Make the store, which does not depend on the app; not in a fork server, whose forks have one each."""
        self._machine = machine
        self._store = machine.library.wasmtime_store_new(machine.engine, None, None)
        self._context = machine.library.wasmtime_store_context(self._store)
        self._calls_weft_ready = False
        self._says_ready = True
        self._memory_max = 0
        self.phase = _START_SECTION
        """What of the app is running."""

    def load(self, plan: bytes, code: bytes = _CODE) -> None:
        """All that comes before the app's first instruction; `code` is the path of its compiled code. Raises Unusual."""
        machine = self._machine
        call, memory = machine.library, machine.memory
        fields, arguments, variables, directories = plans.parts(plan)
        self._memory_max, memories, table_elements, tables = map(int, fields[plans.LIMITS : plans.ARGUMENTS])
        call.wasmtime_store_limiter(self._store, self._memory_max, table_elements, 1, tables, memories)
        # The file is mapped, and an image of its data for the memory is mapped from its descriptor later: it stays open.
        if call.wasmtime_module_deserialize_file(machine.engine, code, memory.pointer):
            raise Unusual
        module = memory.words[POINTER]
        self._judge_exports(module, fields[plans.READY])
        if call.wasmtime_linker_instantiate_pre(machine.linker, module, memory.pointer):
            raise Unusual
        # What the guest receives. Made here and not before a fork: it comes with a generator of random numbers.
        config = call.wasi_config_new()
        argv = self._strings(0, fields[arguments + 1 : arguments + 1 + int(fields[arguments])])
        done = call.wasi_config_set_argv(config, int(fields[arguments]), argv)
        if count := int(fields[variables]):
            names = self._strings(1, fields[variables + 1 : directories : 2])
            values = self._strings(2, fields[variables + 2 : directories : 2])
            done = done and call.wasi_config_set_env(config, count, names, values)
        call.wasi_config_inherit_stdout(config)
        call.wasi_config_inherit_stderr(config)
        for at in range(directories + 1, directories + 1 + 3 * int(fields[directories]), 3):
            host, guest, mode = fields[at : at + 3]
            done = done and call.wasi_config_preopen_dir(config, host, guest, mode == plans.READ_WRITE)
        if not done or call.wasmtime_context_set_wasi(self._context, config):
            raise Unusual

    def run(self, announce: Callable[[], None] | None = None) -> int:
        """The app's own exit status; `announce` says READY, or else `say_ready`. Raises Failed."""
        call, memory = self._machine.library, self._machine.memory
        error = call.wasmtime_instance_pre_instantiate(
            memory.words[POINTER], self._context, memory.instance, memory.trap
        )
        if error or memory.words[TRAP]:
            raise Failed(_START_SECTION, error, memory.words[TRAP])
        if self._calls_weft_ready and (error := self._run(_WEFT_READY)):
            raise Failed(_WEFT_READY, error)
        if self._says_ready:
            try:
                (announce or say_ready)()
            except OSError as cause:
                raise Failed(_START, cause=cause) from None
        error = self._run(_START)
        status = memory.words[STATUS] if error else 0
        if status and 2 * ((size := self._memory_size()) or 0) >= self._memory_max:
            # It may have been refused more, which is worth telling.
            raise Failed(_START, error, memory=size)
        return status

    @property
    def is_outdated(self) -> bool:
        """As that of the machine."""
        return self._machine.is_outdated

    def end_of(self, failed: Failed) -> tuple[int, str, str, str]:
        """The exit status of an app that has failed, the event, the reason and the frames: for a process that is outdated."""
        call, memory = self._machine.library, self._machine.memory
        if failed.error and not failed.trap and call.wasmtime_error_exit_status(failed.error, memory.status):
            status = memory.words[STATUS]
            return status, "exited", f"the app exited with status {status}", ""
        return outdated.end(call, memory, failed)

    def _memory_size(self) -> int | None:
        """Bytes of what the app exports as its memory; None if it exports nothing under that name."""
        call, memory = self._machine.library, self._machine.memory
        if not call.wasmtime_instance_export_get(
            self._context, memory.instance, _MEMORY, len(_MEMORY), memory.extern
        ):
            return None
        if memory.words[EXTERN] & 0xFF != MEMORY:
            return 0
        size: int = call.wasmtime_memory_data_size(self._context, memory.extern + EXTERN_UNION)
        return size

    def _judge_exports(self, module: int, mode: bytes) -> None:
        """Raises Unusual where the app cannot be started as it should be."""
        call, memory = self._machine.library, self._machine.memory
        words, name = memory.words, memory.name
        call.wasmtime_module_exports(module, memory.vector)
        start = ready = None
        for place in range(words[VECTOR + 1], words[VECTOR + 1] + 8 * words[VECTOR], 8):
            memmove(memory.trap, place, 8)
            export = words[TRAP]
            memmove(name, call.wasm_exporttype_name(export), 16)
            size = words[NAME]
            if size in _NAME_SIZES:
                text = string_at(words[NAME + 1], size)
                if text == _START:
                    start = export
                elif text == _WEFT_READY:
                    ready = export
        words[TRAP] = 0
        if mode == b"export" or (not mode and ready):
            self._calls_weft_ready = True
            if not ready or not self._is_plain_function(ready):
                raise Unusual
        self._says_ready = mode != b"guest"
        if not start or not self._is_plain_function(start):
            raise Unusual
        call.wasm_exporttype_vec_delete(memory.vector)

    def _is_plain_function(self, export: int) -> bool:
        """Whether a wasm_exporttype_t is that of a function without parameters and results."""
        call, memory = self._machine.library, self._machine.memory
        kind = call.wasm_exporttype_type(export)
        if call.wasm_externtype_kind(kind) != EXTERN_FUNC:
            return False
        function = call.wasm_externtype_as_functype_const(kind)
        memmove(memory.name, call.wasm_functype_params(function), 8)
        memmove(memory.name + 8, call.wasm_functype_results(function), 8)
        return not memory.words[NAME] and not memory.words[NAME + 1]

    def _strings(self, number: int, texts: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
        strings = self._machine.strings[number]
        if len(texts) > len(strings):
            return (ctypes.c_char_p * len(texts))(*texts)
        for place, text in enumerate(texts):
            strings[place] = text
        return strings

    def _run(self, name: bytes) -> int | None:
        """Call an export. If it does not return but exits, the status is in the memory for it, and the result is the
        library's error. Raises Failed."""
        call, memory = self._machine.library, self._machine.memory
        self.phase = name
        call.wasmtime_instance_export_get(self._context, memory.instance, name, len(name), memory.extern)
        error: int | None = call.wasmtime_func_call(
            self._context, memory.extern + EXTERN_UNION, None, 0, None, 0, memory.trap
        )
        trap = memory.words[TRAP]
        if trap or (error and not call.wasmtime_error_exit_status(error, memory.status)):
            raise Failed(name, error, trap, memory=self._memory_size())
        return error


def follow(session: Session, plan: bytes) -> int:
    """Do what an encoded plan says, for a supervisor; the exit status. Does not return where there is more to tell."""
    try:
        session.load(plan)
    except (Unusual, MemoryError):
        _execute(plan)
    try:
        status = session.run()
    except Failed as failure:
        if not session.is_outdated:
            try:
                _tell(plan, failure)
            except ImportError:
                pass  # of the interpreter, if not of ours, something has gone
        status, event, reason, detail = session.end_of(failure)
        if event != "exited":
            outdated.report(REPORT_FD, status, event, reason, detail)
    # Nothing else was ever written to this pipe, so there is room for it.
    try:
        os.write(REPORT_FD, _REPORT % (status, status))
    except OSError:  # nobody is left who reads it
        if not session.is_outdated:
            _tell(plan, status)
    return status


def end_by(error: Exception) -> NoReturn:
    """End the process, which could not become a session."""
    from weft_runtime.runtime import aftermath  # noqa: PLC0415

    aftermath.tell_error(error)


def say_ready() -> None:
    """Write the READY line, in one piece. Raises OSError."""
    while True:
        try:
            os.write(1, READY_LINE)
            break
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(1, select.POLLOUT)
            waiting.poll()
    # Who reads a pipe may have been put behind its writer, on the same CPU. It goes first.
    os.sched_yield()


def _execute(plan: bytes) -> NoReturn:
    """Become the full runtime. Ends as a shell does for a program that has vanished where that is not possible."""
    command = plans.Plan.decode(plan).command
    os.environ.pop("TOKIO_WORKER_THREADS", None)
    try:
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, b"cannot execute the runtime: %s\n" % os.strerror(error.errno or 0).encode())
    os._exit(127)


def _tell(plan: bytes, what: Failed | int) -> NoReturn:
    from weft_runtime.runtime import aftermath  # noqa: PLC0415 - all of the full runtime

    found = plans.Plan.decode(plan)
    about = {"WEFT_APP_ID": found.app_id.decode(), "WEFT_SESSION_ID": found.session_id.decode()}
    if isinstance(what, int):
        aftermath.tell_exit(about, what)
    aftermath.tell(about, what)
