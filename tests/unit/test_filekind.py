# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.wasm.filekind: what a file is by its beginning. tests/command/foreign.py has a file of each kind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft_runtime.binary import BEGINNING, CORE_MODULE, MAGIC
from weft_runtime.wasm.filekind import complaint

ASSEMBLE = " [assemble WAT with wat2wasm(1) or wasm-tools(1) before packaging]"
PROCESSOR = " [it is for a processor: build it for the target wasm32-wasip1]"
TEXT = "is text, not a WebAssembly module"
UNKNOWN_VERSION = "is WebAssembly of an unknown version"
UNKNOWN = "is something other than a WebAssembly module"


@pytest.mark.parametrize(
    ("beginning", "said"),
    [
        (b"", "is empty"),
        (b"\0asm", UNKNOWN_VERSION),
        (b"\0asm\1\0\0", UNKNOWN_VERSION),
        (b"\0asm\2\0\0\0", UNKNOWN_VERSION),
        (b"\0asm\x0d\0\0\0", UNKNOWN_VERSION),
        (b"\0asm\x0a\0\1\0", UNKNOWN_VERSION),
        (b"\0asm\1\0\1\0", UNKNOWN_VERSION),
        (b"(module)", TEXT + ASSEMBLE),
        (b";; a\r\n\t(", TEXT + ASSEMBLE),
        (b"\xef\xbb\xbf(module)", TEXT + ASSEMBLE),
        (b"(", TEXT + ASSEMBLE),
        ("é(modul".encode(), TEXT),
        (b"{}", TEXT),
        (b"x" * (BEGINNING - 1) + b"\xc3", TEXT),
        (b"#!/bin/s", "is a script (#!/bin/s), not a WebAssembly module"),
        (b"#!" + b"x" * 100, f"is a script (#!{'x' * 60}...), not a WebAssembly module"),
        (b"\0", UNKNOWN),
        (b"\0as", UNKNOWN),
        (b"asm\0\1\0\0\0", UNKNOWN),
        (b"\0ASM\1\0\0\0", UNKNOWN),
        (b"\x7fEL", UNKNOWN),
        (b"(modul\x1b", UNKNOWN),
        (b"\xef\xbb\xbf", UNKNOWN),
        (b"x\xc3", TEXT),
        (b"\xc3x", UNKNOWN),
        (b"\xca\xfe\xba\xbe", "is a program or library of macOS (Mach-O), not a WebAssembly module" + PROCESSOR),
    ],
)  # fmt: skip
def test_a_file_is_told_by_its_beginning(beginning: bytes, said: str) -> None:
    assert str(complaint(beginning)) == said


@given(st.binary(max_size=16) | st.binary(max_size=4).map(MAGIC.__add__))
def test_nothing_else_is_run(beginning: bytes) -> None:
    assert (complaint(beginning) is None) == beginning.startswith(CORE_MODULE)


@given(
    st.binary(max_size=BEGINNING)
    | st.text().map(str.encode)
    | st.text().map(lambda text: b"#!" + text.encode())
)
def test_what_is_said_is_one_safe_line(beginning: bytes) -> None:
    assert str(complaint(beginning)).isprintable()


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "Zs"]), min_size=1, max_size=8))
def test_printable_text_is_text(text: str) -> None:
    assert str(complaint(b"." + text.encode())) == TEXT
