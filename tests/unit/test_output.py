# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.appd.output: lines, however they arrive, and the count of those that are not logged."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft_runtime.appd.output import BYTES_A_TURN, LINE_MAX, LINES_A_TURN, LineSplitter, OutputLog

ENDLESS = 10**9


def simply_split(stream: bytes) -> list[bytes]:
    """The same, made the simple way."""
    *whole, last = stream.split(b"\n")
    lines = [line.removesuffix(b"\r") for line in [*whole, *([last] if last else [])]]
    return [line[start : start + LINE_MAX] for line in lines for start in range(0, len(line) or 1, LINE_MAX)]


def fed(pieces: list[bytes]) -> list[bytes]:
    splitter = LineSplitter()
    found = []
    for piece in pieces:
        splitter.feed(piece)
        while splitter.has_line:
            found += splitter.lines(ENDLESS)
    splitter.end()
    while splitter.has_line:
        found += splitter.lines(ENDLESS)
    assert splitter.rest == b""
    return found


def skipped(pieces: list[bytes]) -> int:
    splitter = LineSplitter()
    count = 0
    for piece in pieces:
        splitter.feed(piece)
        count += splitter.skip()
        assert len(splitter.rest) <= LINE_MAX + 1
    splitter.end()
    return count + splitter.skip()


# A unit of lines that are near the bound on either side, and of short ones.
near_bound = st.builds(
    lambda count, offset: b"a" * max(0, count * LINE_MAX + offset), st.integers(0, 3), st.integers(-2, 2)
)
streams = st.lists(
    near_bound | st.sampled_from([b"\n", b"\r\n", b"\r", b"x", b"xy\n" * 50]), max_size=12
).map(b"".join)


@given(streams, st.lists(st.integers(0, 200_000), max_size=6))
def test_no_cut_of_the_stream_changes_the_lines_or_their_number(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    lines = simply_split(stream)
    assert fed(pieces) == lines
    assert skipped(pieces) == len(lines)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("size", [LINE_MAX - 1, LINE_MAX, LINE_MAX + 1, 2 * LINE_MAX, 2 * LINE_MAX + 1])
def test_a_line_at_the_bound_has_no_empty_line_behind_it(size: int, end: bytes) -> None:
    expected = [b"a" * min(LINE_MAX, size - start) for start in range(0, size, LINE_MAX)]
    assert fed([b"a" * size + end]) == expected
    assert fed([b"a" * size, end]) == expected
    assert skipped([b"a" * size, end]) == len(expected)


def test_a_full_line_without_its_end_may_still_end_there() -> None:
    splitter = LineSplitter()
    splitter.feed(b"a" * LINE_MAX)
    assert not splitter.has_line
    splitter.feed(b"\r")
    assert splitter.lines(ENDLESS) == []
    splitter.feed(b"b")
    assert splitter.lines(ENDLESS) == [b"a" * LINE_MAX]
    assert splitter.rest == b"\rb"


def log(burst: int, interval: float = 60) -> tuple[OutputLog, list[str], list[int]]:
    written: list[str] = []
    dropped: list[int] = []
    return OutputLog(burst, interval, lambda _, line: written.append(line), dropped.append), written, dropped


def test_a_turn_logs_few_lines_and_none_is_lost() -> None:
    output, written, dropped = log(burst=1000)
    splitter = LineSplitter()
    splitter.feed(b"".join(b"%d\n" % number for number in range(500)))
    turns = 1
    while output.take("stdout", splitter, 0):
        assert len(written) <= turns * LINES_A_TURN
        turns += 1
    assert turns == 500 / LINES_A_TURN
    assert written == [str(number) for number in range(500)]
    assert dropped == []


def test_a_turn_logs_few_bytes() -> None:
    output, written, _ = log(burst=1000)
    splitter = LineSplitter()
    splitter.feed(b"\x01" * (4 * LINE_MAX))
    assert output.take("stdout", splitter, 0)
    assert len(written) == BYTES_A_TURN // LINE_MAX


def test_what_is_over_the_limit_is_counted_exactly_and_again_in_each_interval() -> None:
    output, written, dropped = log(burst=10, interval=5)
    splitter = LineSplitter()
    splitter.feed(b"x\n" * 30_000 + b"unfin")
    assert not output.take("stdout", splitter, 0)
    assert (len(written), output.is_full, output.is_dropping) == (10, True, True)
    splitter.feed(b"ished\n" + b"y" * (3 * LINE_MAX) + b"\n\n")
    assert not output.take("stdout", splitter, 4.9)
    assert dropped == []
    splitter.feed(b"heard\n")
    assert not output.take("stdout", splitter, 5)
    assert dropped == [30_000 - 10 + 1 + 3 + 1]
    assert written[10:] == ["heard"]
    output.summarize()
    assert len(dropped) == 1


@pytest.mark.parametrize(
    "data",
    [b"\n" * 65536, b"x" * 65536, b"y\n" * 32768, b"\r\n" * 32768, (b"z" * LINE_MAX + b"\n") * 4],
    ids=["line feeds", "no line feed", "short lines", "with returns", "long lines"],
)
def test_a_flood_is_counted_without_making_its_lines(data: bytes) -> None:
    """In CPU time: reading and counting 64 KiB is far below the cost of making its lines."""
    splitter = LineSplitter()
    best = float("inf")
    for _ in range(20):
        splitter.rest = data
        begun = time.thread_time()
        splitter.skip()
        best = min(best, time.thread_time() - begun)
    assert best < 0.001


def test_the_next_process_image_goes_on_with_the_same_limit() -> None:
    before, _, _ = log(burst=10)
    splitter = LineSplitter(b"x\n" * 15)
    assert not before.take("stdout", splitter, 100)
    after, written, dropped = log(burst=10)
    after.restore(before.to_json())
    assert after.is_full
    after.take("stdout", LineSplitter(b"y\n"), 159.9)
    after.take("stdout", LineSplitter(b"heard\n"), 160)
    assert (written, dropped) == (["heard"], [6])
