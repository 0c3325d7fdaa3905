# SPDX-License-Identifier: Apache-2.0
"""What runs, or ran: sessions and services alike, with all that is known of each from wherever it is known."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from weft_runtime.client import DaemonClient, socket_path
from weft_runtime.ctl import restore, services
from weft_runtime.ctl.daemon import connect, details, installed_versions, is_system, sessions
from weft_runtime.ctl.services import Service
from weft_runtime.errors import WeftError
from weft_runtime.protocol import SessionDetails, SessionInfo, State, Waiting, WaitingApp


class Kind(StrEnum):
    SESSION = "session"
    """A process of weft-appd."""
    SERVICE = "service"
    """A weft-app@ of systemd."""


class Running(NamedTuple):
    """One of them. Times are Unix seconds; the first ten are those of a session in the first release.

    What is None is not known, or there is none.
    """

    session_id: int | None
    app_id: str
    state: str
    pid: int | None
    launched: float | None
    ready: float | None
    stopped: float | None
    exit_status: int | None
    signal: str | None
    reason: str | None
    kind: Kind
    version: str | None
    """The one that runs."""
    installed_version: str | None
    """The one that the next start would run."""
    since: float | None
    """When it got into its state."""
    restarts: int | None
    """By systemd; weft-appd restarts nothing."""
    memory: int | None
    """Bytes."""
    memory_peak: int | None
    cpu: float | None
    """Seconds."""
    launched_by: str | None
    package: str | None
    data: str | None
    """Directories."""
    unit: str | None
    enabled: bool | None
    """Whether the service starts at boot."""

    @property
    def is_live(self) -> bool:
        return self.state not in (services.STOPPED, services.FAILED)

    @property
    def is_outdated(self) -> bool:
        """Whether its next start would run another version."""
        return None not in (self.version, self.installed_version) and self.version != self.installed_version

    def to_json(self) -> dict[str, object]:
        return self._asdict()


class Overview(NamedTuple):
    """All that runs, ran, or was said of it by systemd: sessions first, by number."""

    items: Sequence[Running]
    daemon_problem: WeftError | None
    """Why weft-appd could not be asked."""
    services_problem: WeftError | None
    """Why systemd could not be asked."""
    has_services: bool
    """Whether services were looked for: those of the system belong beside the system's daemon."""
    waiting: Waiting = restore.NONE
    """Sessions that are still to be started again, which are among `items` too, and what else is with their list."""

    def of_app(self, app_id: str) -> list[Running]:
        return [item for item in self.items if item.app_id == app_id]

    @property
    def services(self) -> list[Running]:
        return [item for item in self.items if item.kind is Kind.SERVICE]


def overview(environ: Mapping[str, str]) -> Overview:
    """Ask weft-appd and systemd. Raises nothing for what cannot be asked: it is part of the answer."""
    found: list[Running] = []
    daemon_problem = services_problem = None
    waiting = restore.NONE
    try:
        with connect(environ) as daemon:
            found += of_daemon(daemon)
            waiting = restore.waiting(daemon)
            found += [of_waiting(app) for app in waiting.apps]
    except WeftError as error:
        daemon_problem = error
    has_services = is_system(socket_path(environ))
    if has_services:
        try:
            found += [of_service(service) for service in services.find(environ)]
        except WeftError as error:
            services_problem = error
    return Overview(found, daemon_problem, services_problem, has_services, waiting)


def of_daemon(daemon: DaemonClient) -> list[Running]:
    """All sessions that it remembers. Raises WeftError."""
    known = sessions(daemon)
    if not known:
        return []
    more, versions = details(daemon), installed_versions(daemon)
    return [
        of_session(session, more.get(session.session_id), versions.get(session.app_id)) for session in known
    ]


def of_session(session: SessionInfo, more: SessionDetails | None, installed: str | None) -> Running:
    since = {State.STARTING: session.launched, State.RUNNING: session.ready, State.STOPPED: session.stopped}
    return Running(
        *session,
        kind=Kind.SESSION,
        version=more and more.version,
        installed_version=installed,
        since=since.get(session.state),
        restarts=None,
        memory=more and more.memory,
        memory_peak=more and more.memory_peak,
        cpu=more and more.cpu,
        launched_by=more and more.launched_by,
        package=more and more.package,
        data=more and more.data,
        unit=None,
        enabled=None,
    )


def of_waiting(app: WaitingApp) -> Running:
    """A session that is still to be."""
    absent = dict.fromkeys(Running._fields)
    known = {"app_id": app.app_id, "state": restore.STATE, "reason": restore.why(app), "since": app.since}
    return Running(**{**absent, **known, "kind": Kind.SESSION})  # type: ignore[arg-type] # by their names


def of_service(service: Service) -> Running:
    return Running(
        session_id=None,
        app_id=service.app_id,
        state=service.state,
        pid=service.pid,
        launched=service.launched,
        ready=service.ready,
        stopped=service.stopped,
        exit_status=service.exit_status,
        signal=service.signal,
        reason=service.reason,
        kind=Kind.SERVICE,
        version=service.version,
        installed_version=services.installed_version(service.app_id),
        since=service.since,
        restarts=service.restarts,
        memory=service.memory,
        memory_peak=service.memory_peak,
        cpu=service.cpu,
        launched_by=None,
        package=None,
        data=str(services.STATE_DIRECTORY / service.app_id),
        unit=service.unit,
        enabled=service.is_enabled,
    )
