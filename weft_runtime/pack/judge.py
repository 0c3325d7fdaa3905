# SPDX-License-Identifier: Apache-2.0
"""Whether weft-runtime would start a module: the engine's word where it is installed, and a reader's besides."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from weft_runtime import imports, limits
from weft_runtime.binary import HEADER_SIZE, Kind, kind_of
from weft_runtime.escape import quote
from weft_runtime.limits import Limit
from weft_runtime.manifest import ReadyMode
from weft_runtime.pack import engine, module, wasi
from weft_runtime.pack.findings import Finding
from weft_runtime.pack.module import Export, FunctionType, Import, Malformed, Module, Size, Unsupported

START = "_start"
WEFT_READY = "weft_ready"
_PLAIN = FunctionType((), ())
_START_HINT = "a WASI command has one; a library or a reactor does not"
_OFFSET = re.compile(r"at offset (0x[0-9a-f]+|[0-9]+)")
_NOT_VALID = "is not a valid module"


class Verdict(NamedTuple):
    """What is wrong with a module, and whether the engine has looked at it."""

    findings: tuple[Finding, ...]
    by_engine: bool
    note: str | None = None
    """Why there is no code although it was asked for."""


def judge(
    fd: int,
    name: str,
    ready: ReadyMode | None,
    environ: Mapping[str, str],
    code_fd: int | None = None,
    *,
    waiting: Callable[[], None] = lambda: None,
) -> Verdict:
    """Judge the module that is open on `fd`, the file `name` of a package, for an app with this ready mode.

    The code that the engine makes of it goes to `code_fd`, if it asks for it; `waiting` is called now and then.
    Raises WeftError where the engine is there but cannot be asked.
    """
    size = os.fstat(fd).st_size
    if size > limits.MODULE.value:
        error = limits.exceeded(limits.MODULE, f"has {size} bytes")
        return Verdict((Finding(name, error.message),), by_engine=False)
    kind = kind_of(os.pread(fd, HEADER_SIZE, 0))
    if kind is not Kind.CORE_MODULE:
        return Verdict((Finding(name, _wrong_kind(kind), offset=0),), by_engine=False)
    with open(fd, "rb", closefd=False) as file:
        data = file.read()
    unreadable, startable, asked_for = None, list[Finding](), list[Finding]()
    try:
        contents = module.read(data)
        startable = list(_start_problems(contents, name))
        asked_for = list(_ready_problems(contents, name, ready))
    except Malformed as error:
        unreadable = _cannot_read(error, name)
    answer = engine.ask(fd, environ, code_fd, waiting=waiting)
    if answer is None:
        return Verdict((*startable, *asked_for, *([unreadable] if unreadable else [])), by_engine=False)
    if not answer.complaint:
        # The engine would start it: what the reader could not make out does not matter, but for one thing.
        if unreadable is not None and ready is ReadyMode.EXPORT:
            asked_for.append(unreadable)
        return Verdict(tuple(asked_for), by_engine=True, note=answer.note)
    found = startable + asked_for
    # It names the first problem only. Those of imports and exports the reader has named, all of them.
    if not found or answer.complaint.startswith(_NOT_VALID):
        match = _OFFSET.search(answer.complaint)
        found.append(Finding(name, answer.complaint, offset=int(match[1], 0) if match else None))
    return Verdict(tuple(found), by_engine=True)


def _wrong_kind(kind: Kind) -> str:
    match kind:
        case Kind.COMPONENT:
            return f"is {kind}: components are not supported by this release"
        case Kind.PRECOMPILED:
            return (
                f"is {kind}: not accepted in a package [ship the .wasm file; it is compiled on the device]"
            )
        case Kind.TEXT:
            return (
                f"is {kind}, not a WebAssembly module"
                " [assemble WAT with wat2wasm(1) or wasm-tools(1) before packaging]"
            )
        case _:
            return f"is {kind}"


def _cannot_read(error: Malformed, name: str) -> Finding:
    if isinstance(error, Unsupported):
        message = (
            f"has {error.complaint}: whether it can be run only the engine can tell, which is not installed"
        )
        return Finding(name, message, offset=error.offset)
    return Finding(name, f"{_NOT_VALID}: {error.complaint}", offset=error.offset)


def _start_problems(contents: Module, name: str) -> Iterator[Finding]:
    """What would keep a module from being started, in the order of the file."""
    unknown = [import_ for import_ in contents.imports if not _is_known(import_)]
    hint = imports.diagnose([(import_.module, import_.name) for import_ in unknown])
    for import_ in contents.imports:
        if (complaint := _import_complaint(import_)) is None:
            continue
        # One hint for all of them: they come from one toolchain.
        if hint is not None and unknown and import_ is unknown[0]:
            complaint = f"{complaint} [{hint}]"
        yield Finding(name, complaint, offset=import_.offset)
    for sizes, limit, count in (
        (contents.memories, limits.MEMORY, limits.MEMORIES),
        (contents.tables, limits.TABLE_ELEMENTS, limits.TABLES),
    ):
        yield from _size_problems(sizes, limit, count, name)
    start = _exported(contents, START)
    if start is None:
        yield Finding(name, f"exports no {START} [{_START_HINT}]")
    elif start.type != _PLAIN:
        yield _wrong_type(start, name)


def _ready_problems(contents: Module, name: str, ready: ReadyMode | None) -> Iterator[Finding]:
    export = _exported(contents, WEFT_READY)
    if export is not None and export.type != _PLAIN:
        yield _wrong_type(export, name)
    if export is None and ready is ReadyMode.EXPORT:
        yield Finding(name, f"exports no {WEFT_READY}, but the manifest has runtime.ready = 'export'")


def _is_known(import_: Import) -> bool:
    return import_.module == wasi.MODULE and import_.name in wasi.FUNCTIONS


def _import_complaint(import_: Import) -> str | None:
    what = f"imports {quote(import_.module)} {quote(import_.name)}"
    if not _is_known(import_):
        return f"{what}, which weft-runtime does not offer"
    expected = FunctionType(*wasi.FUNCTIONS[import_.name])
    if import_.type == expected:
        return None
    return f"{what} as {_type_text(import_.kind, import_.type)}: expected a function {expected}"


def _size_problems(sizes: tuple[Size, ...], limit: Limit, count: Limit, name: str) -> Iterator[Finding]:
    if len(sizes) > count.value:
        error = limits.exceeded(count, f"has {len(sizes)} {count.unit}")
        yield Finding(name, error.message, offset=sizes[count.value].offset)
    for size in sizes:
        if size.minimum > limit.value:
            error = limits.exceeded(limit, f"asks for {size.minimum} {limit.unit} at once")
            yield Finding(name, error.message, offset=size.offset)


def _exported(contents: Module, name: str) -> Export | None:
    return next((export for export in contents.exports if export.name == name), None)


def _wrong_type(export: Export, name: str) -> Finding:
    message = (
        f"exports {export.name} as {_type_text(export.kind, export.type)}: expected a function {_PLAIN}"
    )
    return Finding(name, message, offset=export.offset)


def _type_text(kind: str, type_: FunctionType | None) -> str:
    return f"a {kind}" if type_ is None else f"a {kind} {type_}"
