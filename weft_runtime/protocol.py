# SPDX-License-Identifier: Apache-2.0
"""The control protocol: its messages, and what is said about those that are none.

A message is one class here, named in `Request` or `Response`. Its tag is the name of the class (LaunchApp is
LAUNCH_APP), its fields are the annotations in the order of the wire; `wire.py` makes everything else out of these.
docs/protocol.md says what they mean. They are tuples: look at the class first, `TerminateApp(7)` equals
`QueryAppState(7)`, and those without fields are false.
"""

from enum import IntEnum, StrEnum
from typing import Annotated, NamedTuple


class ErrorCode(IntEnum):
    """What an ERROR is about; only the first is known to clients of the existing system."""

    meaning: str

    UNKNOWN_SESSION = 1, "no session has this id"
    BAD_REQUEST = 2, "the request cannot be decoded"
    FRAME_TOO_LARGE = 3, "the frame is longer than the limit"
    INVALID_APP_ID = 4, "the app id does not follow the rule"
    PACKAGE_NOT_FOUND = 5, "no store has a package of this name, or its module is not there"
    PACKAGE_INVALID = 6, "the package is there but cannot run"
    CAPABILITY_REFUSED = 7, "the package asks for a capability that it does not get"
    NO_RUNTIME = 8, "there is no runtime to start apps with"
    SPAWN_FAILED = 9, "the process could not be started"
    TOO_MANY_SESSIONS = 10, "as many sessions live as are allowed"
    NOT_SUPPORTED = 11, "this release does not serve the request"
    NOT_PERMITTED = 12, "this client may not ask for that"
    SHUTTING_DOWN = 13, "the daemon is ending"
    RELOAD_FAILED = 14, "the daemon could not be reloaded and goes on as it was"
    TIMED_OUT = 15, "the connection was idle, or had half a frame waiting, for too long"
    TOO_MANY_CONNECTIONS = 16, "there are as many connections as are allowed, in all or of one user"
    INTERNAL = 17, "a fault of the daemon kept it from answering; its log has more"

    def __new__(cls, value: int, meaning: str) -> "ErrorCode":
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class ProtocolError(ValueError):
    """Something that came from the other side is refused; the text is one line and safe to show."""

    code = ErrorCode.BAD_REQUEST


class State(StrEnum):
    """A session's state; the last one is only ever an answer."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    NOT_FOUND = "not_found"


# The types of fields: these, str, float (64 bits), State, any of them or None, and tuples of records or str.
U32 = Annotated[int, "u32"]
U64 = Annotated[int, "u64"]


class LaunchApp(NamedTuple):
    app_id: str
    surface_id: U64


class TerminateApp(NamedTuple):
    session_id: U64


class QueryRunning(NamedTuple):
    pass


class QueryAppState(NamedTuple):
    session_id: U64


class QueryInstalledApps(NamedTuple):
    pass


class IpcForward(NamedTuple):
    session_id: U64
    payload: str


class PanelGesture(NamedTuple):
    gesture_type: U32
    fingers: U32
    dx: float
    dy: float


class Subscribe(NamedTuple):
    """Ours: send this connection the pushes of one session, or of all."""

    session_id: U64 | None


class QuerySessions(NamedTuple):
    """Ours: every session that is remembered, with all that is known."""


class Reload(NamedTuple):
    """Ours: read the settings again and go on with them."""


class QueryStatus(NamedTuple):
    """Ours: what the daemon says of itself."""


class QueryDetails(NamedTuple):
    """Ours: what QUERY_SESSIONS leaves out about each of its sessions."""


class QuerySettings(NamedTuple):
    """Ours: the settings that the daemon goes by."""


class QueryWaiting(NamedTuple):
    """Ours: which apps wait to be started again, and why."""


class Restore(NamedTuple):
    """Ours: start what waits of an app now; or all, and what the lists have that were refused."""

    app_id: str | None


class Forget(NamedTuple):
    """Ours: do not start again what waits of an app; or nothing, and remove the lists that were refused."""

    app_id: str | None


Request = (
    LaunchApp | TerminateApp | QueryRunning | QueryAppState | QueryInstalledApps | IpcForward | PanelGesture
    | Subscribe | QuerySessions | Reload | QueryStatus | QueryDetails | QuerySettings | QueryWaiting | Restore | Forget
)  # fmt: skip


class LaunchAck(NamedTuple):
    session_id: U64
    app_id: str


class AppReady(NamedTuple):
    session_id: U64
    app_id: str


class RunningApp(NamedTuple):
    session_id: U64
    app_id: str


class RunningApps(NamedTuple):
    sessions: tuple[RunningApp, ...]


class AppState(NamedTuple):
    session_id: U64
    state: State


class InstalledApp(NamedTuple):
    app_id: str
    name: str
    version: str


class InstalledApps(NamedTuple):
    apps: tuple[InstalledApp, ...]


class IpcMessage(NamedTuple):
    session_id: U64
    payload: str


class NavigationGesture(NamedTuple):
    gesture_type: U32
    fingers: U32
    dx: float
    dy: float


class Error(NamedTuple):
    code: U32
    message: str


class Subscribed(NamedTuple):
    session_id: U64 | None


class SessionInfo(NamedTuple):
    """Times are Unix seconds."""

    session_id: U64
    app_id: str
    state: State
    pid: U64 | None
    launched: float
    ready: float | None
    stopped: float | None
    exit_status: U64 | None
    signal: str | None
    reason: str | None


class Sessions(NamedTuple):
    sessions: tuple[SessionInfo, ...]


class Reloaded(NamedTuple):
    version: str


class LimitInfo(NamedTuple):
    """A setting that bounds something: its name and its value as text."""

    name: str
    value: str


class DaemonStatus(NamedTuple):
    """Either `runtime` or what is wrong with it is nil; `controllers` are those that sessions are bounded by.

    `fork_server` is its process number, nil where sessions are executed; `spares` processes wait for a session.
    """

    version: str
    pid: U64
    since: float
    runtime: str | None
    runtime_problem: str | None
    live: U64
    starting: U64
    clients: U64
    log: str
    limits: tuple[LimitInfo, ...]
    controllers: tuple[str, ...]
    fork_server: U64 | None
    spares: U64


class SessionDetails(NamedTuple):
    """What is nil is not known; `memory` is that of now, in bytes, and `cpu` what was used so far, in seconds."""

    session_id: U64
    version: str | None
    launched_by: str | None
    package: str | None
    data: str | None
    memory: U64 | None
    memory_peak: U64 | None
    cpu: float | None


class Details(NamedTuple):
    sessions: tuple[SessionDetails, ...]


class DaemonSettings(NamedTuple):
    """All of them, each as text that it would take."""

    settings: tuple[LimitInfo, ...]


class WaitingApp(NamedTuple):
    """`reason` is nil before the first attempt, `due` where only RESTORE tries it; times are Unix seconds."""

    app_id: str
    reason: str | None
    since: float
    attempts: U64
    due: float | None


class RefusedList(NamedTuple):
    """A file with apps that are not started again, and why."""

    path: str
    reason: str


class Waiting(NamedTuple):
    """`problem` says why the list on the disk is not as it should be."""

    apps: tuple[WaitingApp, ...]
    refused: tuple[RefusedList, ...]
    problem: str | None


class Restoring(NamedTuple):
    """The apps that are tried now, and the lists that cannot be used."""

    apps: tuple[str, ...]
    refused: tuple[RefusedList, ...]
    problem: str | None


class Forgotten(NamedTuple):
    """The apps that are not started again, the lists that were removed, and those that could not be."""

    apps: tuple[str, ...]
    lists: tuple[str, ...]
    refused: tuple[RefusedList, ...]
    problem: str | None


Response = (
    LaunchAck | AppReady | RunningApps | AppState | InstalledApps | IpcMessage | NavigationGesture | Error
    | Subscribed | Sessions | Reloaded | DaemonStatus | Details | DaemonSettings | Waiting | Restoring | Forgotten
)  # fmt: skip


def unknown_session(session_id: int) -> Error:
    """The one ERROR of the existing system, in its words."""
    return Error(ErrorCode.UNKNOWN_SESSION, f"session {session_id} not found")
