# SPDX-License-Identifier: Apache-2.0
"""The plan of a session: one encoding, which takes nothing that is not one."""

import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from weft_runtime import plan
from weft_runtime.plan import Plan

texts = st.binary(max_size=24).map(lambda data: data.replace(b"\0", b"x"))
words = texts.filter(bool)
names = words.map(lambda data: data.replace(b"=", b"_"))
numbers = st.integers(0, plan.NUMBER_MAX)

plans = st.builds(
    Plan,
    app_id=texts,
    session_id=texts,
    argv=st.lists(texts, max_size=4).map(tuple),
    environment=st.lists(st.tuples(names, texts), max_size=4).map(tuple),
    preopens=st.lists(st.tuples(words, words, st.booleans()), max_size=4).map(tuple),
    ready=st.sampled_from(plan.READY_MODES),
    memory=numbers,
    memories=numbers,
    table_elements=numbers,
    tables=numbers,
    command=st.lists(texts, max_size=4).map(tuple),
    version=texts,
    package=texts,
    module=texts,
)  # fmt: skip

HELLO = Plan(
    app_id=b"org.example.hello", session_id=b"7", argv=(b"hello.wasm", b"-v"), environment=((b"A", b"b=c"),),
    preopens=((b"/var/lib/weft", b"/data", True), (b"/home", b"/home", False)), ready=b"host",
    memory=2**30, memories=4, table_elements=1_000_000, tables=16, command=(b"/usr/bin/weft-runtime-wasmtime",),
)  # fmt: skip


def made(**fields: Any) -> Plan:
    """HELLO with other fields."""
    return Plan(**{name: getattr(HELLO, name) for name in Plan.__slots__} | fields)


@given(plans)
@example(HELLO)
def test_what_was_encoded_is_decoded(made: Plan) -> None:
    assert Plan.decode(made.encode()) == made


@given(plans)
def test_a_plan_has_one_encoding(made: Plan) -> None:
    assert Plan.decode(made.encode()).encode() == made.encode()


@given(plans)
@example(HELLO)
def test_a_fork_reads_the_same_in_it(made: Plan) -> None:
    fields, arguments, variables, directories = plan.parts(made.encode())
    limits = fields[plan.LIMITS : plan.ARGUMENTS]
    assert [*map(int, limits)] == [made.memory, made.memories, made.table_elements, made.tables]
    assert fields[plan.READY] == made.ready
    assert fields[arguments + 1 :][: int(fields[arguments])] == [*made.argv]
    assert fields[variables + 1 : directories] == [text for pair in made.environment for text in pair]
    assert int(fields[variables]) == len(made.environment)
    assert fields[directories + 1 : -1] == [
        text
        for host, guest, writable in made.preopens
        for text in (host, guest, plan.READ_WRITE if writable else plan.READ_ONLY)
    ]
    assert int(fields[directories]) == len(made.preopens)
    assert plan.command(made.encode()) == [*made.command]


@given(st.binary(max_size=300))
@example(b"\0" * 300)
@example(HELLO.encode()[:-1])
def test_bytes_of_any_kind_are_a_plan_or_refused(data: bytes) -> None:
    try:
        made = Plan.decode(data)
    except ValueError:
        return
    assert made.encode() == data


@given(st.integers(0, len(HELLO.encode()) - 1), st.integers(0, 255))
def test_a_changed_byte_is_another_plan_or_refused(at: int, byte: int) -> None:
    data = bytearray(HELLO.encode())
    data[at] = byte
    try:
        made = Plan.decode(bytes(data))
    except ValueError:
        return
    assert made.encode() == data


@given(st.integers(0, len(HELLO.encode()) - 1))
def test_a_plan_that_is_cut_is_refused(end: int) -> None:
    with pytest.raises(ValueError, match=r"cut|early|none"):
        Plan.decode(HELLO.encode()[:end])


def test_a_plan_with_something_behind_it_is_refused() -> None:
    with pytest.raises(ValueError, match="behind it"):
        Plan.decode(HELLO.encode() + b"x\0")


def test_a_count_that_nothing_follows_makes_nothing() -> None:
    """Not a list of so many, which would take all memory."""
    data = HELLO.encode().replace(b"\x002\0hello.wasm", b"\x009223372036854775807\0hello.wasm")
    with pytest.raises(ValueError, match="early"):
        Plan.decode(data)


def test_a_plan_has_a_largest_size() -> None:
    for last in (plan.SIZE_MAX - 300, plan.SIZE_MAX):
        with pytest.raises(ValueError, match="bytes") if last == plan.SIZE_MAX else nullcontext():
            HELLO.prepared().encode(b"8", (b"x" * last,))
        with pytest.raises(ValueError, match="bytes") if last == plan.SIZE_MAX else nullcontext():
            made(argv=(b"x" * last,)).encode()
    with pytest.raises(ValueError, match="too long"):
        Plan.decode(HELLO.encode() + b"x" * plan.SIZE_MAX + b"\0")


@pytest.mark.parametrize("session_id", [b"1\x002", b"\0"])
def test_a_text_with_a_nul_is_refused(session_id: bytes) -> None:
    with pytest.raises(ValueError, match="NUL"):
        made(session_id=session_id)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\0A\0b=c\0", b"\0A=\0b=c\0"), (b"\0A\0b=c\0", b"\0\0b=c\0"),
        (b"\0/data\0", b"\0\0"), (b"\0/var/lib/weft\0", b"\0\0"),
        (b"\0host\0", b"\0hosts\0"), (b"\x001000000\0", b"\x009223372036854775808\0"),
    ],
)  # fmt: skip
def test_what_can_be_written_but_makes_no_plan_is_refused(old: bytes, new: bytes) -> None:
    data = HELLO.encode()
    assert data.count(old) == 1
    with pytest.raises(ValueError, match=r"no name|empty|nobody|63 bits"):
        Plan.decode(data.replace(old, new))


@given(plans, words, st.lists(texts, max_size=4))
@example(HELLO, b"8", [b"x"])
def test_another_session_differs_in_number_and_command_alone(
    first: Plan, session_id: bytes, command: list[bytes]
) -> None:
    found = Plan.decode(first.prepared().encode(session_id, command))
    assert (found.session_id, found.command) == (session_id, tuple(command))
    assert Plan.decode(found.prepared().encode(first.session_id, first.command)) == first


def test_a_plan_brings_no_other_module() -> None:
    """Each of its pages is one that every session copies."""
    code = "import sys; before = set(sys.modules); import weft_runtime.plan; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["weft_runtime", "weft_runtime.plan"]
