# SPDX-License-Identifier: Apache-2.0
"""What each request does, and who hears of it: the same for both sockets."""

from collections.abc import Callable
from typing import Protocol, assert_never

from weft_runtime import store
from weft_runtime.appd.session import Session
from weft_runtime.appd.supervisor import Refused, Supervisor
from weft_runtime.protocol import (
    AppReady,
    AppState,
    DaemonStatus,
    Error,
    ErrorCode,
    InstalledApp,
    InstalledApps,
    IpcForward,
    LaunchAck,
    LaunchApp,
    NavigationGesture,
    PanelGesture,
    QueryAppState,
    QueryInstalledApps,
    QueryRunning,
    QuerySessions,
    QueryStatus,
    Reload,
    Request,
    Response,
    RunningApp,
    RunningApps,
    Sessions,
    State,
    Subscribe,
    Subscribed,
    TerminateApp,
    unknown_session,
)


class Client(Protocol):
    """A connection as the requests see it."""

    caller: str
    """Who it is, for the log."""
    may_reload: bool
    waiting_for: int | None
    """The session whose end its last request is answered with: no request after it is looked at before."""
    waiting_for_reload: bool

    def send(self, message: Response) -> None:
        """Put a message behind those that were sent before. Never blocks and never raises."""
        ...

    def hears(self, session_id: int | None) -> bool:
        """Whether it is to get pushes about a session; None stands for what is about no session."""
        ...

    def subscribe(self, session_id: int | None) -> None:
        """From now on it hears about `session_id`, or about all."""
        ...

    def resume(self) -> None:
        """The answer that it waited for is sent: go on with its requests."""
        ...


class Dispatcher:
    """Answers requests, in their order, and sends pushes to whoever hears them."""

    def __init__(self) -> None:
        self.clients: set[Client] = set()
        self.supervisor: Supervisor
        self.reload: Callable[[Client], None]
        self.status: Callable[[], DaemonStatus]

    def handle(self, request: Request, client: Client) -> None:
        """Do what `request` says and answer it: at once, or when the session has ended that it ends."""
        match request:
            case LaunchApp():
                self._launch(request, client)
            case TerminateApp():
                self._terminate(request, client)
            case QueryRunning():
                states = (State.STARTING, State.RUNNING)
                live = [session for session in self.supervisor.live if session.state in states]
                client.send(RunningApps(tuple(RunningApp(session.id, session.app_id) for session in live)))
            case QueryAppState():
                session = self.supervisor.find(request.session_id)
                client.send(AppState(request.session_id, session.state if session else State.NOT_FOUND))
            case QueryInstalledApps():
                found = store.installed(self.supervisor.stores)
                apps = (InstalledApp(app_id, app.name, app.version) for app_id, app in found.items())
                client.send(InstalledApps(tuple(apps)))
            case IpcForward():
                if self.supervisor.find(request.session_id) is None:
                    client.send(unknown_session(request.session_id))
                else:
                    message = (
                        "this release has no relay to apps: they are core modules, which cannot open sockets"
                    )
                    client.send(Error(ErrorCode.NOT_SUPPORTED, message))
            case PanelGesture():
                gesture = NavigationGesture(*request)
                client.send(gesture)
                self.push(gesture)
            case Subscribe():
                client.subscribe(request.session_id)
                client.send(Subscribed(request.session_id))
            case QuerySessions():
                sessions = [*self.supervisor.stopped, *self.supervisor.live]
                client.send(Sessions(tuple(session.info() for session in sessions)))
            case Reload():
                self._reload(client)
            case QueryStatus():
                client.send(self.status())
            case _:
                assert_never(request)

    def announce(self, message: AppReady | AppState) -> None:
        """Tell that a session is ready, or has ended: first to whoever asked for that."""
        if isinstance(message, AppState):
            for client in [client for client in self.clients if client.waiting_for == message.session_id]:
                client.waiting_for = None
                client.send(message)
                client.resume()
        self.push(message)

    def acknowledge(self, session: Session) -> None:
        """Tell that a session was launched."""
        self.push(LaunchAck(session.id, session.app_id))

    def push(self, message: LaunchAck | AppReady | AppState | NavigationGesture) -> None:
        """Send to every client that hears of it."""
        session_id = None if isinstance(message, NavigationGesture) else message.session_id
        for client in list(self.clients):
            if client.hears(session_id):
                client.send(message)

    def _launch(self, request: LaunchApp, client: Client) -> None:
        try:
            session = self.supervisor.launch(request.app_id, client.caller)
        except Refused as refusal:
            client.send(Error(refusal.code, refusal.message))
            return
        # Before anything else can happen to the session: its events come from the event loop.
        client.send(LaunchAck(session.id, session.app_id))
        self.acknowledge(session)

    def _terminate(self, request: TerminateApp, client: Client) -> None:
        session = self.supervisor.find(request.session_id)
        if session is None:
            client.send(unknown_session(request.session_id))
        elif not session.is_live:
            client.send(AppState(session.id, State.STOPPED))
        else:
            client.waiting_for = session.id
            self.supervisor.stop(session, f"terminated by {client.caller}", expected=True)

    def _reload(self, client: Client) -> None:
        if not client.may_reload:
            message = "only root and the daemon's own user may reload it, over the control socket"
            client.send(Error(ErrorCode.NOT_PERMITTED, message))
            return
        client.waiting_for_reload = True
        self.reload(client)
