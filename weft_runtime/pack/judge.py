# SPDX-License-Identifier: Apache-2.0
"""Whether weft-runtime would start a module: the engine's word where it is installed, and a reader's besides."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from weft_runtime import imports, limits
from weft_runtime.binary import HEADER_SIZE, Kind, kind_of
from weft_runtime.errors import ExitStatus, Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.limits import Limit
from weft_runtime.manifest import ReadyMode
from weft_runtime.pack import module, wasi
from weft_runtime.pack.findings import Finding
from weft_runtime.pack.module import Export, FunctionType, Import, Malformed, Module, Size, Unsupported

START = "_start"
WEFT_READY = "weft_ready"
RUNTIME = "weft-runtime-wasmtime"

ENGINE_SECONDS = limits.COMPILE_SECONDS.value + 10
"""For the runtime's answer: it gives up compiling earlier by itself."""

_PLAIN = FunctionType((), ())
_START_HINT = "a WASI command has one; a library or a reactor does not"
_OFFSET = re.compile(r"at offset (0x[0-9a-f]+|[0-9]+)")
_NOT_VALID = "is not a valid module"


class Verdict(NamedTuple):
    """What is wrong with a module, and whether the engine has looked at it."""

    findings: tuple[Finding, ...]
    by_engine: bool


def judge(fd: int, name: str, ready: ReadyMode | None, environ: Mapping[str, str]) -> Verdict:
    """Judge the module that is open on `fd`, the file `name` of a package, for an app with this ready mode.

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
    answer = _ask_engine(fd, environ)
    if answer is None:
        return Verdict((*startable, *asked_for, *([unreadable] if unreadable else [])), by_engine=False)
    if not answer:
        # The engine would start it: what the reader could not make out does not matter, but for one thing.
        if unreadable is not None and ready is ReadyMode.EXPORT:
            asked_for.append(unreadable)
        return Verdict(tuple(asked_for), by_engine=True)
    found = startable + asked_for
    # It names the first problem only. Those of imports and exports the reader has named, all of them.
    if not found or answer.startswith(_NOT_VALID):
        match = _OFFSET.search(answer)
        found.append(Finding(name, answer, offset=int(match[1], 0) if match else None))
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


def _ask_engine(fd: int, environ: Mapping[str, str]) -> str | None:
    """What the engine has against the module: nothing is an empty text, None that there is no engine.

    The runtime itself is executed for it, which does what it does at a launch: compiling in a bounded child.
    """
    program = find_runtime(environ)
    if program is None:
        return None
    path = f"/proc/self/fd/{fd}"
    reader, writer = os.pipe()
    env = {**environ, "WEFT_LOG": "stderr", "WEFT_REPORT_FD": str(writer)}
    try:
        status = subprocess.run(
            [program, "--check-module", path],
            env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(fd, writer), timeout=ENGINE_SECONDS, check=False,
        ).returncode  # fmt: skip
    except OSError as error:
        os.close(reader)
        raise from_os_error(f"execute {quote(program)}", error) from None
    except subprocess.TimeoutExpired:
        os.close(reader)
        raise WeftError(
            Problem.OS_ERROR, f"{printable(program)} did not answer in {ENGINE_SECONDS} s"
        ) from None
    finally:
        os.close(writer)
    with open(reader, "rb") as file:
        report = file.read()
    if status == 0:
        return ""
    if status == ExitStatus.UNAVAILABLE:
        return None
    try:
        reason = str(json.loads(report)["reason"])
    except (ValueError, KeyError, TypeError):
        reason = f"{RUNTIME} ended with status {status} and told no reason"
    if status == ExitStatus.DATA:
        return reason.removeprefix(path).lstrip()
    raise WeftError(Problem.OS_ERROR, f"the module could not be checked: {reason}")


def find_runtime(environ: Mapping[str, str], program: str = RUNTIME) -> str | None:
    """A program of ours that runs apps: the one beside this program, or the first on PATH."""
    beside = [str(Path(sys.argv[0]).resolve().parent), str(Path(sys.executable).parent)]
    return shutil.which(program, path=os.pathsep.join([*beside, environ.get("PATH", os.defpath)]))
