# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.ready: which line is READY, and that no cut of the stream changes it."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from weft_runtime.ready import LINE_MAX, READY_LINE, ReadyScanner


def is_white_space(char: str) -> bool:
    """What Unicode says; str.isspace() has four separators of ASCII more."""
    return char.isspace() and char not in "\x1c\x1d\x1e\x1f"


def found_at(stream: bytes) -> int | None:
    """Where in `stream` the READY line ends, found the simple way; a last line may lack its line break."""
    end = 0
    for line in stream.split(b"\n"):
        end += len(line) + 1
        words = "".join(" " if is_white_space(char) else char for char in line.decode(errors="replace"))
        if len(line) <= LINE_MAX and words.strip(" ") == "READY":
            return end
    return None


def scanned(pieces: list[bytes]) -> int | None:
    """What the scanner says, as the end of the piece that completed the line; its end is one byte more."""
    scanner, position, found = ReadyScanner(), 0, []
    for piece in pieces:
        position += len(piece)
        if scanner.feed(piece):
            found.append(position)
            assert scanner.found
    if scanner.end():
        found.append(position + 1)
    assert len(found) <= 1
    assert scanner.found == bool(found)
    return found[0] if found else None


def test_the_line_that_we_write_is_found() -> None:
    assert READY_LINE == b"READY\n"
    assert ReadyScanner().feed(READY_LINE) is True


@pytest.mark.parametrize(
    "line",
    [
        b"READY", b"  READY\t", b"READY\r", b"\x0b\x0cREADY \r", "\xa0READY\x85".encode(),
        "\u2003READY\u3000\u2028\u1680".encode(), b" " * (LINE_MAX - 5) + b"READY",
    ],
)  # fmt: skip
def test_white_space_around_it_does_not_matter(line: bytes) -> None:
    assert scanned([line + b"\n"]) == len(line) + 1
    assert scanned([b"log\n", line, b"\nmore\n"]) is not None


@pytest.mark.parametrize(
    "line",
    [
        b"", b" ", b"ready", b"Ready", b"READY.", b"READY now", b"NOT READY", b"READYREADY", b"READ",
        b"READY\0", b"READ Y", b"\xffREADY", b"READY\x1c", b"\x1fREADY", "\u200bREADY".encode(),
        b"\x85READY",
        b"\xef\xbb\xbfREADY", "\uff32EADY".encode(), b" " * (LINE_MAX - 4) + b"READY",
        b"READY" + b" " * LINE_MAX, b"\x1b[0mREADY",
    ],
)  # fmt: skip
def test_other_lines_are_not_it(line: bytes) -> None:
    assert scanned([line + b"\n"]) is None
    assert scanned([line]) is None


def test_no_other_character_around_it_is_white_space() -> None:
    characters = [chr(code) for code in range(0x3100) if chr(code) != "\n"]
    found = {char for char in characters if scanned([f"{char}READY{char}\n".encode()])}
    assert found == {char for char in characters if is_white_space(char)}


def test_it_is_told_once() -> None:
    scanner = ReadyScanner()
    assert scanner.feed(b"READY\nREADY\n") is True
    assert scanner.feed(b"READY\n") is False
    assert scanner.end() is False
    assert scanner.found


def test_a_last_line_without_line_break_counts() -> None:
    scanner = ReadyScanner()
    assert scanner.feed(b"log\nREADY") is False
    assert not scanner.found
    assert scanner.end() is True
    assert scanner.found


def test_lines_before_it_are_passed_over() -> None:
    assert scanned([b"INFO starting\n\nREADY soon\n", b"REA", b"DY\n"]) == 32


def test_a_line_that_came_in_pieces_is_no_part_of_the_next() -> None:
    assert scanned([b"log", b"\nREADY\n"]) == 10
    assert scanned([b"REA", b"\nDY\n"]) is None
    assert scanned([b"log", b"\n", b"READY\n"]) == 10


def test_a_line_that_is_too_long_hides_nothing_after_it() -> None:
    long = b"x" * (3 * LINE_MAX)
    assert scanned([long, long, b"\nREADY\n"]) == 2 * len(long) + 7
    assert scanned([long, b"\n", b"READY\n"]) == len(long) + 7


def test_a_line_that_is_too_long_is_not_it_although_it_ends_like_it() -> None:
    assert scanned([b"x" * (LINE_MAX + 1), b"READY\n"]) is None
    assert scanned([b" " * LINE_MAX, b" ", b"READY", b"\n"]) is None


def test_a_stream_without_line_breaks_costs_no_memory() -> None:
    scanner = ReadyScanner()
    for _ in range(10):
        scanner.feed(b"x" * (LINE_MAX // 3))
        assert len(scanner._line) <= LINE_MAX


PARTS = st.sampled_from(
    [
        b"READY", b"\n", b"READY\n", b"REA", b"DY", b" ", b"\r", b"\t", b"\xa0", b"\x85", b"\x1c", b"\xff",
        b"x", "\xa0".encode(), "\x85".encode(), "\u2028".encode(), "\u3000".encode(), b"\xe3\x80", b"\x80",
        b"\0",
        b" " * (LINE_MAX - 5), b" " * (LINE_MAX - 4), b" " * LINE_MAX, b"y" * (LINE_MAX + 1),
    ]
)  # fmt: skip


@given(st.lists(PARTS | st.binary(max_size=3), max_size=8), st.lists(st.integers(0, 10**6), max_size=8))
@example([b" " * (LINE_MAX - 5), b"READY", b"\n"], [LINE_MAX - 1])
@example([b" " * (LINE_MAX - 4), b"READY", b"\n"], [LINE_MAX])
def test_the_answer_does_not_depend_on_the_cuts(parts: list[bytes], places: list[int]) -> None:
    stream = b"".join(parts)
    cuts = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    pieces = [stream[start:end] for start, end in pairwise(cuts)]
    assert b"".join(pieces) == stream
    end = found_at(stream)
    # The scanner answers at the end of the piece that has the line's last byte.
    expected = None if end is None else min((cut for cut in cuts if cut >= end), default=len(stream) + 1)
    assert scanned(pieces) == expected


@given(st.lists(PARTS.filter(lambda part: len(part) < 100), max_size=6))
def test_byte_by_byte_is_as_good_as_whole(parts: list[bytes]) -> None:
    stream = b"".join(parts)
    assert scanned([stream[place : place + 1] for place in range(len(stream))]) == found_at(stream)


def test_a_line_that_is_too_long_hides_none_behind_it_in_the_same_piece() -> None:
    too_long = b"log\n" + b" " * LINE_MAX + b"READY\n"
    assert scanned([too_long]) is None
    assert scanned([too_long + b"READY\nmore\n"]) == len(too_long) + len(b"READY\nmore\n")
