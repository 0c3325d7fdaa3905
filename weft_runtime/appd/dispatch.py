# SPDX-License-Identifier: Apache-2.0
"""What each request does, and who hears of it: the same for both sockets."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, assert_never, cast

from weft_runtime import store
from weft_runtime.appd import turns
from weft_runtime.appd.answers import Places, Steps
from weft_runtime.appd.keeper import Keeper
from weft_runtime.appd.launcher import Refused
from weft_runtime.appd.numbers import NotNumbered
from weft_runtime.appd.prerequisites import when_known
from weft_runtime.appd.session import Session
from weft_runtime.appd.supervisor import Supervisor
from weft_runtime.appd.turns import Turns
from weft_runtime.errors import WeftError
from weft_runtime.escape import printable
from weft_runtime.framing import frame
from weft_runtime.manifests import NotRemembered, Reading, name_and_version
from weft_runtime.protocol import (
    AppReady,
    AppState,
    DaemonSettings,
    DaemonStatus,
    Details,
    Error,
    ErrorCode,
    Forget,
    Forgotten,
    InstalledApp,
    InstalledApps,
    IpcForward,
    LaunchAck,
    LaunchApp,
    NavigationGesture,
    PanelGesture,
    QueryAppState,
    QueryDetails,
    QueryInstalledApps,
    QueryRunning,
    QuerySessions,
    QuerySettings,
    QueryStatus,
    QueryWaiting,
    RefusedList,
    Reload,
    Request,
    Response,
    Restore,
    Restoring,
    RunningApp,
    RunningApps,
    Sessions,
    State,
    Subscribe,
    Subscribed,
    TerminateApp,
    Waiting,
    unknown_session,
)
from weft_runtime.wire import encode_json, encode_msgpack

if TYPE_CHECKING:
    from weft_runtime.appd.restorer import Restorer

FLUSHES_MAX = 32
"""Clients that one callback sends a push to: each takes the kernel some 10 microseconds, and wakes a process."""

INFO_BYTES = 256
"""What is copied of a session that lives for an answer that tells of it, in bytes of memory."""


class Push:
    """A message for many clients, encoded once for all that share an encoding."""

    def __init__(self, message: LaunchAck | AppReady | AppState | NavigationGesture) -> None:
        self.message = message
        self._frame: bytes | None = None
        self._text: str | None = None

    @property
    def frame(self) -> bytes:
        """As the control socket sends it."""
        if self._frame is None:
            self._frame = frame(encode_msgpack(self.message))
        return self._frame

    @property
    def text(self) -> str:
        """As the WebSocket sends it."""
        if self._text is None:
            self._text = encode_json(self.message)
        return self._text


class Client(turns.Client, Protocol):
    """A connection as the requests see it. It asks `Dispatcher.turns` for a turn for each request."""

    may_reload: bool
    waiting_for: int | None
    """The session whose end its last request is answered with: no request after it is looked at before."""
    waiting_for_reload: bool

    @property
    def caller(self) -> str:
        """Who it is, for the log."""
        ...

    def send(self, message: Response) -> None:
        """Put a message behind those that were sent before. Never blocks and never raises."""
        ...

    def begin(self, steps: Steps, snapshot: int = 0) -> None:
        """Make the answer to its last request in its next turns, by a LongAnswer: no request after it is looked at
        before, and what is sent meanwhile comes behind it. What it is made from takes `snapshot` bytes."""
        ...

    def put(self, push: Push) -> None:
        """The same as `send`, but it may wait for `flush`, which is called soon."""
        ...

    def flush(self) -> None:
        """Send what was put. Never blocks and never raises."""
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

    def give_up(self, answer: Error) -> None:
        """Nobody knows how far its last request came: say so, and end the connection."""
        ...


class Dispatcher:
    """Answers requests, in their order, and sends pushes to whoever hears them."""

    def __init__(self) -> None:
        self.clients: set[Client] = set()
        self.turns = Turns(self._failed)
        self._places = Places()
        self._to_flush: dict[Client, None] = {}
        """Those that something was put for: in order, and each once."""
        self._flush_is_planned = False
        self.supervisor: Supervisor
        self.restorer: Restorer
        self.keeper: Keeper
        self.reload: Callable[[Client], None]
        self.status: Callable[[], DaemonStatus]
        self.settings: Callable[[], DaemonSettings]
        self.failed: Callable[[Client, BaseException], None]

    def _failed(self, client: turns.Client, error: BaseException) -> None:
        self.failed(cast(Client, client), error)

    def handle(self, request: Request, client: Client) -> None:
        """Do what `request` says and answer it: at once, or when the session has ended that it ends."""
        match request:
            case LaunchApp():
                try:
                    self._launch(request, client)
                except (NotRemembered, NotNumbered) as missing:
                    client.begin(self._launch_when_known(request, client, missing))
            case TerminateApp():
                self._terminate(request, client)
            case QueryRunning():
                self._begin(client, self._running())
            case QueryAppState():
                session = self.supervisor.find(request.session_id)
                client.send(AppState(request.session_id, session.state if session else State.NOT_FOUND))
            case QueryInstalledApps():
                self._begin(client, self._installed())
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
                self._begin(client, self._sessions(), INFO_BYTES * len(self.supervisor.live))
            case Reload():
                self._reload(client)
            case QueryStatus():
                client.send(self.status())
            case QueryDetails():
                self._begin(client, self._details())
            case QuerySettings():
                client.send(self.settings())
            case QueryWaiting():
                self._begin(client, self._waiting())
            case Restore():
                client.begin(self._restore(request.app_id))
            case Forget():
                client.begin(self._forget(request.app_id))
            case _:
                assert_never(request)

    def announce(self, message: AppReady | AppState) -> None:
        """Tell that a session is ready, or has ended: first to whoever asked for that."""
        waiting: list[Client] = []
        if isinstance(message, AppState):
            waiting = [client for client in self.clients if client.waiting_for == message.session_id]
            if waiting:
                # To each of them the answer comes first, and is true once the list is saved.
                self.keeper.when_saved(lambda: self._answer_end(message, waiting))
        self.push(message, besides=waiting)

    def _answer_end(self, message: AppState, clients: Iterable[Client]) -> None:
        """Tell those who have asked for the end of a session that it has ended, and is not started again."""
        push, number = Push(message), message.session_id
        there = [client for client in clients if client in self.clients and client.waiting_for == number]
        for client in there:
            client.waiting_for = None
            client.resume()
            if client.hears(number):
                client.put(push)
        self._send(push, there)

    def answer_ends(self) -> None:
        """After a reload: answer who waits for the end of a session that ended just before it."""
        for client in list(self.clients):
            if client.waiting_for is None:
                continue
            session = self.supervisor.find(client.waiting_for)
            if session is None or not session.is_live:
                self.announce(AppState(client.waiting_for, State.STOPPED))

    def acknowledge(self, session: Session, client: Client | None = None) -> None:
        """Tell that a session was launched: first `client`, which has asked for that, in one piece with the push to it."""
        push = Push(LaunchAck(session.id, session.app_id))
        hearing = [each for each in self.clients if each.hears(session.id)]
        if client is not None:
            client.put(push)
            if client in hearing:
                hearing.remove(client)
                client.put(push)
            client.flush()
        self._send(push, hearing)

    def push(
        self, message: AppReady | AppState | NavigationGesture, besides: Collection[Client] = ()
    ) -> None:
        """Send to every client that hears of it, `besides` those who hear of it otherwise."""
        session_id = None if isinstance(message, NavigationGesture) else message.session_id
        hearing = [client for client in self.clients if client.hears(session_id) and client not in besides]
        self._send(Push(message), hearing)

    def _send(self, push: Push, clients: Iterable[Client]) -> None:
        for client in clients:
            client.put(push)
            self._to_flush[client] = None
        if not self._flush_is_planned:
            self._flush()

    def forget(self, client: Client) -> None:
        """Its connection is closed."""
        self.clients.discard(client)
        self.turns.leave(client)
        self._to_flush.pop(client, None)

    def _flush(self) -> None:
        for _ in range(min(FLUSHES_MAX, len(self._to_flush))):
            client = next(iter(self._to_flush))
            del self._to_flush[client]
            client.flush()
            if not self._to_flush:
                break
        self._flush_is_planned = bool(self._to_flush)
        if self._flush_is_planned:
            asyncio.get_running_loop().call_soon(self._flush)

    # Answers that may be long. What they tell of sessions is as it was when the request was looked at: so the snapshot is
    # taken at once, and what is pushed from then on comes behind the answer.

    def _begin(self, client: Client, steps: Steps, snapshot: int = 0) -> None:
        client.begin(self._places.when_free(client.owner, steps), snapshot)

    def _running(self) -> Steps:
        states = (State.STARTING, State.RUNNING)
        live = [session for session in self.supervisor.live if session.state in states]

        def steps() -> Steps:
            yield None
            return RunningApps(tuple(RunningApp(session.id, session.app_id) for session in live))

        return steps()

    def _sessions(self) -> Steps:
        stopped = self.supervisor.stopped  # they do not change any more
        live = [session.info() for session in self.supervisor.live]

        def steps() -> Steps:
            infos = []
            for session in stopped:
                infos.append(session.info())
                yield None
            return Sessions((*infos, *live))

        return steps()

    def _details(self) -> Steps:
        # What they use is looked at in between: it is a moment's anyhow.
        sessions = (*self.supervisor.stopped, *self.supervisor.live)

        def steps() -> Steps:
            found = []
            for session in sessions:
                found.append(session.details(self.supervisor.use(session)))
                yield None
            return Details(tuple(found))

        return steps()

    def _installed(self) -> Steps:
        apps, known = [], self.supervisor.packages.manifests
        for package in store.packages(self.supervisor.packages.stores):
            yield None
            if package is None:
                continue
            app_id, directory = package
            try:
                listed = store.read_by(directory, known.recall_listed)
            except NotRemembered:
                try:
                    listed = name_and_version((yield from self._read(directory)))
                except WeftError:
                    continue
            except WeftError:
                continue
            if listed is not None:
                apps.append(InstalledApp(app_id, *listed))
        return InstalledApps(tuple(apps))

    def _read(self, directory: Path) -> Generator[asyncio.Future[Reading], None, Reading]:
        reading = self.supervisor.packages.read(directory)
        yield reading
        return reading.result()

    def _launch_when_known(
        self, request: LaunchApp, client: Client, missing: NotRemembered | NotNumbered
    ) -> Steps:
        def launch(reading: Reading | None) -> None:
            self._launch(request, client, reading)

        needed = when_known(launch, self.supervisor.packages, self.supervisor.numbers, missing)
        try:
            yield from needed
        except Refused as refusal:
            return Error(refusal.code, refusal.message)
        return None

    def _launch(self, request: LaunchApp, client: Client, reading: Reading | None = None) -> None:
        try:
            session = self.supervisor.launch(request.app_id, client.caller, reading)
        except Refused as refusal:
            client.send(Error(refusal.code, refusal.message))
            return
        self.restorer.replaced_by(session)
        # Before anything else can happen to the session: its events come from the event loop.
        self.acknowledge(session, client)

    def _terminate(self, request: TerminateApp, client: Client) -> None:
        session = self.supervisor.find(request.session_id)
        if session is None:
            client.send(unknown_session(request.session_id))
        elif not session.is_live:
            client.send(AppState(session.id, State.STOPPED))
        else:
            client.waiting_for = session.id
            self.restorer.forget_session(session.id)
            self.supervisor.stop(session, client.caller)
            # From now on it is on the list no more, whatever becomes of the daemon.
            self.keeper.save(at_once=True)

    # What waits to be started again

    def _waiting(self) -> Steps:
        apps = yield from self.restorer.describe()
        return Waiting(apps, self._refused(), self.keeper.problem)

    def _restore(self, app_id: str | None) -> Steps:
        chosen = self.restorer.hurry(app_id)
        if app_id is None:
            reading = self.keeper.read_refused()
            yield reading
            wanted, lists = reading.result()
            chosen += self.restorer.add_missing(wanted)
            yield self.keeper.saved()
            if self.keeper.problem is None:
                yield from self._drop(lists)
        return Restoring(tuple(chosen), self._refused(), self.keeper.problem)

    def _forget(self, app_id: str | None) -> Steps:
        chosen = self.restorer.forget(app_id)
        lists: list[str] = []
        if app_id is None:
            reading = self.keeper.read_refused()
            yield reading
            lists = [*self.keeper.refused]
            yield from self._drop(lists)
        yield self.keeper.saved()
        left = self.keeper.refused
        removed = tuple(path for path in lists if path not in left)
        return Forgotten(tuple(chosen), removed, self._refused(), self.keeper.problem)

    def _drop(self, lists: list[str]) -> Steps:
        dropping = self.keeper.drop_refused(lists)
        yield dropping
        with contextlib.suppress(OSError):  # what is left is told
            dropping.result()
        return None

    def _refused(self) -> tuple[RefusedList, ...]:
        return tuple(RefusedList(printable(path), why) for path, why in self.keeper.refused.items())

    def _reload(self, client: Client) -> None:
        if not client.may_reload:
            message = "only root and the daemon's own user may reload it, over the control socket"
            client.send(Error(ErrorCode.NOT_PERMITTED, message))
            return
        client.waiting_for_reload = True
        self.reload(client)
