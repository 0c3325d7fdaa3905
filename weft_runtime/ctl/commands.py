# SPDX-License-Identifier: Apache-2.0
"""The commands that ask, answer and are done: list, status, apps, stop."""

import select
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from weft_runtime import paths
from weft_runtime.client import socket_path
from weft_runtime.ctl import restore, words
from weft_runtime.ctl.daemon import ANSWER_TIMEOUT_S, NOT_FOUND, ask, connect, expect, sessions, unknown
from weft_runtime.ctl.screen import Cell, Colour, Screen
from weft_runtime.errors import WeftError
from weft_runtime.ids import AppId, SessionId
from weft_runtime.protocol import (
    AppState,
    DaemonStatus,
    InstalledApps,
    QueryInstalledApps,
    QueryStatus,
    SessionInfo,
    State,
    TerminateApp,
)

STOPS_AT_ONCE = 32
"""Connections for ending sessions at the same time, one each: an eighth of what the daemon takes."""

_LIVE_COLUMNS = ("ID", "APP", "STATE", "PID", "LAUNCHED", "TIME")
_ALL_COLUMNS = (*_LIVE_COLUMNS, "RESULT", "REASON")


def list_sessions(screen: Screen, environ: Mapping[str, str], *, all_sessions: bool) -> int:
    with connect(environ) as daemon:
        found = sessions(daemon)
    if not all_sessions:
        found = [session for session in found if session.state is not State.STOPPED]
    waiting = restore.waiting(environ)
    if screen.as_json:
        screen.json([*(session._asdict() for session in found), *restore.rows(waiting)])
    elif found:
        now = time.time()
        columns = _ALL_COLUMNS if all_sessions else _LIVE_COLUMNS
        screen.table(columns, (_row(session, now)[: len(columns)] for session in found), cut=True)
    else:
        screen.note("no session " + ("is remembered" if all_sessions else "is running"))
    if not screen.as_json:
        restore.tell(screen, waiting)
    return 0


def status(screen: Screen, environ: Mapping[str, str], session_id: SessionId) -> int:
    with connect(environ) as daemon:
        session = _find(sessions(daemon), session_id)
    if screen.as_json:
        screen.json(session._asdict())
        return 0
    now = time.time()
    pid = words.NOTHING if session.pid is None else str(session.pid)
    rows: list[tuple[str, str | Cell]] = [
        ("Session", str(session.session_id)),
        ("App", session.app_id),
        ("State", words.state(session)),
        ("PID", pid),
        ("Launched", f"{words.local_time(session.launched)}, {words.ago(session.launched, now)}"),
    ]
    if session.ready is not None:
        took = words.duration(session.ready - session.launched)
        rows.append(("Ready", f"{words.local_time(session.ready)}, after {took}"))
    if session.stopped is not None:
        when = f"{words.local_time(session.stopped)}, {words.ago(session.stopped, now)}"
        rows.append(("Stopped", f"{when}, after {words.run_time(session, now)}"))
        rows.append(("Result", words.result(session)))
    if session.reason is not None:
        rows.append(("Reason", session.reason))
    screen.table((), ((f"{name}:", value) for name, value in rows))
    return 0


def daemon_status(screen: Screen, environ: Mapping[str, str]) -> int:
    with connect(environ) as daemon:
        found = ask(daemon, QueryStatus(), DaemonStatus)
    path = paths.shown(socket_path(environ))
    if screen.as_json:
        limits = {limit.name: limit.value for limit in found.limits}
        screen.json({**found._asdict(), "limits": limits, "socket": path})
        return 0
    since = f"{words.local_time(found.since)}, {words.ago(found.since, time.time())}"
    rows: list[tuple[str, str | Cell]] = [
        ("Version", found.version),
        ("PID", str(found.pid)),
        ("Since", since),
        ("Socket", path),
        ("Runtime", found.runtime or Cell(f"none: {found.runtime_problem}", Colour.RED)),
        ("Fork server", _fork_server(found)),
        ("Sessions", f"{found.live}, {found.starting} of them starting"),
        ("Clients", str(found.clients)),
        ("Log", found.log),
        ("Controllers", ", ".join(found.controllers) or "none"),
        *(("Limit", f"{limit.name} = {limit.value}") for limit in found.limits),
    ]
    screen.table((), ((f"{name}:", value) for name, value in rows))
    return 0


def _fork_server(found: DaemonStatus) -> str:
    if found.fork_server is None:
        return "none, each session executes the runtime"
    return f"pid {found.fork_server}, with {found.spares} spare processes"


def apps(screen: Screen, environ: Mapping[str, str]) -> int:
    with connect(environ) as daemon:
        found = ask(daemon, QueryInstalledApps(), InstalledApps).apps
    if screen.as_json:
        screen.json([app._asdict() for app in found])
    elif found:
        screen.table(("APP", "NAME", "VERSION"), sorted(found))
    else:
        screen.note("no app is installed")
    return 0


def stop(screen: Screen, environ: Mapping[str, str], target: SessionId | AppId) -> int:
    """End a session, or all of an app, and wait until they have ended."""
    with connect(environ) as daemon:
        known = sessions(daemon)
    forgotten = 0
    if isinstance(target, SessionId):
        chosen = [_find(known, target)]
    else:
        chosen = [item for item in known if item.app_id == target and item.state is not State.STOPPED]
        forgotten = restore.forget_app(environ, target)
        if not (chosen or forgotten):
            raise WeftError(NOT_FOUND, f"no session of {target} is running", "see 'weftctl list'")
    live = [session.session_id for session in chosen if session.state is not State.STOPPED]
    for start in range(0, len(live), STOPS_AT_ONCE):
        _terminate(environ, live[start : start + STOPS_AT_ONCE])
    with connect(environ) as daemon:
        after = {session.session_id: session for session in sessions(daemon)}
    ended = [after.get(session.session_id, session) for session in chosen]
    restore.tell_unsaved(screen, environ)
    if screen.as_json:
        screen.json([session._asdict() for session in ended])
        return 0
    for session in ended:
        what = "stopped" if session.session_id in live else "had ended already"
        screen.line(f"{words.who(session.session_id, session.app_id)} {what}: {words.how_it_ended(session)}")
    if forgotten:
        screen.line(f"{target} waited to be started again, and does so no more")
    return 0


def _terminate(environ: Mapping[str, str], session_ids: Sequence[int]) -> None:
    """End sessions at the same time, each over a connection of its own: that waits for the end."""
    with ExitStack() as stack:
        daemons = [stack.enter_context(connect(environ)) for _ in session_ids]
        for daemon, session_id in zip(daemons, session_ids, strict=True):
            daemon.send(TerminateApp(session_id))
        for daemon, session_id in zip(daemons, session_ids, strict=True):
            # How long an app may take to end is the daemon's setting; that it still answers is asked now and then.
            while not select.select([daemon], [], [], ANSWER_TIMEOUT_S)[0] and _lives(environ, session_id):
                pass
            expect(daemon.receive(), AppState)


def _lives(environ: Mapping[str, str], session_id: int) -> bool:
    """Whether the daemon says so. Raises WeftError where it does not know the session, or says nothing."""
    with connect(environ) as daemon:
        return _find(sessions(daemon), session_id).state is not State.STOPPED


def _find(known: Sequence[SessionInfo], session_id: int) -> SessionInfo:
    for session in known:
        if session.session_id == session_id:
            return session
    raise unknown(session_id)


def _row(session: SessionInfo, now: float) -> tuple[str | Cell, ...]:
    return (
        str(session.session_id),
        session.app_id,
        words.state(session),
        words.NOTHING if session.pid is None else str(session.pid),
        words.short_time(session.launched),
        words.run_time(session, now),
        words.result(session),
        session.reason or words.NOTHING,
    )
