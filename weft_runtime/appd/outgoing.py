# SPDX-License-Identifier: Apache-2.0
"""The way out of a connection, the same for both sockets: what waits to be sent, in order and bounded in bytes."""

import asyncio
import socket
from abc import ABC, abstractmethod

from weft_runtime.appd.answers import LongAnswer
from weft_runtime.limits import KIB

UNREAD_MAX = 512 * KIB
"""Bytes that wait for a client beside its longest answer, which it has asked for: one that reads nothing is dropped
there, at the cost of nobody else. All that is ever pushed of a thousand sessions that begin and end has 200 KiB."""

ANSWERS_AHEAD = 64 * KIB
"""Bytes of answers that may wait before the next request of the same client is looked at."""

_SENDS_MAX = 4
"""Sends in a row to one client: each fills the kernel's buffer, and a client that reads as fast empties it for ever."""


class Outgoing(ABC):
    """One connection, as far as it sends. The socket must not block."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._making: LongAnswer[bytes] | None = None
        """The answer to its last request, if that takes long."""
        self._behind = bytearray()
        """What comes behind the answer that is being made."""
        self._out = bytearray()
        self._longest = 0
        """Bytes of the longest message so far."""
        self._counted = 0
        """`unread`, as the server knows it."""
        self._is_writing = False

    @abstractmethod
    def resume(self) -> None:
        """Ask for a turn."""

    @abstractmethod
    def drop(self) -> None:
        """Close at once, since too much waits for it, and say so."""

    @abstractmethod
    def close(self) -> None:
        """Close at once."""

    @property
    @abstractmethod
    def _is_closing(self) -> bool:
        """Whether no message is taken any more."""

    @abstractmethod
    def _header(self, size: int) -> bytes:
        """What comes before a message of so many bytes."""

    @abstractmethod
    def _count_unread(self, more: int) -> None:
        """Tell the server that so many bytes more wait, or fewer: that may end this connection or another."""

    @abstractmethod
    def _has_sent(self) -> None:
        """The kernel has taken something."""

    @abstractmethod
    def _all_is_sent(self) -> None:
        """Nothing waits any more."""

    @property
    def _is_open(self) -> bool:
        return self._socket.fileno() >= 0

    @property
    def unread(self) -> int:
        """Bytes that wait for it, and what its next answer is made from."""
        being_made = 0 if self._making is None else self._making.snapshot + self._making.size
        return len(self._out) + len(self._behind) + being_made

    def flush(self) -> None:
        """Send what waits, as far as the kernel takes it. Never blocks and never raises."""
        if not self._is_open:
            return
        try:
            for _ in range(_SENDS_MAX):
                if not self._out:
                    break
                sent = self._socket.send(self._out)
                del self._out[:sent]
                self._has_sent()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._out and not self._is_writing:
            self._loop.add_writer(self._socket, self._writable)
        elif not self._out and self._is_writing:
            self._loop.remove_writer(self._socket)
            self.resume()  # its requests may have waited for this, and no event tells of it any more
        self._is_writing = bool(self._out)
        self._count()
        if self._is_open and not self._out:
            self._all_is_sent()

    def _put(self, message: bytes) -> None:
        """Take a message, header included, behind those that wait."""
        if self._is_closing:
            return
        if len(self._out) + len(self._behind) > UNREAD_MAX + self._longest:
            self.drop()
            return
        self._longest = max(self._longest, len(message))
        queue = self._out if self._making is None else self._behind
        queue += message
        self._count()

    def _go_on(self, answer: LongAnswer[bytes]) -> None:
        """Work on the answer that is being made; once it is complete, it goes out as one message."""
        is_complete = answer.go_on()
        self._count()
        if not self._is_open:
            return
        if not is_complete:
            if answer.waits_for is not None:
                answer.waits_for.add_done_callback(lambda _: self.resume())
            return
        if answer.pieces:
            self._longest = max(self._longest, answer.size)
            self._out += b"".join((self._header(answer.size), *answer.pieces))
        self._make_no_more()
        self.flush()

    def _make_no_more(self) -> None:
        """No answer is being made any more: what comes behind it is next."""
        self._making = None
        self._out += self._behind
        self._behind.clear()

    def _forget(self) -> None:
        """Nothing of it is to be sent any more: the connection is closed next."""
        self._making = None
        self._out.clear()
        self._behind.clear()
        self._count()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)

    def _count(self) -> None:
        before, self._counted = self._counted, self.unread
        self._count_unread(self._counted - before)

    def _writable(self) -> None:
        self.flush()
        if self._is_open:
            self.resume()
