# SPDX-License-Identifier: Apache-2.0
"""The WebSocket: JSON messages for web pages and shells on this machine."""

import asyncio
import hmac
import http
import logging
import socket
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response as HttpResponse
from websockets.typing import Origin

from weft_runtime.appd.answers import LongAnswer, Steps
from weft_runtime.appd.dispatch import Dispatcher, Push
from weft_runtime.appd.settings import Settings
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.journal import Log
from weft_runtime.limits import MIB
from weft_runtime.protocol import Error, ProtocolError, Response
from weft_runtime.wire import decode_request_json, encode_json, json_pieces

MESSAGE_MAX = 1 * MIB
"""Bytes of a message: a hundred times the longest honest one."""

QUEUE_MAX = 1024
"""Messages that wait for a client: one that reads nothing is dropped there, at the cost of nobody else."""

ANSWERS_AHEAD = 256
"""Messages that may wait before the next request of the same client is looked at."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds for the closing handshake of a client that may have stopped reading."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_TOKEN_MAX = 4096


class WebSocketClient:
    """One connection. Implements dispatch.Client."""

    owner = "websocket"

    def __init__(self, connection: ServerConnection, dispatcher: Dispatcher, log: Log) -> None:
        self._connection = connection
        self._dispatcher = dispatcher
        self._log = log
        self.caller = f"WebSocket client {connection.remote_address[1]}"
        self.may_reload = False
        self.waiting_for: int | None = None
        self.waiting_for_reload = False
        self._making: LongAnswer[str] | None = None
        self._behind: list[str] = []
        self._queue: asyncio.Queue[str] = asyncio.Queue(QUEUE_MAX)
        self._changed = asyncio.Event()
        self._leaving = False

    def send(self, message: Response) -> None:
        self._put(encode_json(message))

    def begin(self, steps: Steps) -> None:
        self._making = LongAnswer(steps, json_pieces)
        self._dispatcher.turns.ask(self)

    def take_turn(self) -> bool:
        answer = self._making
        if answer is None:
            return False
        if not answer.go_on():
            if answer.waits_for is not None:
                answer.waits_for.add_done_callback(lambda _: self._dispatcher.turns.ask(self))
            return answer.waits_for is None
        self._making = None
        behind, self._behind = self._behind, []
        for text in (["".join(answer.pieces)] if answer.pieces else []) + behind:
            self._put(text)
        self._changed.set()
        return False

    def put(self, push: Push) -> None:
        self._put(push.text)

    def flush(self) -> None:
        """Nothing to do: a task sends what is queued."""

    def _put(self, text: str) -> None:
        if self._leaving:
            return
        if self._making is not None:
            self._behind.append(text)
            return
        try:
            self._queue.put_nowait(text)
        except asyncio.QueueFull:
            self._log.notice(f"dropping {self.caller}: it does not read")
            self._connection.transport.abort()
            self.leave()

    def hears(self, session_id: int | None) -> bool:
        return True

    def subscribe(self, session_id: int | None) -> None:
        """Nothing to do: it hears everything anyway."""

    def resume(self) -> None:
        self._changed.set()

    def leave(self) -> None:
        """Wait for nothing any more, and send nothing: the connection is being closed."""
        self._leaving = True
        self._changed.set()

    @property
    def _is_blocked(self) -> bool:
        waits = self.waiting_for is not None or self._making is not None
        return waits or self._queue.qsize() > ANSWERS_AHEAD

    async def answered(self) -> None:
        """Wait until the last request is answered, and not too many answers are unread."""
        while not self._leaving and self._is_blocked:
            self._changed.clear()
            await self._changed.wait()

    async def send_queued(self) -> None:
        """Send what is queued, for ever."""
        while True:
            text = await self._queue.get()
            self._changed.set()
            await self._connection.send(text)


class WebSocketServer:
    """The listening socket and its connections."""

    def __init__(
        self, listener: socket.socket, settings: Settings, dispatcher: Dispatcher, log: Log
    ) -> None:
        """Raises WeftError(CONFIG_INVALID) for a token file that cannot be used."""
        listener.setblocking(False)
        self.listener = listener
        self._settings = settings
        self._dispatcher = dispatcher
        self._log = log
        self._token = read_token(settings)
        self._server: Server | None = None
        self._clients: set[WebSocketClient] = set()

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    async def start(self) -> None:
        """Serve, unless that is being done already."""
        if self._server is not None:
            return
        # What the library has to say is about single clients, and never about the daemon.
        logger = logging.getLogger("weft_runtime.websocket")
        logger.setLevel(logging.CRITICAL + 1)
        self._server = await serve(
            self._serve,
            sock=self.listener.dup(),  # the listener itself outlives a reload
            origins=[None, *(Origin(origin) for origin in self._settings.ws_origins)],
            process_request=self._check,
            compression=None,
            max_size=MESSAGE_MAX,
            close_timeout=CLOSE_TIMEOUT_S,
            server_header=None,
            logger=logger,
        )

    async def stop(self) -> None:
        """Close all connections; the listener stays, and who comes waits in the kernel's backlog."""
        if self._server is not None:
            for client in self._clients:
                client.leave()
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def _check(self, connection: ServerConnection, request: HttpRequest) -> HttpResponse | None:
        """Refuse who is no local client: any web page in a local browser can reach a loopback port."""
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1 or _hostname(hosts[0]) not in _LOOPBACK:
            return connection.respond(http.HTTPStatus.FORBIDDEN, "the Host is not a loopback address\n")
        if self._token is not None and not self._has_token(request):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "the token is missing or wrong\n")
        if len(self._clients) >= self._settings.max_connections:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None

    def _has_token(self, request: HttpRequest) -> bool:
        """By an Authorization header, or in the query for a browser, which can set no headers."""
        assert self._token is not None
        given = [value.removeprefix("Bearer ") for value in request.headers.get_all("Authorization")]
        given += parse_qs(urlsplit(request.path).query).get("token", [])
        return any(hmac.compare_digest(value.encode(errors="replace"), self._token) for value in given)

    async def _serve(self, connection: ServerConnection) -> None:
        client = WebSocketClient(connection, self._dispatcher, self._log)
        self._clients.add(client)
        self._dispatcher.clients.add(client)
        sender = asyncio.create_task(client.send_queued())
        try:
            async for message in connection:
                if isinstance(message, bytes):
                    continue
                try:
                    request = decode_request_json(message)
                except ProtocolError as error:
                    client.send(Error(error.code, str(error)))
                    continue
                self._dispatcher.handle(request, client)
                await client.answered()
        except ConnectionClosed:
            pass
        finally:
            self._clients.discard(client)
            self._dispatcher.forget(client)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)


def _hostname(host: str) -> str | None:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def listen(port: int) -> socket.socket:
    """Bind `port` of 127.0.0.1. Raises WeftError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        hint = "set another WEFT_APPD_WS_PORT, or 'off'"
        raise from_os_error(f"listen on 127.0.0.1:{port}", error, hint) from None
    return listener


def read_token(settings: Settings) -> bytes | None:
    """The token that clients must send, if there is one. Raises WeftError(CONFIG_INVALID)."""
    path = settings.ws_token_file
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            token = file.read(_TOKEN_MAX).strip()
    except OSError as error:
        message = f"cannot read the token file {quote(str(path))}: {error.strerror}"
        raise WeftError(Problem.CONFIG_INVALID, message) from None
    if not token:
        raise WeftError(Problem.CONFIG_INVALID, f"the token file {printable(str(path))} is empty")
    return token
