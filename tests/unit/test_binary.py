# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.binary: what a file is by its first bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft_runtime.binary import HEADER_SIZE, MAGIC, Kind, kind_of

CORE_MODULE = "a WebAssembly module"
COMPONENT = "a WebAssembly component"
PRECOMPILED = "a precompiled module (an ELF file)"
TEXT = "text"
EMPTY = "empty"
UNKNOWN_VERSION = "WebAssembly of an unknown version"
UNKNOWN = "something other than a WebAssembly module"


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (b"\0asm\1\0\0\0", CORE_MODULE),
        (b"\0asm\x0d\0\1\0", COMPONENT),
        (b"", EMPTY),
        (b"\x7fELF\2\1\1\0", PRECOMPILED),
        (b"\x7fELF", PRECOMPILED),
        (b"\0asm", UNKNOWN_VERSION),
        (b"\0asm\1\0\0", UNKNOWN_VERSION),
        (b"\0asm\2\0\0\0", UNKNOWN_VERSION),
        (b"\0asm\x0d\0\0\0", UNKNOWN_VERSION),
        (b"\0asm\x0a\0\1\0", UNKNOWN_VERSION),
        (b"\0asm\1\0\1\0", UNKNOWN_VERSION),
        (b"(module)", TEXT),
        (b";; a\r\n\t(", TEXT),
        (b"(", TEXT),
        (b"#!/bin/s", TEXT),
        (b"\0", UNKNOWN),
        (b"\0as", UNKNOWN),
        (b"asm\0\1\0\0\0", UNKNOWN),
        (b"\0ASM\1\0\0\0", UNKNOWN),
        (b"\x7fEL", UNKNOWN),
        (b"PK\3\4\0\0\0\0", UNKNOWN),
        (b"\x1f\x8b\x08\0\0\0\0\0", UNKNOWN),
        (b"(modul\x1b", UNKNOWN),
        ("é(modul".encode(), UNKNOWN),
    ],
)
def test_a_file_is_told_by_its_first_bytes(header: bytes, kind: str) -> None:
    assert len(header) <= HEADER_SIZE == 8
    assert kind_of(header) == kind


@given(st.binary(max_size=HEADER_SIZE) | st.binary(max_size=HEADER_SIZE - len(MAGIC)).map(MAGIC.__add__))
def test_nothing_else_is_run(header: bytes) -> None:
    assert (kind_of(header) is Kind.CORE_MODULE) == (header == b"\0asm\1\0\0\0")
    assert (kind_of(header) is Kind.COMPONENT) == (header == b"\0asm\x0d\0\1\0")


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=8))
def test_printable_ascii_is_text(text: str) -> None:
    assert kind_of(text.encode()) is Kind.TEXT
