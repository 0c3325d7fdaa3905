# SPDX-License-Identifier: Apache-2.0
"""The command that starts a session, and stays with it as long as asked."""

import select
import time
from collections.abc import Mapping
from contextlib import ExitStack
from enum import Enum, auto

from weft_runtime import store
from weft_runtime.client import DaemonClient, no_answer, socket_path
from weft_runtime.ctl import logs, words
from weft_runtime.ctl.daemon import ANSWER_TIMEOUT_S, ask, expect, is_system, own_store, refusal
from weft_runtime.ctl.screen import Screen
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import quote
from weft_runtime.ids import AppId
from weft_runtime.journal import Event
from weft_runtime.protocol import (
    AppReady,
    AppState,
    Error,
    ErrorCode,
    LaunchAck,
    LaunchApp,
    QueryAppState,
    QuerySessions,
    Response,
    SessionInfo,
    Sessions,
    State,
    Subscribe,
    Subscribed,
)
from weft_runtime.settings import SYSTEM_STORES

DRAIN_S = 2.0
"""Seconds after a session's end for its last output to come out of the journal: milliseconds as a rule."""

NEVER_READY = 1
"""Exit status for an app that ended with status 0 before READY, or too soon after it."""


class Until(Enum):
    """What to wait for."""

    LAUNCHED = auto()
    READY = auto()
    STABLE = auto()
    """READY, and so many seconds without an end."""
    ENDED = auto()


def launch(
    screen: Screen,
    environ: Mapping[str, str],
    app_id: AppId,
    *,
    until: Until,
    follow: bool = False,
    stable_s: float = 0,
) -> int:
    """Start a session of `app_id`; returns the exit status, which is the app's where its end is waited for.

    Raises WeftError where it does not start.
    """
    path = socket_path(environ)
    with DaemonClient(path, timeout=ANSWER_TIMEOUT_S) as stream, ExitStack() as stack:
        since = time.time()
        session = _Launched(screen, stream, _start(stream, environ, app_id), app_id, with_events=follow)
        try:
            session.tell_launch()
            if follow and (complaint := logs.denied(of_system=is_system(path))):
                screen.note(f"cannot show the output of the app: {complaint}")
            elif follow:
                session.output = stack.enter_context(logs.Follower(path, app_id, session.id, since))
            session.wait(until)
            if until is Until.STABLE:
                session.wait_for_end(stable_s)
        except KeyboardInterrupt:
            if not session.has_ended:
                screen.note(f"{session.name} goes on [end it with 'weftctl stop {session.id}']")
            raise
        return session.finish(until)


def start_and_wait(screen: Screen, environ: Mapping[str, str], app_id: AppId) -> tuple[SessionInfo, int]:
    """Start a session of `app_id` and wait until it is ready, or has ended; what became of it, and the exit status.

    Raises WeftError where it does not start.
    """
    with DaemonClient(socket_path(environ), timeout=ANSWER_TIMEOUT_S) as stream:
        session = _Launched(screen, stream, _start(stream, environ, app_id), app_id, with_events=False)
        session.wait(Until.READY)
        info = session.details()
        if info.ready is None:
            return info, words.exit_status(info) or NEVER_READY
        return info, words.exit_status(info)


class _Launched:
    """A session that this command has started, and listens to on the connection that started it."""

    def __init__(
        self, screen: Screen, stream: DaemonClient, session_id: int, app_id: AppId, *, with_events: bool
    ) -> None:
        """`with_events`: in JSON, tell each event on a line, else only what comes of it in the end."""
        self.id = session_id
        self.name = words.who(session_id, app_id)
        self.is_ready = False
        self.has_ended = False
        self.output: logs.Follower | None = None
        self._app_id = app_id
        self._screen = screen
        self._stream = stream
        self._events_as_json = with_events and screen.as_json
        self._has_entries = False

    def tell_launch(self) -> None:
        self._tell("launched")
        if not self._screen.as_json:
            self._screen.line(str(self.id))

    def wait(self, until: Until) -> None:
        """Listen until what is waited for has happened, or the session has ended.

        What happened before the subscription, the answer to QUERY_APP_STATE tells; what happens after it is
        pushed. Both say the same thing, so it does not matter which of the two a message is.
        """
        if until is Until.LAUNCHED:
            return
        ask(self._stream, Subscribe(self.id), Subscribed)
        self._stream.send(QueryAppState(self.id))
        self._stream.wait_for(None)
        while not (self.has_ended or (self.is_ready and until is not Until.ENDED)):
            if self.output is not None and not self._stream.has_message:
                output, stream = self.output.fileno(), self._stream.fileno()
                readable, _, _ = select.select([output, stream], [], [])
                if output in readable:
                    self._take_output()
                if stream not in readable:
                    continue
            self._take(self._stream.receive())
        deadline = time.monotonic() + DRAIN_S
        while self.output is not None and (left := deadline - time.monotonic()) > 0:
            if select.select([self.output], [], [], left)[0]:
                self._take_output()

    def wait_for_end(self, seconds: float) -> None:
        """Listen so long at most; `has_ended` says what came of it."""
        deadline = time.monotonic() + seconds
        while not self.has_ended and (left := deadline - time.monotonic()) > 0:
            if self._stream.has_message or select.select([self._stream], [], [], left)[0]:
                self._take(self._stream.receive())

    def finish(self, until: Until) -> int:
        """Say what has become of the session; returns the exit status."""
        try:
            session = self.details()
        except WeftError:
            if self.has_ended:
                self._screen.note(f"{self.name} has ended, and weft-appd with it")
            raise
        if self.output is not None and not self._has_entries:
            self._screen.note("the journal has nothing of this session: weft-appd seems to log elsewhere")
        if self._events_as_json:
            self._tell("stopped", **words.end_json(session))
        elif self._screen.as_json:
            self._screen.json(session._asdict())
        # It may have said READY and ended before anybody listened.
        is_ready = self.is_ready or session.ready is not None
        ready_after = (
            words.NOTHING if session.ready is None else words.duration(session.ready - session.launched)
        )
        match until:
            case Until.LAUNCHED:
                return 0
            case Until.READY | Until.STABLE if not is_ready:
                self._note(f"ended before READY: {words.how_it_ended(session)}")
                return words.exit_status(session) or NEVER_READY
            case Until.STABLE if self.has_ended:
                after = words.duration((session.stopped or 0) - (session.ready or 0))
                self._note(f"ended {after} after READY: {words.how_it_ended(session)}")
                return words.exit_status(session) or NEVER_READY
            case Until.READY if session.state is State.STOPPED:
                self._note(f"was ready after {ready_after} and has ended: {words.how_it_ended(session)}")
                return words.exit_status(session)
            case Until.READY | Until.STABLE:
                goes_on = " and goes on" if until is Until.STABLE else ""
                self._note(f"is ready after {ready_after}{goes_on}")
                return 0
            case Until.ENDED:
                self._note(f"has ended: {words.how_it_ended(session)}")
                return words.exit_status(session)

    def details(self) -> SessionInfo:
        """What is known of it now. Raises WeftError."""
        self._stream.wait_for(ANSWER_TIMEOUT_S)
        self._stream.send(QuerySessions())
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while not isinstance(answer := self._stream.receive(), Sessions):
            self._take(answer)
            if time.monotonic() > deadline:
                raise no_answer(ANSWER_TIMEOUT_S)
        for session in answer.sessions:
            if session.session_id == self.id:
                return session
        raise WeftError(Problem.INTERNAL_ERROR, f"weft-appd has forgotten session {self.id}")

    def _take(self, message: Response) -> None:
        if isinstance(message, Error):
            raise refusal(message)
        if not isinstance(message, AppReady | AppState) or message.session_id != self.id:
            return
        if isinstance(message, AppReady) or message.state is State.RUNNING:
            if not self.is_ready:
                self._tell("ready")
            self.is_ready = True
        elif message.state in (State.STOPPED, State.NOT_FOUND):
            self.has_ended = True

    def _take_output(self) -> None:
        assert self.output is not None
        for entry in self.output.read():
            self._has_entries = True
            match entry.event:
                case Event.SESSION_ENDED:  # after it nothing comes
                    self.output = None
                case Event.OUTPUT if self._events_as_json:
                    self._tell("output", stream=entry.stream, message=entry.message)
                case Event.OUTPUT if entry.stream == "stderr":
                    self._screen.error_line(entry.message)
                case Event.OUTPUT:
                    self._screen.line(entry.message)
                case _:
                    self._screen.note(entry.message)
        if self.output is not None and not self.output.is_open:
            self.output = None
            self._screen.note("journalctl has ended: no more output is shown")

    def _tell(self, event: str, **details: object) -> None:
        if self._events_as_json:
            self._screen.event(event, self.id, self._app_id, **details)

    def _note(self, text: str) -> None:
        if not self._screen.as_json:
            self._screen.note(f"{self.name} {text}")


_NOWHERE = "not found in any package store"
"""In the text of an ERROR: the same code stands for a module that is missing."""


def _start(stream: DaemonClient, environ: Mapping[str, str], app_id: AppId) -> int:
    """The number of the new session. Raises WeftError."""
    answer = stream.ask(LaunchApp(app_id, 0))
    if (
        isinstance(answer, Error)
        and answer.code == ErrorCode.PACKAGE_NOT_FOUND
        and _NOWHERE in answer.message
    ):
        _complain_of_own_store(environ, app_id)
    return expect(answer, LaunchAck).session_id


def _complain_of_own_store(environ: Mapping[str, str], app_id: AppId) -> None:
    """Raises WeftError where the app that the daemon does not find is in the caller's own store."""
    own = own_store(environ)
    if own is None:
        return
    try:
        store.find(app_id, [own])
    except WeftError:
        return
    reader, hint = "this daemon", "see WEFT_APP_STORE, and HOME, where it runs"
    if is_system(socket_path(environ)):
        reader, hint = "the daemon of the system", f"install it into {SYSTEM_STORES[0]}"
    where = f"your own store {quote(str(own))}"
    message = f"{quote(app_id)} is installed in {where}, which {reader} does not read"
    raise WeftError(Problem.PACKAGE_NOT_FOUND, message, hint)
