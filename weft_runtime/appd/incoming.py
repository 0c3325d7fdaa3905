# SPDX-License-Identifier: Apache-2.0
"""The way in of a connection, the same for both sockets: what has come is read in the connection's turn, and a piece at a time."""

import socket
from abc import abstractmethod

from weft_runtime.appd.outgoing import Outgoing
from weft_runtime.limits import KIB

READ_SIZE = 16 * KIB
"""Bytes that are read of a client at a time: a thousand of the shortest frames, which takes a fraction of a millisecond
to cut."""


_LOOKS_MAX = 3
"""Passes of the event loop that find the same input until they look for it no more. As a rule it is read in the second,
and to end looking and to begin again takes as long as many of these."""


class Incoming(Outgoing):
    """One connection, as far as it reads and sends. The socket must not block."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._has_come = False
        """Whether there is something to be read, as far as is known."""
        self._all_said = False
        """Whether the client has closed its side."""
        self._is_watched = False
        """Whether the event loop looks whether something comes."""
        self._looks = 0
        """How often it has found something that was not read yet."""

    @abstractmethod
    def _take(self, data: bytes) -> None:
        """What the client says next."""

    def _read_on(self, *, wanted: bool) -> None:
        """Ask for a turn when something comes, if it is `wanted`."""
        wanted = wanted and not (self._has_come or self._all_said)
        if wanted == self._is_watched:
            return
        self._is_watched = wanted
        if wanted:
            self._loop.add_reader(self._socket, self._readable)
        else:
            self._loop.remove_reader(self._socket)

    def _readable(self) -> None:
        self._has_come = True
        self._looks += 1
        if self._looks >= _LOOKS_MAX:
            self._is_watched = False
            self._loop.remove_reader(self._socket)
        self.resume()

    def _receive(self) -> None:
        """Read once."""
        self._has_come, self._looks = False, 0
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
