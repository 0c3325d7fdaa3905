# SPDX-License-Identifier: Apache-2.0
"""How a session ends that has followed a plan, where there is more to say than the app's own exit status."""

from collections.abc import Callable
from typing import NamedTuple, NoReturn

from weft_runtime import settings
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.notify import open_notifier
from weft_runtime.runtime import engine, program, session
from weft_runtime.runtime.ending import Ending, Outcome, exited, status_line
from weft_runtime.runtime.engine import GuestEnd
from weft_runtime.thin.session import Failed


class Service(NamedTuple):
    """A run without a supervisor."""

    version: str
    """Of the app."""
    is_notifying: bool
    """Whether the service manager is told."""


def tell(about: dict[str, str], failed: Failed, service: Service | None = None) -> NoReturn:
    """End the process, whose app has `failed`; `about` is what each entry of the log has."""

    def outcome() -> Outcome:
        if failed.cause is not None:
            raise from_os_error("write READY to standard output", failed.cause)
        where, end = failed.where.decode(), engine.raised(failed.error, failed.trap)
        if isinstance(end, GuestEnd):
            end.memory = engine.about_memory(end, failed.memory)
        return session.outcome(end, where)

    _end(about, outcome, service)


def tell_exit(about: dict[str, str], status: int) -> NoReturn:
    """End the process, whose app has exited by itself."""
    _end(about, lambda: exited(status))


def tell_error(error: Exception) -> NoReturn:
    """End the process, which could not become a session for `error`."""

    def outcome() -> Outcome:
        if isinstance(error, OSError):
            raise from_os_error("become a session", error)
        raise error

    _end({}, outcome)


def refuse(message: str) -> NoReturn:
    """End the process, which cannot do what its command line says."""

    def course(ending: Ending) -> Outcome:
        raise WeftError(Problem.USAGE, message)

    program.conclude(course)


def _end(about: dict[str, str], outcome: Callable[[], Outcome], service: Service | None = None) -> NoReturn:
    def course(ending: Ending) -> Outcome:
        environment = program.prepare(ending, about).environment
        if service is not None:
            notifier = open_notifier(
                ending.log, wanted=service.is_notifying, notify_socket=environment.notify_socket
            )
            ending.last_words = lambda last: notifier.send("STOPPING=1", status_line(last, service.version))
        ending.is_supervised = ending.report_fd is not None and settings.is_supervised()
        return outcome()

    program.conclude(course)
