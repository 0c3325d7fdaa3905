# SPDX-License-Identifier: Apache-2.0
"""A real weft-appd in a directory of its own, and a subscribed client that has it launch apps."""

import os
import select
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State as WebSocketState
from websockets.uri import parse_uri

from bench import machine
from bench.journal import Journal
from bench.measure import BenchError
from weft_runtime.client import DaemonClient
from weft_runtime.framing import REPLY_MAX, FrameReader, frame
from weft_runtime.protocol import (
    AppReady,
    AppState,
    Error,
    LaunchAck,
    LaunchApp,
    QuerySessions,
    Request,
    Response,
    Sessions,
    State,
    Subscribe,
)
from weft_runtime.wire import decode_response_json, decode_response_msgpack, encode_json, encode_msgpack

START_S = 60
POLL_S = 0.01
READ_SIZE = 64 * 1024
SETTINGS = {
    "WEFT_RESTORE": "false",
    # A machine that is asked for more than it can do is slow: no app has failed, and no client is gone.
    "WEFT_READY_TIMEOUT": "600",
    "WEFT_IDLE_TIMEOUT": "86400",
}
"""Of every daemon that is measured."""

CHEAP_RUNTIME = Path(__file__).with_name("runtime.sh")


class Appd:
    """The daemon; it runs as long as the context manager."""

    def __init__(
        self,
        directory: Path,
        store: Path,
        runtime: Path,
        journal: Journal | None,
        settings: Mapping[str, str] = {},
        *,
        command: Path | None = None,
    ) -> None:
        """Raises BenchError unless it serves. Without a journal it logs to a file in `directory`.

        `settings` are its $WEFT_*, and `command` is the program itself, if it is another one.
        """
        self.socket = directory / "run/weft/appd.sock"
        self._port_file = directory / "run/weft/appd.wsport"
        (directory / "run").mkdir(parents=True)
        (directory / "appd.toml").touch()
        environment = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "XDG_RUNTIME_DIR": os.fspath(directory / "run"),
            "WEFT_APP_STORE": os.fspath(store),
            "WEFT_DATA_ROOT": os.fspath(directory / "data"),
            "XDG_CACHE_HOME": os.fspath(directory / "cache"),
            "WEFT_RUNTIME_BIN": os.fspath(runtime),
            "WEFT_APPD_WS_PORT": "off",
            "WEFT_LOG": "stderr" if journal is None else "journal",
            **SETTINGS,
        }
        log = directory / "log"
        with log.open("wb") as file:
            # nsenter executes the command: the process is the daemon.
            self._process = subprocess.Popen(
                [
                    *(() if journal is None else journal.inside),
                    command or machine.daemon_command(),
                    "--config",
                    directory / "appd.toml",
                ],
                env={**environment, **settings},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self.pid = self._process.pid
        deadline = time.monotonic() + START_S
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise BenchError(f"weft-appd does not start: {log.read_text(errors='replace').strip()}")
            time.sleep(POLL_S)
        self.client = Client(self.socket)

    @property
    def port(self) -> int:
        deadline = time.monotonic() + START_S
        while not self._port_file.exists():  # its sockets are there before it serves
            if time.monotonic() > deadline:
                raise BenchError("weft-appd has no WebSocket")
            time.sleep(POLL_S)
        return int(self._port_file.read_text())

    def _serves(self) -> bool:
        with socket.socket(socket.AF_UNIX) as trial:
            return trial.connect_ex(os.fspath(self.socket)) == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait()


class Client:
    """A subscribed connection, which launches apps and hears what becomes of them, and of those of others meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = self._connect()
        self._reader = FrameReader(limit=REPLY_MAX)
        self._begun = 0
        self.unacknowledged: deque[int] = deque()
        self.newest = 0
        self._starting: dict[int, int] = {}
        self.live: dict[int, str] = {}
        """The app of each session that was acknowledged and has not stopped."""
        self._send(Subscribe(None))

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.fspath(self._path))
        return connection

    def close(self) -> None:
        self._socket.close()

    def launch(self, app_id: str) -> int:
        """Ask for a launch; the number by which `poll` calls it."""
        self._send(LaunchApp(app_id, 0))
        self._begun += 1
        self.unacknowledged.append(self._begun)
        return self._begun

    @property
    def in_flight(self) -> int:
        """Launches that have not ended."""
        return len(self.unacknowledged) + len(self.live)

    def poll(self, seconds: float) -> list[tuple[int, float]]:
        """Wait for a message; which launches are ready, and since when. Raises BenchError if one fails."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return []
        data = self._socket.recv(READ_SIZE)
        now = time.monotonic()
        if not data:
            raise BenchError("weft-appd closed the connection")
        return [(key, now) for message in self._messages(data) if (key := self._take(message)) is not None]

    def catch_up(self, other: "Client") -> None:
        """Hear all of the launches of `other`, which have ended: before one of our own, which is the next new one."""
        while self.newest < other.newest or self.live:
            self.poll(START_S)

    def _send(self, request: Request) -> None:
        self._socket.sendall(frame(encode_msgpack(request)))

    def _messages(self, data: bytes) -> list[Response]:
        """What is complete by these bytes."""
        return [decode_response_msgpack(body) for body in self._reader.feed(data)]

    def _take(self, message: Response) -> int | None:
        """Note what a message says; the launch that it calls ready."""
        match message:
            case LaunchAck(session, app_id) if session > self.newest:
                # It comes twice, as our answer and as what every subscriber is told.
                self.newest = session
                if self.unacknowledged:
                    self._starting[session] = self.unacknowledged.popleft()
                self.live[session] = app_id
            case AppReady(session, _):
                return self._starting.pop(session, None)
            case AppState(session, State.STOPPED):
                if session in self._starting:
                    why = self._reason(session)
                    raise BenchError(f"{self.live[session]} ended before it was ready: {why}")
                del self.live[session]
            case Error(_, text):
                raise BenchError(f"weft-appd refuses: {text}")
        return None

    def _reason(self, session_id: int) -> str:
        with DaemonClient(self._path, timeout=START_S) as other:
            answer = other.ask(QuerySessions())
        assert isinstance(answer, Sessions)
        return next(str(session.reason) for session in answer.sessions if session.session_id == session_id)


class WebSocketClient(Client):
    """The same by the other door."""

    def __init__(self, path: Path, port: int) -> None:
        """`path` is the control socket, for questions."""
        self._port = port
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/"))
        super().__init__(path)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port))
        # The daemon's part is measured, not what our own kernel holds back.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._protocol.send_request(self._protocol.connect())
        connection.sendall(b"".join(self._protocol.data_to_send()))
        while self._protocol.state is WebSocketState.CONNECTING:
            data = connection.recv(READ_SIZE)
            if not data:
                raise BenchError("weft-appd accepts no WebSocket")
            self._protocol.receive_data(data)
            self._protocol.events_received()
        return connection

    def _send(self, request: Request) -> None:
        self._protocol.send_text(encode_json(request).encode())
        self._socket.sendall(b"".join(self._protocol.data_to_send()))

    def _messages(self, data: bytes) -> list[Response]:
        self._protocol.receive_data(data)
        if answers := b"".join(self._protocol.data_to_send()):  # to pings
            self._socket.sendall(answers)
        frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        return [decode_response_json(bytes(it.data).decode()) for it in frames if it.opcode is Opcode.TEXT]


class Daemon(Protocol):
    """A weft-appd that serves."""

    @property
    def pid(self) -> int: ...

    @property
    def socket(self) -> Path: ...

    @property
    def port(self) -> int:
        """Of the WebSocket."""
        ...

    @property
    def client(self) -> Client: ...


class Launched:
    """An app launched by the daemon; its sign is APP_READY."""

    def __init__(
        self,
        name: str,
        what: str,
        appd: Daemon,
        app_id: str,
        *,
        stays: bool = False,
        client: Client | None = None,
    ) -> None:
        """It ends by itself, unless it `stays`. `client` asks for it, if it is not the daemon's usual one."""
        self.name = name
        self.what = what
        self.appd = appd
        self._app_id = app_id
        self._stays = stays
        self._client = appd.client if client is None else client

    def begin(self) -> int:
        return self._client.launch(self._app_id)

    def poll(self, seconds: float) -> list[tuple[int, float]]:
        return self._client.poll(seconds)

    @property
    def is_settled(self) -> bool:
        client = self._client
        return not client.unacknowledged and (self._stays or self._app_id not in client.live.values())
