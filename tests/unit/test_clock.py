# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.appd.clock and of what a session tells of its times when the wall clock is set."""

import time

import pytest

from weft_runtime.appd import clock
from weft_runtime.appd.session import Session
from weft_runtime.protocol import State

DAY = 86400.0


class Clocks:
    """Both clocks of a device, in the hands of the test."""

    def __init__(self) -> None:
        self.boot = 17.25
        self.wall = 1e9

    def pass_time(self, seconds: float) -> None:
        self.boot += seconds
        self.wall += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(clock, "_offset", float("inf"))
    monkeypatch.setattr(clock, "now", lambda: clocks.boot)
    monkeypatch.setattr(time, "time", lambda: clocks.wall)
    return clocks


def ended_session(clocks: Clocks, jump: float) -> Session:
    """One that was ready after 2 s and ended after 10, the wall clock being set in between."""
    session = Session.launched(1, "org.example.app", 100, now=clock.now(), ready_deadline=0)
    clocks.pass_time(2)
    session.ready(now=clock.now())
    clocks.wall += jump
    clocks.pass_time(8)
    session.ended(exit_status=0, signal=None, reason=None, now=clock.now())
    return session


@pytest.mark.parametrize("jump", [100 * DAY, -100 * DAY, 3600.0, -1.0, 0.0])
def test_a_clock_that_is_set_changes_when_it_was_and_not_how_long_it_took(
    clocks: Clocks, jump: float
) -> None:
    info = ended_session(clocks, jump).info()
    assert info.ready is not None
    assert info.stopped is not None
    assert info.ready - info.launched == pytest.approx(2)
    assert info.stopped - info.launched == pytest.approx(10)
    assert info.stopped == pytest.approx(clocks.wall)


def test_the_age_of_a_session_that_runs_is_right_after_a_jump(clocks: Clocks) -> None:
    session = Session.launched(1, "org.example.app", 100, now=clock.now(), ready_deadline=0)
    clocks.wall -= 100 * DAY
    clocks.pass_time(5)
    assert clocks.wall - session.info().launched == pytest.approx(5)


def test_the_next_process_image_has_the_same_times(clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ended_session(clocks, 0)
    before, values = session.info(), session.to_json()
    assert values["launched_at"] == 1e9  # Unix seconds, which the first release reads
    clocks.pass_time(0.3)
    monkeypatch.setattr(clock, "_offset", float("inf"))
    after = Session.from_json(values)
    assert after.info() == before
    assert after.state is State.STOPPED


def test_two_clocks_that_are_not_read_at_once_are_no_jump(clocks: Clocks) -> None:
    told = clock.to_unix(10)
    clocks.wall += clock.STEP_S / 2
    assert clock.to_unix(10) == told
    clocks.wall += clock.STEP_S
    assert clock.to_unix(10) == pytest.approx(told + 1.5 * clock.STEP_S)


def test_the_real_clocks_agree() -> None:
    assert abs(clock.to_unix(clock.now()) - time.time()) < 1
    assert clock.from_unix(clock.to_unix(12.5)) == pytest.approx(12.5, abs=1e-5)
