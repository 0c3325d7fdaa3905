# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.backlog: order, bounds, what is lost, and an end that does not wait."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from weft_runtime import backlog, limits
from weft_runtime.backlog import Backlog

WAIT_SECONDS = 30


class Stuck:
    """A channel that takes nothing until it is opened, and then what it is told to."""

    def __init__(self, *, never_blocks: bool = True) -> None:
        self.never_blocks = never_blocks
        self.sent: list[bytes] = []
        self.opened = threading.Event()
        self.refuses = False
        self.threads: set[int] = set()

    def send(self, entry: bytes) -> bytes:
        self.threads.add(threading.get_ident())
        if not self.never_blocks:
            self.opened.wait()
        elif not self.opened.is_set():
            return entry
        if self.refuses:
            raise BrokenPipeError
        self.sent.append(entry)
        return b""

    def wait(self, seconds: float) -> None:
        self.opened.wait(seconds)


def lost(count: int) -> bytes:
    return f"lost {count}".encode()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(params=[True, False], ids=["never blocks", "may block"])
def channel(request: pytest.FixtureRequest) -> Stuck:
    return Stuck(never_blocks=request.param)


def numbers(*values: int) -> list[bytes]:
    return [str(value).encode() for value in values]


def test_what_is_taken_at_once_needs_no_thread() -> None:
    channel = Stuck()
    channel.opened.set()
    log = Backlog(channel, lost)
    before = threading.active_count()
    for entry in numbers(*range(100)):
        log.put(entry)
    assert channel.sent == numbers(*range(100))
    assert channel.threads == {threading.get_ident()}
    assert threading.active_count() == before


def test_what_waits_goes_out_in_order(channel: Stuck) -> None:
    log = Backlog(channel, lost)
    for entry in numbers(*range(1000)):
        log.put(entry)
    assert channel.sent == []
    channel.opened.set()
    for entry in numbers(*range(1000, 2000)):
        log.put(entry)
    assert log.flush(WAIT_SECONDS)
    assert channel.sent == numbers(*range(2000))


def test_a_flush_waits_for_so_long_and_no_longer(channel: Stuck) -> None:
    log = Backlog(channel, lost)
    log.put(b"0")
    begun = time.monotonic()
    assert not log.flush(0.2)
    assert 0.2 <= time.monotonic() - begun < WAIT_SECONDS / 2
    channel.opened.set()
    assert log.flush(WAIT_SECONDS)
    assert channel.sent == [b"0"]
    assert log.flush(0)


@pytest.mark.parametrize("bound", ["entries", "bytes"])
def test_the_queue_is_bounded_and_one_entry_says_what_was_lost(channel: Stuck, bound: str) -> None:
    log = Backlog(channel, lost)
    size = 10 if bound == "entries" else limits.LOG_BYTES.value // 100
    fits = limits.LOG_ENTRIES.value if bound == "entries" else 100
    entries = [str(number).encode().ljust(size, b".") for number in range(fits + 50)]
    for entry in entries:
        log.put(entry)
    channel.opened.set()
    assert log.flush(WAIT_SECONDS)
    assert channel.sent == [*entries[:fits], b"lost 50"]
    log.put(b"after")
    assert log.flush(WAIT_SECONDS)
    assert channel.sent[-1] == b"after"
    assert len(channel.sent) == fits + 2


def test_an_entry_that_is_larger_than_the_bound_goes_out_if_it_is_alone() -> None:
    channel = Stuck()
    channel.opened.set()
    log = Backlog(channel, lost)
    log.put(b"x" * (limits.LOG_BYTES.value + 1))
    assert len(channel.sent) == 1


def test_what_is_refused_is_lost_and_told_once_it_can_be(channel: Stuck) -> None:
    log = Backlog(channel, lost)
    channel.refuses = True
    channel.opened.set()
    for entry in numbers(*range(7)):
        log.put(entry)
        assert log.flush(WAIT_SECONDS)
    channel.refuses = False
    log.put(b"7")
    assert log.flush(WAIT_SECONDS)
    assert channel.sent == [b"lost 7", b"7"]


def test_the_other_image_goes_on_where_this_one_was_parked(channel: Stuck) -> None:
    first = Backlog(channel, lost)
    for number in range(limits.LOG_ENTRIES.value + 3):
        first.put(b"%d\xff" % number)
    if not channel.never_blocks:
        eventually(lambda: bool(channel.threads))
        with pytest.raises(TimeoutError):
            first.park()
        channel.opened.set()
        eventually(lambda: bool(channel.sent))
    values = first.park()
    sent = [*channel.sent]
    channel.opened.set()
    first.put(b"too late")
    assert not first.flush(3 * backlog.WAIT_S)
    assert channel.sent == sent
    other = Stuck()
    other.opened.set()
    second = Backlog(other, lost)
    second.restore(values)
    assert second.flush(WAIT_SECONDS)
    expected = [b"%d\xff" % number for number in range(limits.LOG_ENTRIES.value)]
    assert sent + other.sent == [*expected, b"lost 3"]


def test_one_that_was_parked_in_vain_resumes(channel: Stuck) -> None:
    log = Backlog(channel, lost)
    if channel.never_blocks:
        log.put(b"0")
    log.park()
    log.put(b"1")
    log.resume()
    channel.opened.set()
    assert log.flush(WAIT_SECONDS)
    assert channel.sent == (numbers(0, 1) if channel.never_blocks else numbers(1))


def test_nothing_is_sent_twice_or_never_however_often_it_is_parked() -> None:
    channel = Stuck()
    values: dict[str, Any] = {"entries": [], "lost": 0}
    for number in range(300):
        channel.opened.clear()
        log = Backlog(channel, lost)
        log.restore(values)
        log.put(b"%d" % number)
        threading.Timer(0.0005 * (number % 5), channel.opened.set).start()
        values = log.park()
    last = Backlog(channel, lost)
    last.restore(values)
    channel.opened.set()
    assert last.flush(WAIT_SECONDS)
    assert channel.sent == numbers(*range(300))


@pytest.mark.usefixtures("_no_threads")
def test_without_a_thread_what_waits_goes_out_with_the_next_or_at_the_end() -> None:
    channel = Stuck()
    log = Backlog(channel, lost)
    log.put(b"0")
    assert not log.flush(0.1)
    channel.opened.set()
    log.put(b"1")
    assert channel.sent == numbers(0, 1)
    channel.opened.clear()
    log.put(b"2")
    channel.opened.set()
    assert log.flush(WAIT_SECONDS)
    assert channel.sent == numbers(0, 1, 2)


@pytest.fixture
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
