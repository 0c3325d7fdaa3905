# SPDX-License-Identifier: Apache-2.0
"""The WebSocket: JSON messages for web pages and shells on this machine."""

import asyncio
import hmac
import http
import logging
import socket
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs, urlsplit

from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response as HttpResponse
from websockets.server import ServerProtocol
from websockets.typing import Origin

from weft_runtime.appd import files
from weft_runtime.appd.admission import is_kept_back
from weft_runtime.appd.control import ACCEPT_PAUSE_S, OUT_OF_RESOURCES, UNREAD_OF_A_USER_MAX
from weft_runtime.appd.dispatch import Dispatcher
from weft_runtime.appd.settings import Settings
from weft_runtime.appd.tasks import Tasks
from weft_runtime.appd.websocket_client import WebSocketClient
from weft_runtime.appd.websocket_frame import MESSAGE_MAX
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.journal import Log
from weft_runtime.limits import KIB

ACCEPTS_MAX = 4
"""Connections that are accepted in a turn: each takes a fraction of a millisecond."""

LEAVING_MAX = 32
"""Connections beside the limit that are about to be refused, or are in their closing handshake: the oldest is closed at
once when there are more."""

KERNEL_BUFFER = 128 * KIB
"""Bytes that the kernel keeps for each direction of a connection; else it is some megabytes, by what a client sends."""

LISTS_MAX = 1 * KIB
"""Bytes of the headers that are lists: browsers send some 40. The library takes a millisecond for each 2 KiB of them."""

_LISTS = ("Connection", "Upgrade", "Sec-WebSocket-Protocol")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_TOKEN_MAX = 4096


class Door:
    """A listening socket. Newcomers have the turns of one user: a flood of them must not hold up anybody's launch."""

    owner = "WebSocket newcomers"

    def __init__(self, listener: socket.socket, accept: Callable[["Door"], bool]) -> None:
        """`accept` takes those who wait, or some of them; whether there are more."""
        self.listener = listener
        self._accept = accept

    def take_turn(self) -> bool:
        return self._accept(self)


class WebSocketServer:
    """The listening sockets and their connections."""

    def __init__(
        self, listeners: Sequence[socket.socket], settings: Settings, dispatcher: Dispatcher, log: Log
    ) -> None:
        """Raises WeftError(CONFIG_INVALID) for a token file that cannot be used."""
        for listener in listeners:
            listener.setblocking(False)
            for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # connections inherit them
                listener.setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BUFFER)
        self.listeners = listeners
        self._doors = [Door(listener, self._accept) for listener in listeners]
        self.dispatcher = dispatcher
        self.log = log
        self._tasks = Tasks(log)
        self._settings = settings
        self._token = read_token(settings)
        self._origins = [None, *(Origin(origin) for origin in settings.ws_origins)]
        self._loop = asyncio.get_running_loop()
        self._half_open: dict[WebSocketClient, None] = {}
        """Those whose handshake is to come, in order; they count like the open ones."""
        self._open: set[WebSocketClient] = set()
        self._leaving: dict[WebSocketClient, None] = {}
        self._unread = 0
        """Bytes that wait for all of them."""
        self._is_empty = asyncio.Event()
        self._is_serving = False
        # What the library has to say is about single clients, and never about the daemon.
        self._logger = logging.getLogger("weft_runtime.websocket")
        self._logger.setLevel(logging.CRITICAL + 1)

    @property
    def port(self) -> int:
        """Of the first listener."""
        port: int = self.listeners[0].getsockname()[1]
        return port

    def start(self) -> None:
        """Serve, unless that is being done already."""
        self._is_serving = True
        self._accept_more()

    async def stop(self) -> None:
        """Close all connections; the listeners stay, and who comes waits in the kernel's backlog."""
        self._is_serving = False
        self._pause()
        for client in [*self._half_open, *self._open, *self._leaving]:
            client.leave()
            await asyncio.sleep(0)  # between two of them others are served
        while self._half_open or self._open or self._leaving:
            self._is_empty.clear()
            await self._is_empty.wait()

    async def close(self) -> None:
        """Stop for good."""
        await self.stop()
        for listener in self.listeners:
            listener.close()

    # Connections

    def _accept_more(self) -> None:
        for door in self._doors:
            self._await(door)

    def _await(self, door: Door) -> None:
        """Have `door` get a turn when somebody comes."""
        if self._is_serving:
            self._loop.add_reader(door.listener, self._knocked, door)

    def _knocked(self, door: Door) -> None:
        self._loop.remove_reader(door.listener)
        self.dispatcher.turns.ask(door)

    def _pause(self) -> None:
        for door in self._doors:
            self._loop.remove_reader(door.listener)
            self.dispatcher.turns.leave(door)

    def _accept(self, door: Door) -> bool:
        """Take some of those who wait; whether there are more."""
        for _ in range(ACCEPTS_MAX):
            try:
                connection, address = door.listener.accept()
            except BlockingIOError:
                self._await(door)
                return False
            except OSError as error:
                if error.errno not in OUT_OF_RESOURCES:
                    continue  # that client has left already
                self.log.warning(f"cannot accept a connection, trying again: {error.strerror}")
                self._pause()
                self._loop.call_later(ACCEPT_PAUSE_S, self._accept_more)
                return False
            if not self._tasks.call("accepting a connection", self._take, connection, address[1]):
                connection.close()
        return True

    def _take(self, connection: socket.socket, port: int) -> None:
        """Count a connection from now on: in the place of the one that has been half open for longest, if need be.

        One whose handshake has come, and that waits for its turn, keeps its place.
        """
        is_refused = False
        if is_kept_back(connection.fileno()):
            is_refused = True
            for leaving in list(self._leaving):
                leaving.close()
        elif len(self._half_open) + len(self._open) >= self._settings.max_connections:
            idle = next((client for client in self._half_open if client.is_idle), None)
            if idle is None:
                is_refused = True
            else:
                idle.close()
        protocol = ServerProtocol(origins=self._origins, max_size=MESSAGE_MAX, logger=self._logger)
        client = WebSocketClient(connection, port, self, protocol)
        if is_refused:
            client.refuse("too many connections\n")
            self.leaving(client)
        else:
            self._half_open[client] = None

    def opened(self, client: WebSocketClient) -> None:
        del self._half_open[client]
        self._open.add(client)
        self.dispatcher.clients.add(client)

    def leaving(self, client: WebSocketClient) -> None:
        self._forget(client)
        self._leaving[client] = None
        if len(self._leaving) > LEAVING_MAX:
            next(iter(self._leaving)).close()

    def closed(self, client: WebSocketClient) -> None:
        self._forget(client)
        self._leaving.pop(client, None)
        self.dispatcher.forget(client)
        if not (self._half_open or self._open or self._leaving):
            self._is_empty.set()

    def count_unread(self, more: int) -> None:
        """Drop the one for whom most waits, where too much does: all of them may be of one user."""
        self._unread += more
        if self._unread > UNREAD_OF_A_USER_MAX and more > 0:
            max((*self._open, *self._leaving), key=lambda client: client.unread).drop()

    def _forget(self, client: WebSocketClient) -> None:
        self._half_open.pop(client, None)
        self._open.discard(client)
        self.dispatcher.clients.discard(client)

    # Who may come in

    def check(self, protocol: ServerProtocol, request: HttpRequest) -> HttpResponse | None:
        """Refuse who is no local client: any web page in a local browser can reach a loopback port."""
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1 or _hostname(hosts[0]) not in _LOOPBACK:
            return protocol.reject(http.HTTPStatus.FORBIDDEN, "the Host is not a loopback address\n")
        if sum(len(value) for name in _LISTS for value in request.headers.get_all(name)) > LISTS_MAX:
            return protocol.reject(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "a list is too long\n")
        if self._token is not None and not self._has_token(request):
            return protocol.reject(http.HTTPStatus.UNAUTHORIZED, "the token is missing or wrong\n")
        return None

    def _has_token(self, request: HttpRequest) -> bool:
        """By an Authorization header, or in the query for a browser, which can set no headers."""
        assert self._token is not None
        given = [value.removeprefix("Bearer ") for value in request.headers.get_all("Authorization")]
        given += parse_qs(urlsplit(request.path).query).get("token", [])
        return any(hmac.compare_digest(value.encode(errors="replace"), self._token) for value in given)


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
        token = files.read(path, is_ours=False)[:_TOKEN_MAX].strip()
    except OSError as error:
        message = f"cannot read the token file {quote(str(path))}: {error.strerror}"
        raise WeftError(Problem.CONFIG_INVALID, message) from None
    if not token:
        raise WeftError(Problem.CONFIG_INVALID, f"the token file {printable(str(path))} is empty")
    return token
