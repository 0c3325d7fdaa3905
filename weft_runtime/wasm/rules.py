# SPDX-License-Identifier: Apache-2.0
"""Whether a module can be an app: the rule and the words of a check, of a run, of a launch and of a service.

A complaint completes "FILE ...". What is not known (`reader.Unsupported`) is no complaint: the engine decides.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from weft_runtime import limits
from weft_runtime.errors import Problem
from weft_runtime.escape import printable
from weft_runtime.limits import Limit
from weft_runtime.manifest import ReadyMode
from weft_runtime.wasm import START, WEFT_READY, foreign, reader, wasi
from weft_runtime.wasm.reader import FUNCTION, Export, FunctionType, Import, Module, Size

NAMED_MAX = 5
"""Imports that are named: their toolchain is the reason for all of them, and some have hundreds."""

_NAME_MAX = 100
"""Characters of each of these names."""

_TYPE_MAX = 200
"""Characters of a function's type: more than that of any function of WASI."""

_PLAIN = FunctionType((), ())


class Complaint(NamedTuple):
    """One thing that keeps a module from being started."""

    message: str
    """It completes "FILE ..."."""
    hint: str | None = None
    offset: int | None = None
    """In bytes; None of what is wrong with a module as a whole."""
    problem: Problem = Problem.MODULE_INVALID

    def __str__(self) -> str:
        return f"{self.message} [{self.hint}]" if self.hint else self.message


def complaints(contents: Module, ready: ReadyMode | None) -> list[Complaint]:
    """All that would keep a module from being started, in the order of the file; last what is wrong as a whole.

    `ready` is what the manifest says.
    """
    found = [*_complaints(contents), *_about_ready(contents, ready)]
    return sorted(found, key=lambda complaint: (complaint.offset is None, complaint.offset or 0))


def summary(found: Sequence[Complaint]) -> Complaint:
    """All complaints, one at least, as one: for whoever has one line."""
    invalid = [complaint for complaint in found if complaint.problem is Problem.MODULE_INVALID]
    return Complaint(
        "; ".join(complaint.message for complaint in found),
        next((complaint.hint for complaint in found if complaint.hint), None),
        found[0].offset,
        (invalid or found)[0].problem,
    )


def by_imports(imports: Sequence[Import]) -> Complaint | None:
    """What keeps a module with these imports from being started, whatever else it has; types need not be known."""
    contents = Module(tuple(imports), (), (), (), has_all_exports=False)
    found = complaints(contents, ReadyMode.HOST)
    return summary(found) if found else None


def judge(module: bytes, ready: ReadyMode | None) -> Complaint | None:
    """What keeps `module`, a file with the header of one, from being started, as far as a reader can tell.

    One that is malformed is for the engine, which says that in more words.
    """
    try:
        found = complaints(reader.read(module), ready)
    except reader.Malformed:
        return None
    return summary(found) if found else None


def no_start() -> Complaint:
    """Complain that there is no entry point."""
    return Complaint(f"exports no {START}", "a WASI command has one; a library or a reactor does not")


def no_weft_ready() -> Complaint:
    """Complain that there is no export that the manifest wants."""
    return Complaint(f"exports no {WEFT_READY}, but its manifest has runtime.ready = 'export'")


def not_plain(name: str, found: str, offset: int | None = None) -> Complaint:
    """Complain about an export that must be a plain function; `found` is its type."""
    return Complaint(f"exports {name} as {found}: expected a function {_PLAIN}", offset=offset)


def not_offered(names: Sequence[tuple[str, str]], offset: int | None = None) -> Complaint:
    """Complain about imports, one at least, each by the names of its module and its own."""
    names = [*dict.fromkeys(names)]
    shown = ", ".join(f"{_quote(module)} {_quote(name)}" for module, name in names[:NAMED_MAX])
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return Complaint(f"imports {shown}{more}, which weft-runtime does not offer", offset=offset)


def _complaints(contents: Module) -> Iterator[Complaint]:
    hint = foreign.diagnose(contents)
    found = [
        *_about_imports(contents),
        *_sizes(contents.memories, limits.MEMORY, limits.MEMORIES),
        *_sizes(contents.tables, limits.TABLE_ELEMENTS, limits.TABLES),
        *_about_start(contents),
    ]
    # One hint for all of them: they come from one toolchain.
    told = next((complaint for complaint in found if complaint.problem is Problem.MODULE_INVALID), None)
    for complaint in found:
        yield complaint._replace(hint=hint if complaint is told else None) if hint else complaint


def _about_imports(contents: Module) -> Iterator[Complaint]:
    unknown, wrong = foreign.unknown_imports(contents), foreign.wrong_imports(contents)
    if unknown:
        yield not_offered([(import_.module, import_.name) for import_ in unknown], unknown[0].offset)
    for import_ in wrong[:NAMED_MAX]:
        what = f"imports {_quote(import_.module)} {_quote(import_.name)}"
        found = _type_text(import_.kind, import_.type)
        expected = f"expected a function {wasi.FUNCTIONS[import_.name]}"
        yield Complaint(f"{what} as {found}: {expected}", offset=import_.offset)
    if more := wrong[NAMED_MAX:]:
        message = f"imports {len(more)} more of '{wasi.MODULE}' as something else"
        yield Complaint(message, offset=more[0].offset)
    shared = [memory for memory in contents.memories if memory.is_shared]
    if shared and not any(import_.is_shared for import_ in unknown):
        yield Complaint("has a shared memory, which weft-runtime does not offer", offset=shared[0].offset)


def _about_start(contents: Module) -> Iterator[Complaint]:
    start = _exported(contents, START)
    if start is None and contents.has_all_exports:
        yield no_start()
    elif start is not None and _is_wrong(start):
        yield not_plain(START, _type_text(start.kind, start.type), start.offset)


def _about_ready(contents: Module, ready: ReadyMode | None) -> Iterator[Complaint]:
    if ready not in (None, ReadyMode.EXPORT):
        return
    export = _exported(contents, WEFT_READY)
    if export is not None and _is_wrong(export):
        yield not_plain(WEFT_READY, _type_text(export.kind, export.type), export.offset)
    if export is None and ready is ReadyMode.EXPORT and contents.has_all_exports:
        yield no_weft_ready()


def _sizes(sizes: tuple[Size, ...], limit: Limit, count: Limit) -> Iterator[Complaint]:
    if len(sizes) > count.value:
        message = limits.exceeded(count, f"has {len(sizes)} {count.unit}").message
        yield Complaint(message, offset=sizes[count.value].offset, problem=Problem.LIMIT_EXCEEDED)
    too_large = [size for size in sizes if size.minimum > limit.value]
    if too_large:
        message = limits.exceeded(limit, f"asks for {too_large[0].minimum} {limit.unit} at once").message
        yield Complaint(message, offset=too_large[0].offset, problem=Problem.LIMIT_EXCEEDED)


def _exported(contents: Module, name: str) -> Export | None:
    return next((export for export in contents.exports if export.name == name), None)


def _is_wrong(export: Export) -> bool:
    """Whether it is certain that it is no plain function."""
    return export.kind != FUNCTION or export.type not in (None, _PLAIN)


def _type_text(kind: str, type_: FunctionType | None) -> str:
    return f"a {kind}" if type_ is None else f"a {kind} {printable(str(type_), _TYPE_MAX)}"


def _quote(name: str) -> str:
    return f"'{printable(name, _NAME_MAX)}'"
