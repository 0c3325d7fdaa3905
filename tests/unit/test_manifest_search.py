# SPDX-License-Identifier: Apache-2.0
"""Searches for a wapp.toml that breaks weft_runtime.manifest: by its types, its bytes or its cost."""

import datetime
import math
import signal
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.packages import manifest as valid_manifest
from weft_runtime import limits, manifest
from weft_runtime.errors import Problem, WeftError
from weft_runtime.manifest import Manifest

SOURCE = "/x/wapp.toml"
PARSE_SECONDS = 2
"""Seconds of CPU that any manifest may cost: a launch must not hang on the first file that it reads."""

Value = object
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    TEXT | st.booleans() | st.integers(-(2**70), 2**70) | st.floats()
    | st.dates() | st.times() | st.datetimes()
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OPTIONAL_KEYS: dict[str, dict[str, st.SearchStrategy[Value]]] = {
    "package": {"description": TEXT, "author": TEXT, "capabilities": st.lists(TEXT, max_size=3)},
    "runtime": {
        "ready": st.sampled_from(["host", "export", "guest", "Host", ""]),
        "args": st.lists(TEXT, max_size=3),
        "env": st.dictionaries(TEXT, TEXT, max_size=3),
    },
    "ui": {},
}
REQUIRED_KEYS: dict[str, dict[str, st.SearchStrategy[Value]]] = {
    "package": {
        "id": st.sampled_from(["org.example.app", "a.b.c", "a.b", "../x", ""]),
        "name": TEXT,
        "version": TEXT,
    },
    "runtime": {"module": TEXT},
    "ui": {"entry": TEXT},
}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Value]:
    """A manifest as values: most keys there and right, some missing, some of any type, some unknown."""
    document: dict[str, Value] = {}
    for name, required in REQUIRED_KEYS.items():
        table: dict[str, Value] = {key: draw(value) for key, value in required.items()}
        for key, value in OPTIONAL_KEYS[name].items():
            if draw(st.booleans()):
                table[key] = draw(value)
        document[name] = table
    for _ in range(draw(st.integers(0, 2))):
        where = document.get(draw(st.sampled_from(list(REQUIRED_KEYS))))
        holder = where if isinstance(where, dict) and draw(st.booleans()) else document
        key = draw(st.sampled_from([*holder, "unknown"]))
        if draw(st.booleans()):
            holder[key] = draw(VALUES)
        else:
            holder.pop(key, None)
    return document


def toml(value: Value) -> str:
    """`value` as TOML; tables inline."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(char if char.isalnum() else f"\\U{ord(char):08x}" for char in value) + '"'
        case float():
            return str(value) if math.isfinite(value) else str(value).removeprefix("-")
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case list():
            return f"[{', '.join(toml(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'{toml(key)} = {toml(item)}' for key, item in value.items())}}}"
        case _:
            return str(value)


def document_bytes(document: Mapping[str, Value]) -> bytes:
    return "".join(f"{key} = {toml(value)}\n" for key, value in document.items()).encode()


def is_valid(document: Mapping[str, Value]) -> bool:
    """What wapp.toml(5) says, in other words than the parser's."""
    package, runtime = document.get("package"), document.get("runtime")
    ui = document.get("ui", {"entry": ""})
    if not (isinstance(package, dict) and isinstance(runtime, dict) and isinstance(ui, dict)):
        return False
    strings = [
        package.get("id"),
        package.get("name"),
        package.get("version"),
        runtime.get("module"),
        ui.get("entry"),
    ]
    strings += [package.get("description", ""), package.get("author", ""), runtime.get("ready", "host")]
    capabilities, args, env = (
        package.get("capabilities", []),
        runtime.get("args", []),
        runtime.get("env", {}),
    )
    if not (isinstance(capabilities, list) and isinstance(args, list) and isinstance(env, dict)):
        return False
    return (
        all(isinstance(text, str) for text in [*strings, *capabilities, *args, *env.values()])
        and package["id"] in ("org.example.app", "a.b.c")
        and runtime.get("ready", "host") in ("host", "export", "guest")
        and not any("\0" in text for text in [*args, *env, *env.values()])
        and not any(not name or "=" in name for name in env)
    )


def parsed_or_refused(data: bytes) -> Manifest | None:
    """The manifest, or None if it is refused as it should be: by one printable line with our code."""
    try:
        return manifest.parse(data, SOURCE)
    except WeftError as caught:
        error = caught
    assert error.problem in (Problem.MANIFEST_INVALID, Problem.LIMIT_EXCEEDED)
    assert str(error).startswith(SOURCE)
    assert str(error).isprintable()
    return None


@given(documents())
def test_a_manifest_is_accepted_exactly_if_its_types_are_right(document: dict[str, Value]) -> None:
    accepted = parsed_or_refused(document_bytes(document))
    assert (accepted is not None) == is_valid(document)


@given(documents().filter(is_valid))
def test_what_an_accepted_manifest_says_arrives_unchanged(document: dict[str, Value]) -> None:
    accepted = parsed_or_refused(document_bytes(document))
    assert accepted is not None
    package, runtime, ui = document["package"], document["runtime"], document.get("ui", {})
    assert isinstance(package, dict)
    assert isinstance(runtime, dict)
    assert isinstance(ui, dict)
    assert accepted == Manifest(
        id=package["id"],
        name=package["name"],
        version=package["version"],
        description=package.get("description"),
        author=package.get("author"),
        capabilities=tuple(package.get("capabilities", ())),
        module=runtime["module"],
        ready=runtime.get("ready"),
        args=tuple(runtime.get("args", ())),
        env=tuple(runtime.get("env", {}).items()),
        ui_entry=ui.get("entry"),
    )


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    assert parsed_or_refused(data) is None


@given(st.text("ab.=[]{}\"'\\\n\r\t #,0123456789xou_-+:TZeinf\0\x1b\x7f\ufeffé", max_size=60))
def test_arbitrary_text_that_looks_like_toml_is_refused(text: str) -> None:
    assert parsed_or_refused(text.encode()) is None


VALID = valid_manifest(runtime='args = ["a"]\nenv = { A = "1" }\nready = "guest"').encode()


@given(
    st.lists(
        st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), st.binary(max_size=12)),
        min_size=1,
        max_size=3,
    )
)
def test_a_damaged_manifest_is_read_right_or_refused(cuts: list[tuple[int, int, bytes]]) -> None:
    damaged = VALID
    for start, length, inserted in cuts:
        damaged = damaged[:start] + inserted + damaged[start + length :]
    accepted = parsed_or_refused(damaged)
    if accepted is not None:
        assert accepted.module == tomllib.loads(damaged.decode())["runtime"]["module"]


def filled(unit: str, start: str = "", end: str = "") -> str:
    """`unit` as often as fits into the largest manifest, between `start` and `end`."""
    return start + unit * ((limits.MANIFEST.value - len(start) - len(end)) // len(unit)) + end


def numbered(line: str, start: str = "") -> str:
    """`start`, and then lines that differ in their number, as many as fit into the largest manifest."""
    count = (limits.MANIFEST.value - len(start)) // len(line.format(10**6))
    return start + "".join(line.format(10**6 + number) for number in range(count))


# In tomllib, the time for a key grows with the square of its parts (CPython's issues 149231 and 152930).
# A search for such keys must not take as long over strings.
EXPENSIVE = {
    "a dotted key": lambda: filled("a.", end="a=1"),
    "a dotted key with blanks": lambda: filled("a . ", end="a=1"),
    "a dotted key with quotes": lambda: filled('"\\".".', end="a=1"),
    "a dotted key with literal quotes": lambda: filled("'.'.", end="a=1"),
    "a dotted key in an inline table": lambda: filled("a.", start="x={", end="a=1}"),
    "a dotted key in an inline table in arrays": lambda: filled("a.", start="x=[#'\n[{", end="a=1}]]"),
    "a dotted key after strings": lambda: filled("a.", start='x=""""\\""""\ny=\'\'\'\'\'\'\'\n', end="a=1"),
    "a dotted header": lambda: filled("a.", start="[", end="a]"),
    "a dotted header of an array": lambda: filled("a.", start="[[", end="a]]"),
    "escaped quotes in a string": lambda: filled('\\"', start='x = "', end='"'),
    "escaped quotes outside of a string": lambda: filled('\\"', start="x"),
    "an open string": lambda: filled("a.", start='x = "'),
    "open strings": lambda: filled('"\\'),
    "quotes": lambda: filled("''\"\""),
    "keys below a deep header": lambda: numbered("k{}=1\n", start=f"[{'a.' * 5000}a]\n"),
    "many dotted keys": lambda: numbered(f"b{{}}{'.a' * 999}=1\n"),
}


@contextmanager
def cpu_seconds(seconds: float) -> Iterator[None]:
    """Raise in the body once it has used so much CPU: a busy machine makes no difference."""

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGVTALRM, too_long)
    # Again and again: an exception in a callback of the garbage collector is lost.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("kind", EXPENSIVE)
def test_no_manifest_takes_long_to_refuse(kind: str) -> None:
    data = EXPENSIVE[kind]().encode()
    assert limits.MANIFEST.value * 0.98 < len(data) <= limits.MANIFEST.value
    with cpu_seconds(PARSE_SECONDS):
        assert parsed_or_refused(data) is None
