# SPDX-License-Identifier: Apache-2.0
"""One session: its states, and what each event makes of it. No I/O here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self

from weft_runtime.appd import clock
from weft_runtime.appd.use import Use
from weft_runtime.protocol import SessionDetails, SessionInfo, State

OUTPUT_CLOSED_GRACE_S = 1.0

_STOPS = ("SIGTERM", "SIGINT", "SIGHUP")
"""Signals that ask a process to end."""

DAEMON = "weft-appd"
"""Who asks for an end that no client has asked for: that of an app which is not ready in time, or of the daemon itself."""

_TIMES = ("launched_at", "ready_at", "stopped_at")


class Facts(NamedTuple):
    """What else is known of a session: for people, but for the last of it. None is "not known"."""

    version: str | None = None
    """The version that runs: that of the manifest at the launch."""
    launched_by: str | None = None
    ended_by: str | None = None
    """Who asked for its end."""
    package: str | None = None
    """The directory that it was started from."""
    data: str | None = None
    """Its directory for data, if it has one."""
    memory_peak: int | None = None
    """Bytes, once it has ended."""
    cpu_seconds: float | None = None
    """The same of its time on CPUs."""
    has_ui: bool = True
    """Whether there is anything for an app shell to show."""


class Action(StrEnum):
    """What the supervisor is to do next."""

    ANNOUNCE_READY = "announce-ready"
    TERMINATE = "terminate"
    """Ask the process to end: SIGTERM."""
    KILL = "kill"
    """End the whole process group: SIGKILL."""
    ANNOUNCE_STOPPED = "announce-stopped"


@dataclass(slots=True)
class Session:
    """A launched app. Times named `..._at` are seconds of the boot clock (clock.py), `deadline` is monotonic seconds."""

    id: int
    app_id: str
    pid: int | None
    launched_at: float
    state: State
    deadline: float | None
    """When something must have happened: READY while starting, the end while stopping."""
    ready_at: float | None = None
    stopped_at: float | None = None
    exit_status: int | None = None
    signal: str | None = None
    reason: str | None = None
    stop_reason: str | None = None
    """Why we ask it to end; None for an app that ends by itself."""
    stop_expected: bool = False
    """Whether its end was asked for by a client or an operator, and so is no surprise."""
    output_closed: bool = False
    facts: Facts = Facts()
    is_compiling: bool = False
    """Whether its module was being compiled when it was last heard of."""

    @classmethod
    def launched(cls, number: int, app_id: str, pid: int, *, now: float, ready_deadline: float) -> Self:
        return cls(number, app_id, pid, now, State.STARTING, ready_deadline)

    @property
    def is_live(self) -> bool:
        return self.state is not State.STOPPED

    def ready(self, *, now: float) -> list[Action]:
        """The READY line has come: it counts once, and not any more when the end was asked for."""
        if self.state is not State.STARTING:
            return []
        self.state, self.ready_at, self.deadline, self.is_compiling = State.RUNNING, now, None, False
        return [Action.ANNOUNCE_READY]

    def compiling(self, *, ready_deadline: float) -> list[Action]:
        """Its module is being compiled: that does not count into the time until READY."""
        self.is_compiling = True
        if self.state is State.STARTING and not self.output_closed and self.deadline is not None:
            self.deadline = max(self.deadline, ready_deadline)
        return []

    def output_ended(self, *, now: float) -> list[Action]:
        """Standard output was closed: an app that has not said READY never will.

        As a rule it is just ending, and its own reason is the better one: give it a moment for that.
        """
        if self.state is State.STARTING:
            self.output_closed = True
            self.deadline = now + OUTPUT_CLOSED_GRACE_S
        return []

    def stop(
        self, why: str, *, kill_deadline: float, expected: bool = False, by: str = DAEMON
    ) -> list[Action]:
        """The end is asked for, `by` somebody. Asking again changes nothing, but that an end may be expected then."""
        if self.state not in (State.STARTING, State.RUNNING):
            self.stop_expected |= expected and self.is_live
            return []
        self.state, self.deadline = State.STOPPING, kill_deadline
        self.stop_reason, self.stop_expected = why, expected
        self.facts = self.facts._replace(ended_by=by)
        return [Action.TERMINATE]

    def deadline_passed(self, timeout: float, *, kill_deadline: float) -> list[Action]:
        """`deadline` is over; `timeout` is how long the app had for READY, in seconds."""
        if self.state is State.STARTING:
            why = f"it did not say READY within {timeout:g} s"
            if self.output_closed:
                why = "it closed its standard output before READY"
            return self.stop(why, kill_deadline=kill_deadline)
        if self.state is State.STOPPING:
            self.deadline = None
            return [Action.KILL]
        return []

    def ended(
        self, *, exit_status: int | None, signal: str | None, reason: str | None, now: float
    ) -> list[Action]:
        """The process is gone. `reason` is what it said of itself, if it did."""
        self.state, self.deadline, self.pid, self.stopped_at = State.STOPPED, None, None, now
        self.exit_status, self.signal = exit_status, signal
        how = f"killed by {signal}" if signal else f"exited with status {exit_status}"
        if signal in _STOPS:
            # Who follows a plan is gone without a word, so whatever ends like that is worded here.
            reason, how = None, f"stopped by {signal}{' while compiling' if self.is_compiling else ''}"
        parts = [part for part in (self.stop_reason, reason or how) if part]
        self.reason = ": ".join(parts)
        return [Action.ANNOUNCE_STOPPED]

    def info(self) -> SessionInfo:
        return SessionInfo(
            session_id=self.id,
            app_id=self.app_id,
            state=self.state,
            pid=self.pid,
            launched=clock.to_unix(self.launched_at),
            ready=None if self.ready_at is None else clock.to_unix(self.ready_at),
            stopped=None if self.stopped_at is None else clock.to_unix(self.stopped_at),
            exit_status=self.exit_status,
            signal=self.signal,
            reason=self.reason or self.stop_reason,
        )

    def details(self, use: Use) -> SessionDetails:
        """`use` is what it uses now, if it lives."""
        facts = self.facts
        return SessionDetails(
            session_id=self.id,
            version=facts.version,
            launched_by=facts.launched_by,
            package=facts.package,
            data=facts.data,
            memory=use.memory,
            memory_peak=facts.memory_peak if use.memory_peak is None else use.memory_peak,
            cpu=facts.cpu_seconds if use.cpu_seconds is None else use.cpu_seconds,
        )

    def to_json(self) -> dict[str, Any]:
        """For the next process image (handover.py); times are Unix seconds, as the first release has them.

        Without `facts` and `is_compiling`: an image of the first release, to which a reload may go back, takes no field that
        it does not know.
        """
        values = asdict(self)
        del values["facts"], values["is_compiling"]
        return values | {name: clock.to_unix(values[name]) for name in _TIMES if values[name] is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        times = {name: clock.from_unix(values[name]) for name in _TIMES if values[name] is not None}
        session = cls(**{**values, **times})
        session.state = State(session.state)
        return session
