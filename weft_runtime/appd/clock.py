# SPDX-License-Identifier: Apache-2.0
"""Times of sessions: measured by a clock that nobody sets, told as the wall clock shows them now.

A device without a battery for its clock starts apps before the network tells it what time it is. So times are kept as
seconds of the boot clock (clock_gettime(2), CLOCK_BOOTTIME). That clock goes on while the device is suspended, as the
people's does, and it is the same for the process image after a reload.
"""

import time

STEP_S = 0.01
"""Seconds that the wall clock must have been moved by to count as set: two clocks cannot be read at once, and times
that have not changed should be told as before."""

_READINGS = 3
"""The first is as a rule good enough; a busy device may take this process off its CPU between two clocks."""

_offset = float("inf")


def now() -> float:
    """Seconds of the boot clock. Two of these always differ by the time that has passed."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def to_unix(at: float) -> float:
    """What `now()` was at a moment, as the Unix time that the wall clock of today gives to that moment."""
    return round(at + _wall_offset(), 6)


def from_unix(unix: float) -> float:
    """The other way."""
    return unix - _wall_offset()


def _wall_offset() -> float:
    """How many seconds the wall clock is ahead of the boot clock."""
    global _offset
    narrowest = float("inf")
    measured = _offset
    for _ in range(_READINGS):
        before, wall, after = now(), time.time(), now()
        if after - before < narrowest:
            narrowest, measured = after - before, wall - (before + after) / 2
        if narrowest < STEP_S / 10:
            break
    if not abs(measured - _offset) < max(STEP_S, narrowest):
        _offset = measured
    return _offset
