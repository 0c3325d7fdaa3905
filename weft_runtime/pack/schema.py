# SPDX-License-Identifier: Apache-2.0
"""The rules for each key of a manifest, of which a launch enforces only what it needs."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from weft_runtime import capabilities, limits, manifest
from weft_runtime.decode import Table
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import quote
from weft_runtime.ids import AppId
from weft_runtime.manifest import FILE_NAME, Manifest, ReadyMode
from weft_runtime.pack.findings import Finding, Level
from weft_runtime.pack.lines import Lines

NAME_MAX = 64
DESCRIPTION_MAX = 256
"""Characters, as the format's description has it."""

_NUMBER = r"(?:0|[1-9][0-9]*)"
_BEFORE_RELEASE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = r"[0-9A-Za-z-]+"
SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    rf"(?:-{_BEFORE_RELEASE}(?:\.{_BEFORE_RELEASE})*)?"
    rf"(?:\+{_BUILD}(?:\.{_BUILD})*)?"
)
"""A version by Semantic Versioning 2.0.0."""

_LINE_OF_PARSER = re.compile(r"\(at line ([0-9]+), column [0-9]+\)")
_BYTE_OF_DECODER = re.compile(r"at byte ([0-9]+)")

Complaint = Callable[[str], str | None]
"""What is wrong with a text, completing "KEY ...", or None."""

Found = tuple[tuple[str | int, ...], WeftError]
"""What is wrong below a table, and with which key or element."""

Check = Callable[[Table, Mapping[str, object], str], Iterator[Found]]
"""Looks at one key of a table, which it gets twice: typed and raw."""


class Contents(NamedTuple):
    """What there is to know of a manifest, however much is wrong with it."""

    manifest: Manifest | None
    """None where a launch would refuse it: then there are findings."""
    findings: tuple[Finding, ...]
    module: str | None
    ui_entry: str | None
    ready: ReadyMode | None
    lines: Lines
    notes: tuple[Finding, ...] = ()
    """What is right, but has no effect here."""


def check(data: bytes) -> Contents:
    """Look at the bytes of a `wapp.toml`."""
    try:
        values = manifest.load(data, FILE_NAME)
    except WeftError as error:
        return Contents(None, (_unreadable(data, error),), None, None, None, Lines(""))
    lines = Lines(data.decode())
    findings = tuple(_findings(values, lines))
    parsed = None
    try:
        parsed = manifest.parse(data, FILE_NAME)
    except WeftError as error:
        # Mostly one of those above. Should it be none of them, a launch still is the judge.
        findings = findings or (Finding(FILE_NAME, _text_of(error)),)
    ready = _text(values, "runtime", "ready")
    return Contents(
        parsed,
        findings,
        _text(values, "runtime", "module"),
        _text(values, "ui", "entry"),
        ReadyMode(ready) if ready in list(ReadyMode) else None,
        lines,
        tuple(_notes(values, lines)),
    )


def _text(values: Mapping[str, object], table: str, key: str) -> str | None:
    inner = values.get(table)
    value = inner.get(key) if isinstance(inner, dict) else None
    return value if isinstance(value, str) else None


def _findings(values: Mapping[str, object], lines: Lines) -> Iterator[Finding]:
    top = Table(values, FILE_NAME, Problem.MANIFEST_INVALID)
    for name, checks in _CHECKS.items():
        if name == "ui" and name not in values:
            continue  # an app without a user interface
        try:
            table = top.table(name)
        except WeftError as error:
            yield Finding(FILE_NAME, _text_of(error), lines.of(name))
            continue
        raw = values[name]
        assert isinstance(raw, dict)
        for key, look in checks.items():
            for path, wrong in look(table, raw, key):
                yield Finding(FILE_NAME, _text_of(wrong), lines.of(name, *path))


def _notes(values: Mapping[str, object], lines: Lines) -> Iterator[Finding]:
    package = values.get("package")
    wanted = package.get("capabilities") if isinstance(package, dict) else None
    noted = set[str]()
    for index, name in enumerate(wanted if isinstance(wanted, list) else ()):
        if not isinstance(name, str) or name in noted or (lack := capabilities.shortfall(name)) is None:
            continue
        noted.add(name)
        message = f"package.capabilities[{index}] {quote(name)} {lack}"
        yield Finding(FILE_NAME, message, lines.of("package", "capabilities", index), level=Level.NOTE)


def _text_of(error: WeftError) -> str:
    """Without the file, which a finding has already."""
    return error.message.removeprefix(FILE_NAME).removeprefix(":").lstrip()


def _unreadable(data: bytes, error: WeftError) -> Finding:
    line = None
    if match := _LINE_OF_PARSER.search(error.message):
        line = int(match[1])
    elif match := _BYTE_OF_DECODER.search(error.message):
        line = data.count(b"\n", 0, int(match[1])) + 1
    return Finding(FILE_NAME, _text_of(error), line)


def _string(complaint: Complaint, *, is_required: bool = True) -> Check:
    def look(table: Table, raw: Mapping[str, object], key: str) -> Iterator[Found]:
        try:
            text = table.string(key) if is_required else table.optional_string(key)
        except WeftError as error:
            yield (key,), error
        else:
            if text is not None and (wrong := complaint(text)) is not None:
                yield (key,), table.error(key, wrong)

    return look


def _strings(complaint: Complaint) -> Check:
    def look(table: Table, raw: Mapping[str, object], key: str) -> Iterator[Found]:
        elements = raw.get(key)
        if not isinstance(elements, list):
            try:
                table.strings(key)
            except WeftError as error:
                yield (key,), error
            return
        for index, element in enumerate(elements):
            if not isinstance(element, str):
                yield (key, index), table.error(f"{key}[{index}]", "is not a string")
            elif (wrong := complaint(element)) is not None:
                yield (key, index), table.error(f"{key}[{index}]", wrong)

    return look


def _variables(table: Table, raw: Mapping[str, object], key: str) -> Iterator[Found]:
    try:
        env = table.optional_table(key)
    except WeftError as error:
        yield (key,), error
        return
    variables = raw.get(key, {})
    assert isinstance(variables, dict)
    for name in variables:
        if not name or "=" in name or "\0" in name:
            yield (
                (key, name),
                env.error(name, "is no name of a variable: it is empty or holds '=' or NUL"),
            )
        for _, wrong in _string(_c_string)(env, variables, name):
            yield (key, name), wrong


def _any(_text: str) -> None:
    return None


def _app_id(text: str) -> str | None:
    try:
        AppId.parse(text)
    except ValueError as error:
        return f"is wrong: {error}"
    return None


def _name(text: str) -> str | None:
    return "is empty" if not text else _length(text, NAME_MAX)


def _description(text: str) -> str | None:
    return _length(text, DESCRIPTION_MAX)


def _length(text: str, limit: int) -> str | None:
    return f"has {len(text)} characters: expected {limit} at most" if len(text) > limit else None


def _version(text: str) -> str | None:
    if SEMVER.fullmatch(text):
        return _length(text, limits.NAME.value)
    return f"is {quote(text)}: expected a version such as 1.2.3 or 1.2.3-beta.1 (Semantic Versioning 2.0.0)"


def _capability(text: str) -> str | None:
    return None if capabilities.is_known(text) else f"is {quote(text)}: no such capability is known"


def _ready(text: str) -> str | None:
    names = ", ".join(f"'{mode.value}'" for mode in ReadyMode)
    return None if text in list(ReadyMode) else f"is {quote(text)}: expected one of {names}"


def _c_string(text: str) -> str | None:
    return "holds a NUL character, which no argument or variable can" if "\0" in text else None


_CHECKS: Mapping[str, Mapping[str, Check]] = {
    "package": {
        "id": _string(_app_id),
        "name": _string(_name),
        "version": _string(_version),
        "description": _string(_description, is_required=False),
        "author": _string(_any, is_required=False),
        "capabilities": _strings(_capability),
    },
    "runtime": {
        # Whether the path leads to a file in the package is seen where the file is opened.
        "module": _string(_any),
        "ready": _string(_ready, is_required=False),
        "args": _strings(_c_string),
        "env": _variables,
    },
    "ui": {"entry": _string(_any)},
}
