# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.escape: nothing from outside can break a line or drive a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft_runtime.escape import QUOTED_MAX, REASON_MAX, printable, quote

ANY_TEXT = st.text(st.characters())  # lone surrogates included
PRINTABLE_TEXT = st.text(st.characters().filter(str.isprintable))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain text", "plain text"),
        ("Käse, 漢字, 🧀", "Käse, 漢字, 🧀"),
        ("a\nb", "a\\x0ab"),
        ("a\r\tb\0", "a\\x0d\\x09b\\x00"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x7f\x80\x9b", "\\x7f\\x80\\x9b"),
        ("no\xa0break", "no\\xa0break"),
        ("right\u202eto left", "right\\u{202e}to left"),
        ("line\u2028separator", "line\\u{2028}separator"),
        ("byte \udcff of a name", "byte \\xff of a name"),
        ("bytes \udc80\udcfe", "bytes \\x80\\xfe"),
        ("no bytes \udc7f\udd00", "no bytes \\u{dc7f}\\u{dd00}"),
        ("lone \ud800", "lone \\u{d800}"),
        ("\U0010ffff", "\\u{10ffff}"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_printable_shows_what_does_not_print(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_printable_cuts_at_the_limit_and_says_so() -> None:
    assert printable("abcdef", 6) == "abcdef"
    assert printable("abcdefg", 6) == "abcdef..."


def test_printable_cuts_before_it_escapes() -> None:
    assert printable("\n\n\n", 2) == "\\x0a\\x0a..."


def test_printable_has_a_limit_by_default() -> None:
    assert printable("x" * (REASON_MAX + 1)) == "x" * REASON_MAX + "..."


@given(ANY_TEXT)
def test_printable_always_prints_on_one_line(text: str) -> None:
    assert printable(text).isprintable()


@given(PRINTABLE_TEXT, st.integers(min_value=0, max_value=20))
def test_printable_changes_no_printable_text_twice(text: str, limit: int) -> None:
    once = printable(text, limit)
    assert printable(once, limit) == once


@given(PRINTABLE_TEXT)
def test_printable_leaves_short_printable_text_alone(text: str) -> None:
    assert printable(text) == text


@given(ANY_TEXT, st.integers(min_value=0, max_value=20))
def test_printable_is_bounded(text: str, limit: int) -> None:
    assert len(printable(text, limit)) <= limit * len(r"\u{10ffff}") + len("...")


@given(ANY_TEXT)
def test_printable_can_be_encoded(text: str) -> None:
    assert printable(text).encode().decode() == printable(text)


@pytest.mark.parametrize(("text", "shown"), [("", "''"), ("a b", "'a b'"), ("a\nb", "'a\\x0ab'")])
def test_quote_puts_the_value_in_single_quotes(text: str, shown: str) -> None:
    assert quote(text) == shown


def test_quote_is_short() -> None:
    assert quote("x" * 1000) == f"'{'x' * QUOTED_MAX}...'"
