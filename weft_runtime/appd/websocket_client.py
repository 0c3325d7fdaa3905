# SPDX-License-Identifier: Apache-2.0
"""One WebSocket connection: what of it the library sees, and when.

The library parses and writes the protocol but does no input or output here (its "Sans-I/O" layer): that is the way to
give it one frame in each turn of the client, and to count every byte that waits, control frames included. Its own
server answers all the pings of a read in one callback, and keeps their pongs without a bound.
"""

import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request as HttpRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from weft_runtime.appd.answers import LongAnswer, Steps
from weft_runtime.appd.dispatch import Push
from weft_runtime.appd.incoming import Incoming
from weft_runtime.appd.outgoing import ANSWERS_AHEAD
from weft_runtime.appd.websocket_frame import frame_size, text_frame, text_header
from weft_runtime.limits import KIB
from weft_runtime.protocol import Error, ProtocolError, Response
from weft_runtime.wire import decode_request_json, encode_json, json_pieces

if TYPE_CHECKING:
    from weft_runtime.appd.websocket import WebSocketServer

HANDSHAKE_MAX = 16 * KIB
"""Bytes of an opening handshake: browsers add the cookies of every server on this host, and stop at about 8 KiB."""

HANDSHAKE_TIMEOUT_S = 5.0
"""Seconds for the opening handshake, which a client on this machine sends at once: ample for a busy one."""

PING_INTERVAL_S = 20.0
"""Seconds of silence after which a client is asked for a sign of life, and as many again after which it is dropped."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds for the closing handshake of a client that may have stopped reading."""

_CONTROL = 0x08
"""The bit of an opcode that ping, pong and close have."""

_BLANK_LINE = b"\r\n\r\n"


class WebSocketClient(Incoming):
    """One connection. Implements dispatch.Client."""

    def __init__(
        self, connection: socket.socket, port: int, server: "WebSocketServer", protocol: ServerProtocol
    ) -> None:
        """`port` is the one at the other end."""
        connection.setblocking(False)
        # Else an APP_READY would wait until the client's kernel acknowledges the LAUNCH_ACK: that takes 40 ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(connection)
        self._server = server
        self._protocol = protocol
        self.owner = "WebSocket"  # a port does not tell whose a connection is: all of them share the turns of one user
        self.caller = f"WebSocket client {port}"
        self.may_reload = False
        self.waiting_for: int | None = None
        self.waiting_for_reload = False
        self._in = bytearray()
        """What was read and the library has not seen."""
        self._message = bytearray()
        """The message that is being read: it may come in many frames."""
        self._request: str | None = None
        """A message that is complete and still has to be handled."""
        self._is_text = False
        self._refusal: str | None = None
        """Why its handshake will be refused."""
        self._is_leaving = False
        """Whether no request is handled any more: the closing handshake has begun."""
        self._is_done = False
        """Whether nothing is sent behind what is queued."""
        self._is_shut = False
        self._heard = True
        """Whether the client has said something since the last sign of life was asked for."""
        self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT_S, self.close)
        self._read_on(wanted=True)

    # As the dispatcher sees it

    def send(self, message: Response) -> None:
        self._put(text_frame(encode_json(message).encode()))
        self.flush()

    def begin(self, steps: Steps, snapshot: int = 0) -> None:
        self._making = LongAnswer(
            steps, lambda message: (piece.encode() for piece in json_pieces(message)), snapshot
        )
        self._count()

    def put(self, push: Push) -> None:
        self._put(text_frame(push.text.encode()))

    def hears(self, session_id: int | None) -> bool:
        return True

    def subscribe(self, session_id: int | None) -> None:
        """Nothing to do: it hears everything anyway."""

    def resume(self) -> None:
        self._server.dispatcher.turns.ask(self)

    def give_up(self, answer: Error) -> None:
        self._make_no_more()
        self.send(answer)
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.INTERNAL_ERROR)
            self._say()
        else:
            self.close()

    def take_turn(self) -> bool:
        """Go on with an answer, or read; and show the library one frame, and answer the request that it completes."""
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close()  # it is gone, whatever it has said before
            return False
        if self._making is not None:
            self._go_on(self._making)
        elif self._has_come:
            self._receive()
        if size := self._next_size():
            self._feed(size)
        if self._request is not None and not self._waits:
            request, self._request = self._request, None
            self._answer(request)
        has_more = bool(self._next_size()) or (self._request is not None and not self._waits)
        if self._making is not None:
            has_more = self._making.waits_for is None
        elif self._all_said and not has_more:
            self.close()
        self._watch_input()
        return has_more and self._is_open

    @property
    def _is_closing(self) -> bool:
        return self._is_leaving

    def _header(self, size: int) -> bytes:
        return text_header(size)

    def _count_unread(self, more: int) -> None:
        self._server.count_unread(more)

    def _has_sent(self) -> None:
        self._heard = True

    def _all_is_sent(self) -> None:
        if self._is_done and not self._is_shut:
            self._shut()

    # Its end

    def leave(self) -> None:
        """Begin the closing handshake, since the daemon ends or begins anew."""
        if self._is_leaving:
            return
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.GOING_AWAY)
            self._say()
        else:
            self._protocol.send_response(self._protocol.reject(503, "the daemon is ending\n"))
            self._say()

    def refuse(self, text: str) -> None:
        """Answer its handshake with 503, if that comes within a moment: an answer before it is none for some clients."""
        self._refusal = text
        self._set_timer(CLOSE_TIMEOUT_S, self.close)

    def drop(self) -> None:
        """Too much waits for it."""
        self._server.log.notice(f"dropping {self.caller}: it does not read")
        self.close()

    def close(self) -> None:
        """Close at once; what is still to be sent is lost."""
        if not self._is_open:
            return
        self._is_leaving = self._is_done = True
        self._forget()
        self._timer.cancel()
        self._socket.close()
        self._server.closed(self)

    @property
    def is_idle(self) -> bool:
        """Whether it has said nothing that is still to be looked at."""
        return not self._has_come

    def _shut(self) -> None:
        """Close our side. What the client still sends is read and forgotten: else it would lose our last words."""
        self._is_shut = True
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            self.close()

    # Input

    def _readable(self) -> None:
        if not self._is_done:
            super()._readable()
            return
        self._receive()
        if self._all_said:
            self.close()

    def _take(self, data: bytes) -> None:
        self._heard = True
        if not self._is_done:
            self._in += data

    @property
    def _waits(self) -> bool:
        """Whether the next request is not to be looked at yet."""
        return self._is_owed or self._is_leaving or len(self._out) > ANSWERS_AHEAD

    @property
    def _is_owed(self) -> bool:
        """Whether its last request is still to be answered."""
        return self.waiting_for is not None or self.waiting_for_reload or self._making is not None

    def _next_size(self) -> int:
        """Bytes that the library may see now: a handshake, one frame, or what is wrong anyway; 0 for none."""
        if self._is_done or self._making is not None or len(self._out) > ANSWERS_AHEAD:
            return 0
        if self._protocol.state is State.CONNECTING:
            if end := self._in.find(_BLANK_LINE) + 1:
                return end - 1 + len(_BLANK_LINE)
            return len(self._in) if len(self._in) > HANDSHAKE_MAX else 0
        if self._request is not None and self._in and not self._in[0] & _CONTROL:
            return 0
        size = frame_size(self._in)
        return size if len(self._in) >= size else 0

    def _watch_input(self) -> None:
        """Read on only when the library has seen what was read: the rest waits in the kernel."""
        if not self._is_open:
            return
        is_behind = self._making is not None or len(self._out) > ANSWERS_AHEAD
        is_next = self._request is not None and bool(self._in) and not self._in[0] & _CONTROL
        is_busy = is_behind or is_next or bool(self._next_size())
        self._read_on(wanted=self._is_done or not is_busy)

    def _feed(self, size: int) -> None:
        """Show the library the first `size` bytes, and do what it makes of them."""
        if self._protocol.state is State.CONNECTING and size > HANDSHAKE_MAX:
            self._protocol.send_response(self._protocol.reject(431, "the handshake is too long\n"))
        else:
            self._protocol.receive_data(bytes(self._in[:size]))
            del self._in[:size]
        for event in self._protocol.events_received():
            if isinstance(event, HttpRequest):
                self._shake_hands(event)
            elif isinstance(event, Frame) and not event.opcode & _CONTROL and not self._is_leaving:
                if event.opcode is not Opcode.CONT:
                    self._is_text = event.opcode is Opcode.TEXT
                self._message += event.data
                if event.fin:
                    self._complete()
        self._say()

    def _shake_hands(self, request: HttpRequest) -> None:
        text = self._refusal
        refusal = (
            self._server.check(self._protocol, request) if text is None else self._protocol.reject(503, text)
        )
        self._protocol.send_response(refusal or self._protocol.accept(request))
        if self._protocol.state is State.OPEN:
            self._set_timer(PING_INTERVAL_S, self._ask_for_life)
            self._server.opened(self)

    def _complete(self) -> None:
        """A message is there. One that is not text is ignored."""
        message = bytes(self._message)
        self._message.clear()
        if not self._is_text:
            return
        try:
            self._request = message.decode()
        except UnicodeDecodeError as error:
            self._protocol.fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")

    # Output

    def _answer(self, text: str) -> None:
        try:
            request = decode_request_json(text)
        except ProtocolError as error:
            self.send(Error(error.code, str(error)))
            return
        self._server.dispatcher.handle(request, self)

    def _say(self) -> None:
        """Send what the library has to say. An empty piece of it stands for the end."""
        for data in self._protocol.data_to_send():
            if data:
                self._out += data
            else:
                self._is_done = True
        # A refused handshake ends as well, and leaves the library's state as it was.
        if not self._is_leaving and (self._is_done or self._protocol.state in (State.CLOSING, State.CLOSED)):
            self._is_leaving = True
            self._making = self._request = None
            self._behind.clear()
            self._set_timer(CLOSE_TIMEOUT_S, self.close)
            self._server.leaving(self)
        self.flush()
        self._watch_input()

    def _ask_for_life(self) -> None:
        """Drop a client that neither reads nor says anything, unless it is we who do not read."""
        if not (self._heard or self._has_come or self._is_owed):
            self._protocol.fail(CloseCode.INTERNAL_ERROR, "no pong")
            self._say()
            return
        self._set_timer(PING_INTERVAL_S, self._ask_for_life)
        self._protocol.send_ping(b"")
        self._say()
        self._heard = False  # after the ping: that it went into the kernel is no sign

    def _set_timer(self, seconds: float, do: Callable[[], None]) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, do)
