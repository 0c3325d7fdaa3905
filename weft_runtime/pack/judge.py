# SPDX-License-Identifier: Apache-2.0
"""Whether weft-runtime would start a module: by the rule of a launch, and then the engine's word where it is installed."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from weft_runtime import limits
from weft_runtime.binary import BEGINNING
from weft_runtime.manifest import ReadyMode
from weft_runtime.pack import engine
from weft_runtime.pack.findings import Finding
from weft_runtime.wasm import filekind, reader, rules
from weft_runtime.wasm.reader import Malformed, Unsupported
from weft_runtime.wasm.rules import Complaint

_OFFSET = re.compile(r"at offset (0x[0-9a-f]+|[0-9]+)")


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

    The engine is asked only where nothing else is wrong, since that takes long. The code that it makes goes to
    `code_fd`, if it asks for it; `waiting` is called now and then. Raises WeftError where the engine is there but cannot
    be asked.
    """
    size = os.fstat(fd).st_size
    if size > limits.MODULE.value:
        error = limits.exceeded(limits.MODULE, f"has {size} bytes")
        return Verdict((Finding(name, error.message),), by_engine=False)
    if (foreign := filekind.complaint(os.pread(fd, BEGINNING, 0))) is not None:
        return Verdict(_findings(name, [foreign]), by_engine=False)
    with open(fd, "rb", closefd=False) as file:
        data = file.read()
    unread: Malformed | None = None
    try:
        contents = reader.read(data)
        unread = contents.unread
        # A weft_ready that nobody calls must be one all the same: the manifest may change, and the engine asks for it.
        found = rules.complaints(contents, ready if ready is ReadyMode.EXPORT else None)
        if found:
            return Verdict(_findings(name, found), by_engine=False)
        is_ready = contents.has_all_exports or ready is not ReadyMode.EXPORT
    except Malformed as error:
        unread, is_ready = error, ready is not ReadyMode.EXPORT
    answer = engine.ask(fd, environ, code_fd, waiting=waiting)
    if answer is None:
        return Verdict(() if unread is None else (_cannot_read(unread, name),), by_engine=False)
    if answer.complaint:
        match = _OFFSET.search(answer.complaint)
        offset = int(match[1], 0) if match else None
        return Verdict((Finding(name, answer.complaint, offset=offset),), by_engine=True)
    # The engine would start it: what the reader could not make out does not matter, but for one thing.
    left = () if is_ready or unread is None else (_cannot_read(unread, name),)
    return Verdict(left, by_engine=True, note=answer.note)


def _findings(name: str, found: Iterable[Complaint]) -> tuple[Finding, ...]:
    return tuple(Finding(name, str(complaint), offset=complaint.offset) for complaint in found)


def _cannot_read(error: Malformed, name: str) -> Finding:
    if isinstance(error, Unsupported):
        message = (
            f"has {error.complaint}: whether it can be run only the engine can tell, which is not installed"
        )
        return Finding(name, message, offset=error.offset)
    return Finding(name, f"is not a valid module: {error.complaint}", offset=error.offset)
