# SPDX-License-Identifier: Apache-2.0
"""The way in of a connection, the same for both sockets: what has come is read in the connection's turn, and a piece at a time."""

import socket
from abc import abstractmethod

from weft_runtime.appd.outgoing import Outgoing
from weft_runtime.limits import KIB

READ_SIZE = 16 * KIB
"""Bytes that are read of a client at a time: a thousand of the shortest frames, which takes a fraction of a millisecond
to cut."""


class Incoming(Outgoing):
    """One connection, as far as it reads and sends. The socket must not block."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._has_come = False
        """Whether there is something to be read, as far as is known."""
        self._all_said = False
        """Whether the client has closed its side."""

    @abstractmethod
    def _take(self, data: bytes) -> None:
        """What the client says next."""

    def _read_on(self, *, wanted: bool) -> None:
        """Ask for a turn when something comes, if it is `wanted`."""
        if wanted and not (self._has_come or self._all_said):
            self._loop.add_reader(self._socket, self._readable)
        else:
            self._loop.remove_reader(self._socket)

    def _readable(self) -> None:
        self._has_come = True
        self._loop.remove_reader(self._socket)
        self.resume()

    def _receive(self) -> None:
        """Read once."""
        self._has_come = False
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self._all_said = True
