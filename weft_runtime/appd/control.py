# SPDX-License-Identifier: Apache-2.0
"""The control socket: frames of MessagePack on a Unix socket, and who may connect to it."""

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from weft_runtime.appd.admission import Admission
from weft_runtime.appd.connection import ControlClient
from weft_runtime.appd.dispatch import Dispatcher
from weft_runtime.appd.listener import peer
from weft_runtime.appd.names import Names
from weft_runtime.appd.settings import Settings
from weft_runtime.appd.tasks import Tasks
from weft_runtime.framing import frame
from weft_runtime.journal import Log
from weft_runtime.limits import MIB
from weft_runtime.protocol import Error, ErrorCode
from weft_runtime.wire import encode_msgpack

UNREAD_OF_A_USER_MAX = 32 * MIB
"""Bytes that wait for all clients of a user, half-made answers included: twice the longest answer that a client has to
take. Beyond it the one for whom most of that waits is dropped."""

ACCEPTS_MAX = 32
"""Connections that are accepted or refused at a time: each takes some 30 microseconds. The backlog has room for 4096, and
whoever comes behind them is there within a second all the same."""

REFUSALS_LOGGED_S = 60.0
"""Seconds from one log entry about connections that were refused to a user to the next."""

OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

ACCEPT_PAUSE_S = 0.5
"""Seconds without accepting when there are no descriptors left: the backlog keeps who comes meanwhile."""


class ControlServer:
    """The listening sockets and their connections."""

    def __init__(
        self, listeners: Sequence[socket.socket], settings: Settings, dispatcher: Dispatcher, log: Log
    ) -> None:
        for listener in listeners:
            listener.setblocking(False)
        self.listeners = listeners
        self.settings = settings
        self.dispatcher = dispatcher
        self.log = log
        self.clients: set[ControlClient] = set()
        self.names = Names()
        self._admission = Admission(settings.max_connections)
        self._unread: Counter[int] = Counter()
        """Bytes that wait, by user."""
        self._refused_at: dict[int, float] = {}
        """When it was logged that a user was refused a connection."""
        self._loop = asyncio.get_running_loop()
        self._accepting = False

    def start(self) -> None:
        """Accept connections."""
        if not self._accepting:
            self._accepting = True
            for listener in self.listeners:
                self._loop.add_reader(listener, self._accept, listener)

    def stop(self) -> None:
        """Accept no more; who comes waits in the kernel's backlog."""
        self._accepting = False
        for listener in self.listeners:
            self._loop.remove_reader(listener)

    def adopt(self, values: Mapping[str, Any]) -> ControlClient:
        """Take over a connection from the process image before this one."""
        os.set_inheritable(values["fd"], False)
        client = self._add(socket.socket(fileno=values["fd"]))
        client.restore(values)
        return client

    def closed(self, client: ControlClient) -> None:
        self.clients.discard(client)
        self.dispatcher.forget(client)
        self._admission.leave(client.owner)

    def count_unread(self, uid: int, more: int) -> None:
        """So many bytes more wait for the clients of `uid`, or fewer."""
        self._unread[uid] += more
        if self._unread[uid] > UNREAD_OF_A_USER_MAX and more > 0:
            slowest = max(
                (client for client in self.clients if client.owner == uid), key=lambda client: client.unread
            )
            slowest.drop()
        elif not self._unread[uid]:
            del self._unread[uid]

    def close(self) -> None:
        self.stop()
        for client in list(self.clients):
            client.close()
        for listener in self.listeners:
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    self.log.warning(f"cannot accept a connection, trying again: {error.strerror}")
                    self.stop()
                    self._loop.call_later(ACCEPT_PAUSE_S, self._start_again)
                return
            connection.setblocking(False)
            uid = peer(connection)[1]
            refusal = self._admission.refusal(uid, connection.fileno())
            if refusal is not None:
                self._refuse(connection, uid, refusal)
            elif not Tasks(self.log).call("accepting a connection", self._add, connection):
                self._fail(connection)

    def _fail(self, connection: socket.socket) -> None:
        """Say that the connection could not be taken, for a fault of ours, and close it."""
        answer = Error(ErrorCode.INTERNAL, "internal error of the daemon: its log says more")
        with connection, contextlib.suppress(OSError):
            connection.send(frame(encode_msgpack(answer)))

    def _start_again(self) -> None:
        if not self.dispatcher.supervisor.closing:
            self.start()

    def _refuse(self, connection: socket.socket, uid: int, why: str) -> None:
        """Say why and close: left in the backlog, it would keep others waiting that may come in."""
        message = f"too many connections: {why}"
        with connection, contextlib.suppress(OSError):
            connection.send(frame(encode_msgpack(Error(ErrorCode.TOO_MANY_CONNECTIONS, message))))
        now = time.monotonic()
        if now - self._refused_at.get(uid, float("-inf")) >= REFUSALS_LOGGED_S:
            self._refused_at[uid] = now
            self.log.notice(f"refusing connections of {self.names.shown(uid)} on the control socket: {why}")

    def _add(self, connection: socket.socket) -> ControlClient:
        client = ControlClient(connection, self)
        self._admission.enter(client.owner)
        self.clients.add(client)
        self.dispatcher.clients.add(client)
        return client
