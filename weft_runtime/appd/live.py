# SPDX-License-Identifier: Apache-2.0
"""A session that has a process: its output, its report and its deadline are watched here."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from weft_runtime.appd import child as processes
from weft_runtime.appd import clock
from weft_runtime.appd.cgroups import SessionGroup
from weft_runtime.appd.child import Child
from weft_runtime.appd.output import OutputLog
from weft_runtime.appd.report import Report
from weft_runtime.appd.session import Action, Session
from weft_runtime.appd.settings import Settings
from weft_runtime.appd.streams import NAMES, Streams
from weft_runtime.appd.tasks import AGAIN_S, Tasks
from weft_runtime.appd.turns import Turns
from weft_runtime.appd.watch import Watch
from weft_runtime.escape import printable
from weft_runtime.journal import Event, Level, Log, output_identifier
from weft_runtime.limits import COMPILE_TIME
from weft_runtime.plural import counted
from weft_runtime.protocol import AppReady, AppState, State


class Surroundings(NamedTuple):
    """What all sessions of a daemon share."""

    settings: Settings
    environ: Mapping[str, str]
    """For app shells."""
    log: Log
    tasks: Tasks
    turns: Turns
    watch: Watch
    announce: Callable[[AppReady | AppState], None]
    """Takes each push, in order."""
    changed: Callable[[], None]
    """To be called when a session is ready."""


class Live:
    """A session and what it needs, besides its state, while it has a process."""

    def __init__(
        self, session: Session, child: Child, group: SessionGroup | None, surroundings: Surroundings
    ) -> None:
        self.session = session
        self.child = child
        self.group = group
        self._about = {"WEFT_APP_ID": session.app_id, "WEFT_SESSION_ID": str(session.id)}
        self._settings = settings = surroundings.settings
        self._environ = surroundings.environ
        self._log = surroundings.log
        self._tasks = surroundings.tasks
        self._watch = surroundings.watch
        self._announce = surroundings.announce
        self._changed = surroundings.changed
        self.report = Report(child.report)
        self._extended_until = time.monotonic() + COMPILE_TIME.value
        """Until when compiling may delay READY: longer than the runtime lets it take."""
        output = OutputLog(settings.log_lines, settings.log_interval, self._write, self._dropped)
        self.streams = Streams(
            f"session {session.id}", {"stdout": child.stdout, "stderr": child.stderr}, output, self._tasks,
            surroundings.turns, surroundings.watch, self._is_ready, self._output_ended,
        )  # fmt: skip
        self._deadline_timer: asyncio.TimerHandle | None = None
        self.shell_pid: int | None = None
        self.is_collected = False
        """Whether its process is reaped, and the descriptors are closed."""

    def entry(self, level: Level, message: str, event: Event | None = None, **fields: str) -> None:
        """Log an entry about the session."""
        self._log.entry(level, message, event, **self._about, **fields)

    def watch(self, ended: Callable[["Live"], None], streams: Sequence[str] = NAMES) -> None:
        """Watch its process, of which `ended` is told, its deadline, and those of its pipes that are open yet."""
        for name in NAMES:
            if name not in streams:
                del self.streams.open[name]
        self.streams.watch()
        if self.session.state is State.STARTING:
            what = f"the report of session {self.session.id}"
            self._watch.add(self.child.report, partial(self._tasks.call, what, self._reported))
        self._watch.add(self.child.pidfd, partial(ended, self))
        self._arm()

    def unwatch(self) -> None:
        """Watch nothing but its deadline."""
        for fd in (self.child.pidfd, self.child.report):
            self._watch.remove(fd)
        self.streams.unwatch()

    def stop_timers(self) -> None:
        """Nothing has a time any more."""
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self.streams.stop_timer()

    def act(self, actions: Sequence[Action]) -> None:
        """Do what an event has made of the session."""
        session = self.session
        for action in actions:
            match action:
                case Action.ANNOUNCE_READY:
                    self._watch.remove(self.child.report)
                    took = clock.now() - session.launched_at
                    # First of all those who wait for it.
                    self._announce(AppReady(session.id, session.app_id))
                    self.entry(Level.INFO, f"ready after {took:.3f} s", Event.SESSION_READY)
                    self._start_shell()
                    self._changed()
                case Action.TERMINATE:
                    late = session.ready_at is None and not session.stop_expected
                    self.entry(
                        Level.WARNING if late else Level.INFO, f"ending it: {session.stop_reason}",
                        Event.NOT_READY if late else None, WEFT_REASON=session.stop_reason or "",
                    )  # fmt: skip
                    processes.terminate(self.child)
                case Action.KILL:
                    message = f"still there {self._settings.stop_grace:g} s after SIGTERM: killing it"
                    self.entry(Level.WARNING, message)
                    self.kill()
                case Action.ANNOUNCE_STOPPED:
                    self._announce(AppState(session.id, State.STOPPED))
        self._arm()

    def stop(self, why: str, *, expected: bool, by: str) -> None:
        """Ask it to end; it is killed if it does not. Asking again changes nothing."""
        self.act(self.session.stop(why, kill_deadline=self._kill_deadline(), expected=expected, by=by))

    def kill(self) -> None:
        """End all of it: what is in its control group, or where there is none, in its process group."""
        if self.group is not None:
            self.group.kill()
        processes.kill_group(self.child)

    def to_json(self) -> dict[str, Any]:
        """For the next process image."""
        splitters = self.streams.splitters
        return {
            "session": self.session.to_json(),
            "fds": [self.child.stdout, self.child.stderr, self.child.report],
            "open": list(self.streams.open),
            "rest": {name: splitter.rest.hex() for name, splitter in splitters.items()},
            "output": self.streams.output.to_json(),
            "report": self.report.unread.hex(),
            "shell": self.shell_pid,
        }

    def resume(self, values: Mapping[str, Any]) -> None:
        """Go on from where the process image before this one was, as its `to_json` has it."""
        self.streams.output.restore(values["output"])
        self.report.unread = bytes.fromhex(values.get("report", ""))
        self.shell_pid = values["shell"]
        self.streams.resume(values["rest"])

    def _write(self, stream: str, line: str) -> None:
        level = Level.WARNING if stream == "stderr" else Level.INFO
        identifier = output_identifier(self.session.app_id, self.session.id)
        self.entry(level, line, Event.OUTPUT, WEFT_STREAM=stream, SYSLOG_IDENTIFIER=identifier)

    def _dropped(self, count: int) -> None:
        message = (
            f"{counted(count, 'line')} of its output {'was' if count == 1 else 'were'} dropped:"
            f" more than {self._settings.log_lines} lines in {self._settings.log_interval:g} s"
        )
        self.entry(Level.WARNING, message, Event.OUTPUT_DROPPED, WEFT_DROPPED=str(count))

    def _is_ready(self) -> None:
        self.act(self.session.ready(now=clock.now()))

    def _output_ended(self) -> None:
        self.act(self.session.output_ended(now=time.monotonic()))

    def _reported(self) -> None:
        """The runtime says something before READY; afterwards nobody listens until its end."""
        now = time.monotonic()
        if self.report.is_compiling() and now < self._extended_until:
            self.act(self.session.compiling(ready_deadline=now + self._settings.ready_timeout))
        if not self.report.is_open:
            self._watch.remove(self.child.report)

    def _arm(self) -> None:
        """Set the timer for the session's deadline as it is now."""
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._deadline_timer = None
        if self.session.deadline is not None:
            delay = self.session.deadline - time.monotonic()
            self._deadline_timer = asyncio.get_running_loop().call_later(max(0, delay), self._deadline)

    def _deadline(self) -> None:
        if not self._tasks.call(f"the deadline of session {self.session.id}", self._act_at_deadline):
            # However far it came: the session must not live on because of that.
            self._deadline_timer = asyncio.get_running_loop().call_later(AGAIN_S, self._deadline)

    def _act_at_deadline(self) -> None:
        timeout = self._settings.ready_timeout
        self.act(self.session.deadline_passed(timeout, kill_deadline=self._kill_deadline()))

    def _kill_deadline(self) -> float:
        return time.monotonic() + self._settings.stop_grace

    def _start_shell(self) -> None:
        shell = self._settings.app_shell_bin
        if shell is None or not self.session.facts.has_ui:
            return
        argv = [os.fspath(shell), self.session.app_id, str(self.session.id)]
        try:
            self.shell_pid = processes.spawn_shell(argv, self._environ)
        except OSError as error:
            message = f"cannot start its app shell {printable(str(shell))}, ignoring: {error.strerror}"
            self.entry(Level.WARNING, message)
