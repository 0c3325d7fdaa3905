# SPDX-License-Identifier: Apache-2.0
"""The command that tells what happens to sessions, as it happens."""

from collections.abc import Mapping
from datetime import datetime
from typing import NoReturn

from weft_runtime.client import DaemonClient, socket_path
from weft_runtime.ctl import words
from weft_runtime.ctl.daemon import ANSWER_TIMEOUT_S, ask, refusal
from weft_runtime.ctl.screen import Cell, Colour, Screen
from weft_runtime.protocol import (
    AppReady,
    AppState,
    Error,
    LaunchAck,
    QuerySessions,
    Response,
    SessionInfo,
    Sessions,
    State,
    Subscribe,
    Subscribed,
)

_WIDTHS = (8, 8, 6, 30, 0)
"""Columns of the time, the event, the session, the app and the rest."""

_COLOURS = {"ready": Colour.GREEN}


def watch(screen: Screen, environ: Mapping[str, str]) -> NoReturn:
    """Tell of launches, READY and ends until interrupted. Raises WeftError where the daemon is lost."""
    with DaemonClient(socket_path(environ), timeout=ANSWER_TIMEOUT_S) as stream:
        ask(stream, Subscribe(None), Subscribed)
        watcher = _Watcher(screen, stream)
        watcher.ask_for_details()
        stream.wait_for(None)
        screen.note("watching, Ctrl-C ends it")
        while True:
            watcher.take(stream.receive())


class _Watcher:
    """What is remembered between events: a push about an end says neither which app it was, nor why."""

    def __init__(self, screen: Screen, stream: DaemonClient) -> None:
        self._screen = screen
        self._stream = stream
        self._app_ids: dict[int, str] = {}
        self._ended: list[int] = []
        """Sessions whose end is still to be told."""
        self._asked = False

    def ask_for_details(self) -> None:
        """Ask about all sessions, unless that is under way: many ends in a row become one question."""
        if not self._asked:
            self._asked = True
            self._stream.send(QuerySessions())

    def take(self, message: Response) -> None:
        match message:
            case LaunchAck():
                self._app_ids[message.session_id] = message.app_id
                self._tell("launched", message.session_id)
            case AppReady():
                self._tell("ready", message.session_id)
            case AppState(state=State.STOPPED):
                self._ended.append(message.session_id)
                self.ask_for_details()
            case Sessions():
                self._asked = False
                self._take_details({session.session_id: session for session in message.sessions})
            case Error():
                raise refusal(message)
            case _:
                pass  # gestures, and what apps say to their user interfaces

    def _take_details(self, sessions: Mapping[int, SessionInfo]) -> None:
        """Tell the ends that came before this answer, which is newer than they are."""
        self._app_ids.update((session.session_id, session.app_id) for session in sessions.values())
        ended, self._ended = self._ended, []
        for session_id in ended:
            self._tell_end(session_id, sessions.get(session_id))
        # What has ended is not heard of again.
        self._app_ids = {
            session.session_id: session.app_id
            for session in sessions.values()
            if session.state is not State.STOPPED
        }

    def _tell_end(self, session_id: int, session: SessionInfo | None) -> None:
        if session is None:  # a thousand have ended since: it is forgotten
            self._tell("stopped", session_id)
            return
        colour = Colour.RED if words.has_failed(session) else Colour.PLAIN
        text = Cell(words.how_it_ended(session), colour)
        self._tell("stopped", session_id, text, **words.end_json(session))

    def _tell(self, event: str, session_id: int, text: str | Cell = "", **details: object) -> None:
        app_id = self._app_ids.get(session_id, words.NOTHING)
        if self._screen.as_json:
            self._screen.event(event, session_id, app_id, **details)
            return
        now = f"{datetime.now().astimezone():%H:%M:%S}"
        cells = (now, Cell(event, _COLOURS.get(event, Colour.PLAIN)), str(session_id), app_id, text)
        self._screen.row(cells, _WIDTHS)
