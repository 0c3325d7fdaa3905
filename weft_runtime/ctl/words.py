# SPDX-License-Identifier: Apache-2.0
"""Sessions in words: states, times, durations and ends, as people read them."""

import signal
from datetime import UTC, datetime
from typing import Protocol

from weft_runtime.appd.cgroups import in_units
from weft_runtime.ctl.screen import Cell, Colour
from weft_runtime.protocol import SessionInfo, State

NOTHING = "-"

_LONGEST_S = 1e11
"""Seconds of a duration that can be: three thousand years."""

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))

_STATE_COLOURS = {
    State.STARTING: Colour.YELLOW, State.RUNNING: Colour.GREEN, State.STOPPING: Colour.YELLOW,
    # Of services alone.
    "restarting": Colour.YELLOW, "failed": Colour.RED,
    # A session that is still to be.
    "waiting": Colour.YELLOW,
}  # fmt: skip


class Ending(Protocol):
    """What has ended, or may: a session, or anything with the same fields."""

    @property
    def exit_status(self) -> int | None: ...
    @property
    def signal(self) -> str | None: ...
    @property
    def reason(self) -> str | None: ...


class Stateful(Ending, Protocol):
    @property
    def state(self) -> str: ...


def duration(seconds: float, *, whole: bool = False) -> str:
    """At most two units, such as "3 h 5 min"; below ten seconds to the millisecond, unless `whole`."""
    if not abs(seconds) < _LONGEST_S:
        return NOTHING
    if seconds < 10 and not whole:
        return f"{max(0.0, seconds):.3f} s"
    left = max(0, round(seconds))
    parts: list[tuple[int, str]] = []
    for name, size in _UNITS:
        count, left = divmod(left, size)
        if count or parts or name == "s":
            parts.append((count, name))
    return " ".join(f"{count} {name}" for index, (count, name) in enumerate(parts[:2]) if count or not index)


def local_time(unix: float, form: str = "%a %Y-%m-%d %H:%M:%S %Z") -> str:
    """A time in the zone of whoever reads it."""
    try:
        return datetime.fromtimestamp(unix, UTC).astimezone().strftime(form)
    except (ValueError, OverflowError, OSError):
        return NOTHING


def short_time(unix: float) -> str:
    return local_time(unix, "%Y-%m-%d %H:%M:%S")


def clock_or_date(unix: float | None, now: float) -> str:
    """The time of a moment of today, the day of any other: eight or ten characters."""
    if unix is None:
        return NOTHING
    is_today = local_time(unix, "%Y-%m-%d") == local_time(now, "%Y-%m-%d")
    return local_time(unix, "%H:%M:%S" if is_today else "%Y-%m-%d")


def size(count: int | None) -> str:
    """Bytes as systemd shows them: 128.0M."""
    return NOTHING if count is None else in_units(count)


def seconds(count: float | None) -> str:
    return NOTHING if count is None else duration(count)


def state(session: Stateful) -> Cell:
    if session.state is State.STOPPED and has_failed(session):
        return Cell(session.state, Colour.RED)
    return Cell(session.state, _STATE_COLOURS.get(session.state, Colour.PLAIN))


def ago(unix: float, now: float) -> str:
    passed = duration(now - unix, whole=True)
    return passed if passed == NOTHING else f"{passed} ago"


def result(session: Ending) -> str:
    """How it ended, as short as can be: a status or the name of a signal."""
    if session.signal is not None:
        return session.signal
    return NOTHING if session.exit_status is None else str(session.exit_status)


def how_it_ended(session: Ending) -> str:
    """Status and reason in one clause; the reason often has the status in it already."""
    how = "ended"
    if session.signal is not None:
        how = f"killed by {session.signal}"
    elif session.exit_status is not None:
        how = f"exited with status {session.exit_status}"
    if not session.reason:
        return how
    told = session.signal or how
    return session.reason if told in session.reason else f"{how}: {session.reason}"


def has_failed(session: Ending) -> bool:
    """Whether its end is worth a look; SIGTERM is how apps are ended as asked."""
    return bool(session.exit_status) or session.signal not in (None, "SIGTERM")


def exit_status(session: Ending) -> int:
    """What a shell would say of the session's process: its status, or 128 and the number of the signal."""
    if session.signal is not None:
        number = signal.Signals.__members__.get(session.signal)
        return 128 + number if number is not None else 255
    return min(session.exit_status or 0, 255)


def end_json(session: Ending) -> dict[str, object]:
    """How it ended, for a line of JSON about that event."""
    return {"exit_status": session.exit_status, "signal": session.signal, "reason": session.reason}


def run_time(session: SessionInfo, now: float) -> str:
    end = session.stopped if session.stopped is not None else now
    return duration(end - session.launched)


def who(session_id: int, app_id: str) -> str:
    return f"session {session_id} of {app_id}"
