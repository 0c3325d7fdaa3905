# SPDX-License-Identifier: Apache-2.0
"""The command that starts a session, or all of an app, anew: with the version that is installed now."""

from collections.abc import Mapping, Sequence

from weft_runtime.client import socket_path
from weft_runtime.ctl import services, words
from weft_runtime.ctl.commands import terminate
from weft_runtime.ctl.daemon import NOT_FOUND, connect, find, is_system, sessions
from weft_runtime.ctl.launch import start_and_wait
from weft_runtime.ctl.screen import Screen
from weft_runtime.ctl.services import Refused, Service, systemctl
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.ids import AppId, SessionId
from weft_runtime.protocol import SessionInfo, State

_NOT_PERMITTED = ("authentication required", "access denied", "permission denied", "not permitted")
"""Parts of what systemctl says where polkit, or the bus, says no."""


def restart(screen: Screen, environ: Mapping[str, str], target: SessionId | AppId) -> int:
    """Restart it; of an app each session and the service, unless somebody has stopped that.

    Returns the exit status: that of the session that did not get ready again, if one did not. Raises WeftError where
    nothing of the app runs, and after the rest where the service is not restarted.
    """
    problem: WeftError | None = None
    service = None if isinstance(target, SessionId) else _service(environ, target)
    try:
        with connect(environ) as daemon:
            known = sessions(daemon)
    except WeftError as error:
        if service is None:
            raise
        known, problem = [], error
    if isinstance(target, SessionId):
        chosen = [find(known, target)]
    else:
        chosen = [item for item in known if item.app_id == target and item.state is not State.STOPPED]
        if not chosen and service is None and problem is None:
            hint = f"'weftctl launch {target}' starts one"
            raise WeftError(NOT_FOUND, f"nothing of {target} is running", hint)
    done: list[dict[str, object]] = []
    status = 0
    if service is not None:
        try:
            _restart_service(environ, service)
            done.append({"kind": "service", "app_id": service.app_id, "unit": service.unit})
            if not screen.as_json:
                screen.line(f"{service.unit} is restarted")
        except WeftError as error:
            problem = problem or error
    # One after the other: where the app does not start any more, the others go on.
    for session in chosen:
        try:
            status = _replace(screen, environ, session, done)
        except WeftError as error:
            status, problem = error.exit_status, error
        if status:
            break
    if screen.as_json:
        screen.json(done)
    if problem is not None:
        raise problem
    return status


def _service(environ: Mapping[str, str], app_id: AppId) -> Service | None:
    """The app's service, if it runs or would if it could: one that was stopped stays stopped."""
    if not is_system(socket_path(environ)):
        return None
    service = services.of_app(environ, app_id)
    return None if service is None or service.state == services.STOPPED else service


def _restart_service(environ: Mapping[str, str], service: Service) -> None:
    """Raises WeftError: NOT_PERMITTED for who may not, OS_ERROR where it does not start."""
    commands: Sequence[Sequence[str]] = [["restart", service.unit]]
    if service.restarts or service.state == services.FAILED:
        # After too many failures in a row systemd would refuse.
        commands = [["reset-failed", service.unit], *commands]
    try:
        for command in commands:
            systemctl(environ, *command)
    except Refused as refusal:
        if any(word in str(refusal).lower() for word in _NOT_PERMITTED):
            message, hint = (
                f"only root may restart {service.unit}",
                f"as root: 'systemctl restart {service.unit}'",
            )
            raise WeftError(Problem.NOT_PERMITTED, message, hint) from None
        hint = f"'weftctl status {service.app_id}' says why"
        raise WeftError(Problem.OS_ERROR, printable(str(refusal)), hint) from None


def _replace(
    screen: Screen, environ: Mapping[str, str], before: SessionInfo, done: list[dict[str, object]]
) -> int:
    """End a session, if it lives, and launch its app again; returns the exit status. Raises WeftError."""
    if before.state is not State.STOPPED:
        terminate(environ, [before.session_id])
    try:
        after, status = start_and_wait(screen, environ, AppId(before.app_id))
    except WeftError as error:
        message = f"{words.who(before.session_id, before.app_id)} has ended, and there is no new one: {error.message}"
        raise WeftError(error.problem, message, error.hint) from None
    done.append({"kind": "session", **after._asdict(), "replaces": before.session_id})
    if screen.as_json:
        return status
    name = words.who(after.session_id, after.app_id)
    if status:
        when = "before READY" if after.ready is None else "right after READY"
        screen.note(f"{name} ended {when}: {words.how_it_ended(after)}")
    else:
        screen.line(f"{name} replaces session {before.session_id}")
    return status
