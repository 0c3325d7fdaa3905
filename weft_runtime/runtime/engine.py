# SPDX-License-Identifier: Apache-2.0
"""The engine: the only module that imports the wasmtime binding, and what hides its ways."""

import ctypes
import os
import re
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import wasmtime
from wasmtime import _ffi

from weft_runtime import limits, paths
from weft_runtime.digest import sha256
from weft_runtime.errors import GUEST_STATUS_MAX, Problem, WeftError
from weft_runtime.escape import printable, quote
from weft_runtime.runtime.arguments import Preopen
from weft_runtime.settings import EngineKind

FRAMES_MAX = 20
"""Frames of a backtrace: as many as the engine itself prints."""

# How the engine begins the text of an error that it raised while guest code was on the stack.
_WHILE_EXECUTING = "error while executing at wasm backtrace:"
_CAUSE = "\n\nCaused by:\n"
_BAD_STATUS = "exit with invalid exit status outside of"

# How the engine says that a limit of the store was hit at instantiation, and which one.
_LIMIT_TEXTS = (
    ("memory minimum size", limits.MEMORY),
    ("table minimum size", limits.TABLE_ELEMENTS),
    ("resource limit exceeded: memory count", limits.MEMORIES),
    ("resource limit exceeded: table count", limits.TABLES),
)

_NO_OFFSET = 2**64 - 1

# Code of the interpreter, for machines of 64 bits and the byte order of amd64 and arm64.
_PULLEY_TARGET = "pulley64"

_EMPTY_MODULE = b"\0asm\1\0\0\0"

# The name under which the exports are looked up; its linker holds nothing else.
_APP = "app"

# What functions are called to which Rust and C++ go when they get no memory.
_NO_MEMORY = r"alloc_error|(rust|rdl|rg)_oom|bad_alloc"

_MEMORY = "memory"
"""The name under which every WASI program exports its memory."""


Module = wasmtime.Module

Linked = wasmtime.InstancePre
"""A module whose imports are resolved."""


class GuestEnd(Exception):
    """The guest has ended before `_start` returned."""

    memory = ""
    """What its memory may have to do with that: empty, or safe words to add to the reason."""


class GuestExit(GuestEnd):
    """The guest called proc_exit."""

    def __init__(self, status: int, note: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.note = note


class GuestTrap(GuestEnd):
    """The engine stopped the guest. All three texts are safe to log."""

    def __init__(self, kind: str, cause: str, backtrace: str) -> None:
        super().__init__(kind, cause)
        self.kind = kind
        self.cause = cause
        self.backtrace = backtrace


PLAIN_FUNCTION = "a function () -> ()"


class Entry(NamedTuple):
    """An exported function or whatever else has that name, and its type in words."""

    type: str

    @property
    def is_plain_function(self) -> bool:
        return self.type == PLAIN_FUNCTION


class GuestSetup(NamedTuple):
    """What the guest receives: nothing else of the host."""

    argv: Sequence[str]
    env: Sequence[tuple[str, str]]
    preopens: Sequence[Preopen]


class CodeRefused(Exception):
    """The engine does not take compiled code; the text is safe to log and completes "FILE ..."."""


NOT_EXECUTABLE = "failed to make memory executable"
"""What the engine says where memory must not be written and executed."""


def not_executable(text: str) -> WeftError:
    """The error where that is all that is wrong with compiled code; `text` is the engine's."""
    hint = "MemoryDenyWriteExecute= of systemd.exec(5) forbids it; WEFT_ENGINE=pulley does without"
    return WeftError(Problem.NOT_PERMITTED, f"compiled code may not be executed here: {text}", hint)


class Engine:
    """The engine of this process, which runs one module once."""

    def __init__(self, kind: EngineKind = EngineKind.NATIVE) -> None:
        """Raises WeftError(CONFIG_INVALID) where the stack is too small for any guest."""
        stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
        if stack != resource.RLIM_INFINITY and stack < limits.STACK.value:
            error = limits.exceeded(limits.STACK, f"the stack limit of this process is {stack} bytes")
            raise WeftError(Problem.CONFIG_INVALID, error.message)
        self.kind = kind
        self.engine = wasmtime.Engine(_config(kind))
        self.linker = wasmtime.Linker(self.engine)
        """What every guest may import: WASI."""
        self.linker.define_wasi()

    def load(self, fd: int, *, mapped: bool = True) -> Module:
        """The module whose code is in the file open on `fd`, by mapping the file, or else by copying what is in it.

        The file must never change. Raises CodeRefused, or WeftError(NOT_PERMITTED) where no code may be executed.
        """
        try:
            if mapped:
                try:
                    return wasmtime.Module.deserialize_file(self.engine, f"/proc/self/fd/{fd}")
                except wasmtime.WasmtimeError:
                    # Nothing of such a file system can be mapped to be executed; memory can be.
                    if not os.fstatvfs(fd).f_flag & os.ST_NOEXEC:
                        raise
            with open(fd, "rb", closefd=False) as file:
                file.seek(0)
                return wasmtime.Module.deserialize(self.engine, file.read())
        except wasmtime.WasmtimeError as error:
            text = one_line(str(error))
            if NOT_EXECUTABLE in text:
                raise not_executable(text) from None
            raise CodeRefused(f"is refused by the engine: {text}") from None
        except OSError as error:
            raise CodeRefused(f"cannot be read: {error.strerror}") from None


@cache
def machine(kind: EngineKind) -> Engine:
    """The engine of this process, made once: by a fork server for all its forks. Raises as Engine() does."""
    return Engine(kind)


_known_compatibility: dict[EngineKind, bytes] = {}


def compatibility(kind: EngineKind) -> bytes | None:
    """The SHA-256 of all that the engine says of what compiled code it takes: its version, its target, its settings.

    That is the header of a module, so an empty one is compiled: without a thread, which would not survive a fork.
    None where not even that is possible.
    """
    if kind in _known_compatibility:
        return _known_compatibility[kind]
    config = _config(kind)
    config.parallel_compilation = False
    try:
        code = wasmtime.Module(wasmtime.Engine(config), _EMPTY_MODULE).serialize()
    except wasmtime.WasmtimeError:
        return None
    digest: bytes = sha256(code).digest()
    _known_compatibility[kind] = digest
    return digest


def _config(kind: EngineKind) -> wasmtime.Config:
    config = wasmtime.Config()
    if kind is EngineKind.PULLEY:
        config.target = _PULLEY_TARGET
    return config


def version() -> str:
    """The engine's name and version."""
    from importlib import metadata  # noqa: PLC0415 - 20 ms of imports for --version alone

    return f"wasmtime {metadata.version('wasmtime')}"


class Guest:
    """A compiled module on its way through linking, instantiation and its calls."""

    def __init__(self, engine: Engine) -> None:
        self._linker = engine.linker
        self._store = wasmtime.Store(engine.engine)
        # Tables and memories each have their own bound; the engine's memory bound leaves tables alone.
        self._store.set_limits(
            memory_size=limits.MEMORY.value,
            memories=limits.MEMORIES.value,
            table_elements=limits.TABLE_ELEMENTS.value,
            tables=limits.TABLES.value,
            instances=1,
        )
        self._exports = wasmtime.Linker(engine.engine)

    def link(self, module: wasmtime.Module) -> Linked:
        """Resolve the imports. Raises WeftError(MODULE_INVALID), whose message completes "FILE ..."."""
        try:
            return self._linker.instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise _not_linked(module, str(error)) from None

    def instantiate(self, linked: Linked, setup: GuestSetup) -> None:
        """Make the instance, which runs its start section. Raises GuestExit, GuestTrap or WeftError: OS_ERROR for a
        preopened directory that the engine cannot open, and what keeps the module from being instantiated."""
        self._store.set_wasi(_wasi_config(setup))
        with _translated_errors():
            instance = linked.instantiate(self._store)
        # Not instance.exports(): that takes a minute with 100,000 exports, and cannot be interrupted.
        self._exports.define_instance(self._store, _APP, instance)

    def call(self, name: str) -> None:
        """Call the export `name`, a function () -> (). Raises GuestExit or GuestTrap."""
        function = self._exports.get(self._store, _APP, name)
        assert isinstance(function, wasmtime.Func)
        try:
            with _translated_errors():
                function(self._store)
        except GuestEnd as error:
            error.memory = about_memory(error, self._memory_size())
            raise

    def _memory_size(self) -> int | None:
        try:
            memory = self._exports.get(self._store, _APP, _MEMORY)
        except wasmtime.WasmtimeError:  # it has none, or no WASI program would find it
            return None
        return memory.data_len(self._store) if isinstance(memory, wasmtime.Memory) else 0


def about_memory(end: GuestEnd, size: int | None) -> str:
    """What to say of a guest that has failed, if it may have been refused memory: it has `size` bytes of it, or exports none.

    The engine tells nobody that it has refused some. A guest that allocates twice as much as before, as containers do,
    is refused when it has half of the limit; one that wants much at once has names for that, if any.
    """
    if size is None:
        return ""
    is_named = isinstance(end, GuestTrap) and re.search(_NO_MEMORY, end.backtrace)
    if 2 * size < limits.MEMORY.value and not is_named:
        return ""
    return f"; {limits.exceeded(limits.MEMORY, f'it had {size} bytes of memory').message}"


def entries(module: wasmtime.Module, *names: str) -> list[Entry | None]:
    """What `module` exports under each of `names`."""
    found = {
        export.name: Entry(_type_text(export.type)) for export in module.exports if export.name in names
    }
    return [found.get(name) for name in names]


def _not_linked(module: wasmtime.Module, text: str) -> WeftError:
    """The error where imports cannot be resolved that nobody has judged before: of code that was in a cache already."""
    from weft_runtime.wasm import reader, rules  # noqa: PLC0415 - a launch has no need of it

    imports = [
        reader.Import(imported.module, imported.name or "", _kind_text(imported.type), None, 0)
        for imported in module.imports
    ]
    if found := rules.by_imports(imports):
        return WeftError(found.problem, found.message, found.hint)
    # The name in the first part may hold anything, line breaks too.
    what, _, why = text.rpartition(_CAUSE)
    message = f"{printable(what)}: {one_line(why)}" if what else printable(why)
    return WeftError(Problem.MODULE_INVALID, f"cannot be linked: {message}")


_NOT_SHOWN = ("Caused by:", "note: run with `RUST_BACKTRACE")


def one_line(text: str) -> str:
    """A text of the engine, which spans lines and quotes names of the module, made safe on one line."""
    lines = (line.strip() for line in text.splitlines())
    return printable(
        ": ".join(line.rstrip(":") for line in lines if line and not line.startswith(_NOT_SHOWN))
    )


def _type_text(kind: object) -> str:
    if isinstance(kind, wasmtime.FuncType):
        # Only counted: the binding aborts the process when asked for the name of a type that it is too old for.
        params, results = len(kind.params), len(kind.results)
        return (
            f"a function with {params} parameters and {results} results"
            if params or results
            else PLAIN_FUNCTION
        )
    return f"a {_kind_text(kind)}"


def _kind_text(kind: object) -> str:
    if isinstance(kind, wasmtime.FuncType):
        return "function"
    return type(kind).__name__.removesuffix("Type").lower()


def _wasi_config(setup: GuestSetup) -> wasmtime.WasiConfig:
    """Standard input is left out, which makes it empty; there is no network to configure in preview 1."""
    config = wasmtime.WasiConfig()
    config.argv = list(setup.argv)
    config.env = list(setup.env)
    # Inherited descriptors, never Python callbacks: those panic in the engine's threads at exit.
    config.inherit_stdout()
    config.inherit_stderr()
    for preopen in setup.preopens:
        try:
            config.preopen_dir(paths.shown(preopen.host), preopen.guest, preopen.writable)
        except wasmtime.WasmtimeError:
            raise WeftError(
                Problem.OS_ERROR, f"cannot preopen the directory {quote(preopen.host)}"
            ) from None
    return config


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn what the binding raises while a guest runs into GuestExit, GuestTrap or WeftError."""
    try:
        yield
    except wasmtime.ExitTrap as error:
        raise GuestExit(error.code) from None
    except wasmtime.Trap as error:
        raise _guest_trap(error) from None
    except wasmtime.WasmtimeError as error:
        raise _other_error(str(error)) from None


def raised(error: int | None, trap: int | None) -> Exception:
    """What the library has put at one of these addresses, a wasmtime_error_t or a wasm_trap_t, as this module raises it."""
    try:
        with _translated_errors():
            if trap:
                pointer = ctypes.cast(ctypes.c_void_p(trap), ctypes.POINTER(_ffi.wasm_trap_t))
                raise wasmtime.Trap._from_ptr(pointer)
            place = ctypes.cast(ctypes.c_void_p(error), ctypes.POINTER(_ffi.wasmtime_error_t))
            raise wasmtime.WasmtimeError._from_ptr(place)
    except (GuestExit, GuestTrap, WeftError) as translated:
        return translated


def _guest_trap(trap: wasmtime.Trap) -> GuestTrap:
    cause = _cause(trap.message)
    code = trap.trap_code
    kind = code.name.lower().replace("_", "-") if code else "uncaught-exception"
    readable = _readable_names(trap)
    frames = [
        f"  {number}: {printable(readable.get(number, frame.func_name or '?'), 200)} ({_place(frame)})"
        for number, frame in enumerate(trap.frames[:FRAMES_MAX])
    ]
    return GuestTrap(kind, cause, "\n".join(frames))


def _place(frame: wasmtime.Frame) -> str:
    place = f"function {frame.func_index}"
    # The innermost frame of a stack overflow is nowhere yet.
    return place if frame.module_offset == _NO_OFFSET else f"{place}, offset {frame.module_offset:#x}"


def _readable_names(trap: wasmtime.Trap) -> dict[int, str]:
    """The mangled names of Rust and C++ as the engine's text has them, by number of frame.

    Only those: the engine takes any short name for a mangled one, and shows a function `f` as "float". And
    none where a name has a line break, which could pass for another frame.
    """
    names = [name for frame in trap.frames for name in (frame.func_name, frame.module_name) if name]
    if any(len(name.splitlines()) != 1 for name in names):
        return {}
    frame = re.compile(r"^ *(\d+): +0x[0-9a-f]+ - [^!\n]*!([^\n]*::[^\n]*)$", re.MULTILINE)
    return {int(match[1]): match[2] for match in frame.finditer(trap.message)}


def _other_error(text: str) -> Exception:
    """An error without a type of its own: told by its text, whose beginning is always the engine's."""
    if text.startswith(_WHILE_EXECUTING):
        cause = _cause(text)
        if cause.startswith(_BAD_STATUS):
            return GuestExit(
                GUEST_STATUS_MAX, f": it asked for one above {GUEST_STATUS_MAX}, which is not passed on"
            )
        backtrace = text.removeprefix(_WHILE_EXECUTING).rpartition(_CAUSE)[0]
        frames = re.split(r"\n +(?=\d+: +0x)", backtrace)[1 : FRAMES_MAX + 1]
        return GuestTrap("host-call", cause, "\n".join(f"  {printable(frame, 256)}" for frame in frames))
    message = one_line(text)
    for beginning, limit in _LIMIT_TEXTS:
        if text.startswith(beginning):
            return limits.exceeded(limit, message)
    problem = Problem.OS_ERROR if "(os error " in text else Problem.MODULE_INVALID
    return WeftError(problem, f"cannot instantiate the module: {message}")


def _cause(text: str) -> str:
    """The last part of an error's text. What comes before may be as long as its functions' names."""
    lines = text.rpartition(_CAUSE)[2].splitlines()
    # Several causes are numbered, from the outermost to the one that says most.
    causes = [re.sub(r"^ *(\d+: )?(wasm trap: )?", "", line) for line in lines]
    return one_line("\n".join(causes))
