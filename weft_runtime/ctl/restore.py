# SPDX-License-Identifier: Apache-2.0
"""The command `restore`, and what waits to be started again."""

import time
from collections.abc import Mapping, Sequence

from weft_runtime.client import DaemonClient
from weft_runtime.ctl import words
from weft_runtime.ctl.daemon import NOT_FOUND, ask, connect, sessions
from weft_runtime.ctl.screen import Screen
from weft_runtime.errors import Problem, WeftError
from weft_runtime.ids import AppId
from weft_runtime.protocol import (
    Forget,
    Forgotten,
    QueryWaiting,
    RefusedList,
    Restore,
    Restoring,
    State,
    Waiting,
    WaitingApp,
)

TRIED_S = 10.0
"""Seconds that `restore` waits until all that waited has been tried."""

POLL_S = 0.1

STATE = "waiting"
"""The state of a session that is still to be, in a list."""

NONE = Waiting((), (), None)


def waiting(daemon: DaemonClient) -> Waiting:
    """What waits to be started again; nothing where the daemon does not say. Raises WeftError where it is lost."""
    answer = daemon.ask(QueryWaiting())
    return answer if isinstance(answer, Waiting) else NONE


def tell(screen: Screen, found: Waiting) -> None:
    """Say below a list what waits, which lists were refused, and what is not saved."""
    now = time.time()
    for app in found.apps:
        screen.note(f"{app.app_id} waits to be started again: {why(app)}; {_next(app, now)}")
    for item in found.refused:
        screen.note(f"the apps in {item.path} were not started again: {item.reason}")
    if found.apps or found.refused:
        screen.note("'weftctl restore' starts them now, 'weftctl restore --forget' forgets them")
    if found.problem is not None:
        screen.note(_unsaved(found.problem))


def tell_unsaved(screen: Screen, environ: Mapping[str, str]) -> None:
    """After a stop: say so where the daemon, should it end badly, would start the app again."""
    with connect(environ) as daemon:
        problem = waiting(daemon).problem
    if problem is not None:
        screen.note(_unsaved(problem))


def restore(screen: Screen, environ: Mapping[str, str], app_id: AppId | None) -> int:
    """Start what waits now, and what refused lists have. Raises WeftError where an app still waits after that."""
    with connect(environ) as daemon:
        answer = ask(daemon, Restore(app_id), Restoring)
    if app_id is not None and not answer.apps:
        raise _nothing_of(app_id)
    left = _until_tried(environ, answer.apps)
    if screen.as_json:
        screen.json(
            {
                "apps": list(answer.apps),
                "waiting": [app._asdict() for app in left],
                "refused": _refused(answer.refused),
                "problem": answer.problem,
            }
        )
    elif not (answer.apps or answer.refused):
        screen.note("nothing waits to be started again")
    else:
        failed = [app.app_id for app in left]
        for name in sorted(set(answer.apps)):
            count = answer.apps.count(name) - failed.count(name)
            if count > 0:
                screen.line(f"{name} is started again{f', {count} times' if count > 1 else ''}")
    if answer.problem is not None:
        screen.note(_unsaved(answer.problem))
    return _complain(screen, answer.refused, left)


def forget(screen: Screen, environ: Mapping[str, str], app_id: AppId | None) -> int:
    """Start nothing again of what waits, and remove refused lists."""
    with connect(environ) as daemon:
        answer = ask(daemon, Forget(app_id), Forgotten)
    if app_id is not None and not answer.apps:
        raise _nothing_of(app_id)
    if screen.as_json:
        screen.json(
            {
                "apps": list(answer.apps),
                "lists": list(answer.lists),
                "refused": _refused(answer.refused),
                "problem": answer.problem,
            }
        )
    elif not (answer.apps or answer.lists or answer.refused):
        screen.note("nothing waits to be started again")
    else:
        for name in answer.apps:
            screen.line(f"{name} is not started again")
        for path in answer.lists:
            screen.line(f"removed {path}")
    if answer.problem is not None:
        screen.note(_unsaved(answer.problem))
    for item in answer.refused:
        raise WeftError(
            Problem.OS_ERROR, f"cannot remove {item.path}: {item.reason}", f"rm -r {item.path}, as root"
        )
    return 0


def forget_app(environ: Mapping[str, str], app_id: AppId) -> int:
    """Start nothing again of what waits of an app; how many sessions that were. Raises WeftError."""
    with connect(environ) as daemon:
        if not any(app.app_id == app_id for app in waiting(daemon).apps):
            return 0
        return len(ask(daemon, Forget(app_id), Forgotten).apps)


def _until_tried(environ: Mapping[str, str], app_ids: Sequence[str]) -> list[WaitingApp]:
    """Wait until each of these has come up or has not, for a while; those that wait then."""
    deadline = time.monotonic() + TRIED_S
    while True:
        with connect(environ) as daemon:
            # In this order, since each goes from the first place to the second, and perhaps back.
            untried = any(app.attempts == 0 for app in waiting(daemon).apps if app.app_id in app_ids)
            starting = any(
                session.state is State.STARTING for session in sessions(daemon) if session.app_id in app_ids
            )
            left = [app for app in waiting(daemon).apps if app.app_id in app_ids]
        if not (untried or starting) or time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)


def _complain(screen: Screen, refused: Sequence[RefusedList], left: Sequence[WaitingApp]) -> int:
    """Say what could not be done; the exit status."""
    now = time.time()
    for app in left:
        screen.note(f"{app.app_id} still waits: {why(app)}; {_next(app, now)}")
    for item in refused:
        screen.note(f"{item.path} cannot be used: {item.reason} ['weftctl restore --forget' removes it]")
    if refused:
        raise WeftError(Problem.MANIFEST_INVALID, "a list of apps to start again cannot be used")
    if left:
        raise WeftError(Problem.OS_ERROR, "not all apps could be started again", "see 'weftctl list'")
    return 0


def why(app: WaitingApp) -> str:
    return app.reason or "others are started first"


def _next(app: WaitingApp, now: float) -> str:
    if app.due is None:
        return "it is not tried again by itself"
    if app.due <= now:
        return "it is tried now"
    return f"it is tried again in {words.duration(app.due - now, whole=True)}"


def _refused(lists: Sequence[RefusedList]) -> list[dict[str, str]]:
    return [item._asdict() for item in lists]


def _unsaved(problem: str) -> str:
    return (
        f"the list of the apps to start again is not saved: {problem}; until it is, the next start of weft-appd"
        " starts those of an older list"
    )


def _nothing_of(app_id: str) -> WeftError:
    return WeftError(NOT_FOUND, f"no session of {app_id} waits to be started again", "see 'weftctl list'")
