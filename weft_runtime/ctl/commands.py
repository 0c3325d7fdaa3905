# SPDX-License-Identifier: Apache-2.0
"""The commands that ask weft-appd, answer and are done: its status, apps, stop."""

import select
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from weft_runtime import paths, programs
from weft_runtime.client import socket_path
from weft_runtime.ctl import restore, services, words
from weft_runtime.ctl.daemon import (
    ANSWER_TIMEOUT_S,
    NOT_FOUND,
    ask,
    connect,
    expect,
    find,
    is_system,
    sessions,
)
from weft_runtime.ctl.screen import Cell, Colour, Screen
from weft_runtime.errors import WeftError
from weft_runtime.ids import AppId, SessionId
from weft_runtime.programs import WEBSOCKET_UNIT
from weft_runtime.protocol import (
    AppState,
    DaemonStatus,
    InstalledApps,
    QueryInstalledApps,
    QueryStatus,
    State,
    TerminateApp,
)

STOPS_AT_ONCE = 32
"""Connections for ending sessions at the same time, one each: an eighth of what the daemon takes."""


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
        *_websocket(environ),
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


def _websocket(environ: Mapping[str, str]) -> Iterator[tuple[str, str | Cell]]:
    """Whether the WebSocket of the system's daemon is open: that is systemd's, which opens it."""
    if not is_system(socket_path(environ)):
        return
    shown = programs.show([WEBSOCKET_UNIT], "ActiveState,UnitFileState,Listen", environ)
    unit = shown.get(WEBSOCKET_UNIT, {})
    address, state = unit.get("Listen", "").partition(" ")[0], unit.get("ActiveState")
    if state == "active":
        yield "WebSocket", address
    elif state == "failed" or unit.get("UnitFileState") == "enabled":
        text = f"none at {address}: {WEBSOCKET_UNIT} is {state} ['weftctl doctor' says why]"
        yield "WebSocket", Cell(text, Colour.RED)


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
    forgotten = 0
    service = None if isinstance(target, SessionId) else active_service(environ, target)
    try:
        with connect(environ) as daemon:
            known = sessions(daemon)
    except WeftError:
        if service is not None:
            screen.note(f"{service} [{_to_stop(target)}]")
        raise
    if isinstance(target, SessionId):
        chosen = [find(known, target)]
    else:
        chosen = [item for item in known if item.app_id == target and item.state is not State.STOPPED]
        forgotten = restore.forget_app(environ, target)
        if not (chosen or forgotten):
            if service is not None:
                raise WeftError(
                    NOT_FOUND, f"no session of {target} is running, but {service}", _to_stop(target)
                )
            raise WeftError(NOT_FOUND, f"no session of {target} is running", "see 'weftctl list'")
    live = [session.session_id for session in chosen if session.state is not State.STOPPED]
    terminate(environ, live)
    with connect(environ) as daemon:
        after = {session.session_id: session for session in sessions(daemon)}
    ended = [after.get(session.session_id, session) for session in chosen]
    restore.tell_unsaved(screen, environ)
    if screen.as_json:
        screen.json([session._asdict() for session in ended])
    else:
        for session in ended:
            what = "stopped" if session.session_id in live else "had ended already"
            screen.line(
                f"{words.who(session.session_id, session.app_id)} {what}: {words.how_it_ended(session)}"
            )
        if forgotten:
            screen.line(f"{target} waited to be started again, and does so no more")
    if service is not None:
        screen.note(f"{service} and goes on [{_to_stop(target)}]")
    return 0


def active_service(environ: Mapping[str, str], app_id: AppId) -> str | None:
    """That the app's service runs, or is about to, as the subject of a sentence; None where it does not."""
    if not is_system(socket_path(environ)):
        return None
    service = services.of_app(environ, app_id)
    if service is None or service.state in (services.STOPPED, services.FAILED):
        return None
    return f"its service {service.unit} is {service.state}"


def _to_stop(app_id: SessionId | AppId) -> str:
    return f"'systemctl stop weft-app@{app_id}' ends it"


def terminate(environ: Mapping[str, str], session_ids: Sequence[int]) -> None:
    """End sessions and wait until they have ended. Raises WeftError."""
    for start in range(0, len(session_ids), STOPS_AT_ONCE):
        _terminate(environ, session_ids[start : start + STOPS_AT_ONCE])


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
        return find(sessions(daemon), session_id).state is not State.STOPPED
