# SPDX-License-Identifier: Apache-2.0
"""Questions to weft-appd, and what its refusals mean for whoever asked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from weft_runtime.client import SYSTEM_SOCKET, DaemonClient, socket_path
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.protocol import (
    Details,
    Error,
    ErrorCode,
    InstalledApps,
    QueryDetails,
    QueryInstalledApps,
    QuerySessions,
    Request,
    Response,
    SessionDetails,
    SessionInfo,
    Sessions,
)
from weft_runtime.settings import stores

ANSWER_TIMEOUT_S = 10.0
"""Seconds for an answer: each takes milliseconds, and systemd replaces a daemon that hangs."""

NOT_FOUND = Problem.PACKAGE_NOT_FOUND
"""Also for a session: what counts here is the exit status, 166."""

_PROBLEMS: Mapping[int, Problem] = {
    ErrorCode.UNKNOWN_SESSION: NOT_FOUND,
    ErrorCode.INVALID_APP_ID: Problem.USAGE,
    ErrorCode.PACKAGE_NOT_FOUND: Problem.PACKAGE_NOT_FOUND,
    ErrorCode.PACKAGE_INVALID: Problem.MANIFEST_INVALID,
    ErrorCode.CAPABILITY_REFUSED: Problem.NOT_PERMITTED,
    ErrorCode.NO_RUNTIME: Problem.ENGINE_MISSING,
    ErrorCode.SPAWN_FAILED: Problem.OS_ERROR,
    ErrorCode.TOO_MANY_SESSIONS: Problem.OS_ERROR,
    ErrorCode.NOT_PERMITTED: Problem.NOT_PERMITTED,
    ErrorCode.SHUTTING_DOWN: Problem.OS_ERROR,
    ErrorCode.TIMED_OUT: Problem.OS_ERROR,
    ErrorCode.TOO_MANY_CONNECTIONS: Problem.OS_ERROR,
}

Answer = TypeVar("Answer", bound=Response)


def connect(environ: Mapping[str, str], timeout: float | None = ANSWER_TIMEOUT_S) -> DaemonClient:
    """Raises WeftError, as DaemonClient does."""
    return DaemonClient(socket_path(environ), timeout=timeout)


def is_system(socket: Path) -> bool:
    """Whether the socket is that of the system's daemon, and not of one that a user runs."""
    return socket == SYSTEM_SOCKET


def own_store(environ: Mapping[str, str]) -> Path | None:
    """The package store of whoever runs this, which the system's daemon never looks into."""
    home = environ.get("HOME")
    return stores({"HOME": home})[0] if home else None


def ask(daemon: DaemonClient, request: Request, expected: type[Answer]) -> Answer:
    """The answer, if it is `expected`. Raises WeftError: what the daemon refuses, or that it is lost."""
    return expect(daemon.ask(request), expected)


def expect(answer: Response, expected: type[Answer]) -> Answer:
    """`answer`, if it is `expected`. Raises WeftError."""
    if isinstance(answer, expected):
        return answer
    if isinstance(answer, Error):
        raise refusal(answer)
    message = f"weft-appd answered with {type(answer).__name__}, not {expected.__name__}"
    raise WeftError(Problem.INTERNAL_ERROR, message, "is it of another version?")


def refusal(error: Error) -> WeftError:
    """The daemon's ERROR as ours."""
    # A code that is not known here comes from a newer daemon.
    return WeftError(_PROBLEMS.get(error.code, Problem.INTERNAL_ERROR), printable(error.message))


def sessions(daemon: DaemonClient) -> list[SessionInfo]:
    """All that the daemon remembers, in the order of their ids."""
    return sorted(ask(daemon, QuerySessions(), Sessions).sessions, key=lambda session: session.session_id)


def details(daemon: DaemonClient) -> dict[int, SessionDetails]:
    """What else is known of each session; nothing by a daemon of the first release, which does not know the request.

    Raises WeftError where the daemon is lost.
    """
    answer = daemon.ask(QueryDetails())
    return (
        {session.session_id: session for session in answer.sessions} if isinstance(answer, Details) else {}
    )


def installed_versions(daemon: DaemonClient) -> dict[str, str]:
    """The version of each app that it would launch, as far as it says. Raises WeftError where the daemon is lost."""
    answer = daemon.ask(QueryInstalledApps())
    return {app.app_id: app.version for app in answer.apps} if isinstance(answer, InstalledApps) else {}


def find(known: Sequence[SessionInfo], session_id: int) -> SessionInfo:
    """Raises WeftError where it is not among them."""
    for session in known:
        if session.session_id == session_id:
            return session
    raise unknown(session_id)


def unknown(session_id: int) -> WeftError:
    hint = f"'weftctl list --all' shows those that weft-appd remembers, 'weftctl logs {session_id}' what there was before"
    return WeftError(NOT_FOUND, f"there is no session {session_id}", hint)
