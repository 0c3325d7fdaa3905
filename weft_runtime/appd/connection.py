# SPDX-License-Identifier: Apache-2.0
"""A connection to the control socket: its requests in turn, its answers in order, and what waits for it bounded.

It is a plain non-blocking socket and not an asyncio stream, because a reload hands it over to the next process image: a
descriptor and what is buffered on either side of it, nothing else.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weft_runtime.appd.answers import LongAnswer, Steps
from weft_runtime.appd.dispatch import Push
from weft_runtime.appd.incoming import Incoming
from weft_runtime.appd.listener import peer
from weft_runtime.appd.outgoing import ANSWERS_AHEAD
from weft_runtime.framing import FrameReader, FramingError, frame, frame_header
from weft_runtime.protocol import Error, ErrorCode, ProtocolError, Response
from weft_runtime.wire import decode_request_msgpack, encode_msgpack, msgpack_pieces

if TYPE_CHECKING:
    from weft_runtime.appd.control import ControlServer

FRAME_TIMEOUT_S = 10.0
"""Seconds for the rest of a frame once it has begun, and for a client to read an answer."""


class ControlClient(Incoming):
    """One connection. Implements dispatch.Client."""

    def __init__(self, connection: socket.socket, server: "ControlServer") -> None:
        super().__init__(connection)
        self._server = server
        self._pid, uid, _ = peer(connection)
        self.owner = uid
        self.may_reload = uid in (0, os.geteuid())
        self.waiting_for: int | None = None
        self.waiting_for_reload = False
        self._subscribed = False
        self._session_id: int | None = None
        self._reader = FrameReader()
        self._bodies: deque[bytes] = deque()
        self._body = b""
        """The request that is being answered."""
        self._broken: FramingError | None = None
        """Why the input cannot be read on: told when all that came before it is answered."""
        self._closing = False
        self._active_at = time.monotonic()
        self._frame_began_at: float | None = None
        self._patience = min(FRAME_TIMEOUT_S, server.settings.idle_timeout)
        self._timer = self._loop.call_later(self._patience, self._check_time)
        self._is_nameless = not server.names.is_known(uid, self._is_named)
        """Whether it waits for the name of its user, before anything is done for it."""
        if not self._is_nameless:
            # Most have sent something by now; else the turn finds out.
            self._has_come = True
            self.resume()

    @property
    def caller(self) -> str:
        return f"{self._server.names.shown(self.owner)} pid {self._pid}"

    def _is_named(self) -> None:
        self._is_nameless = False
        self._watch_input()
        if self._is_open:
            self.resume()

    def send(self, message: Response) -> None:
        self._put(frame(encode_msgpack(message)))
        self.flush()

    def begin(self, steps: Steps, snapshot: int = 0) -> None:
        self._making = LongAnswer(steps, msgpack_pieces, snapshot)
        self._count()

    def put(self, push: Push) -> None:
        self._put(push.frame)

    @property
    def _is_closing(self) -> bool:
        return self._closing

    def _header(self, size: int) -> bytes:
        return frame_header(size)

    def _count_unread(self, more: int) -> None:
        self._server.count_unread(self.owner, more)

    def _has_sent(self) -> None:
        self._active_at = time.monotonic()

    def _all_is_sent(self) -> None:
        if self._closing:
            self.close()

    def hears(self, session_id: int | None) -> bool:
        if not self._subscribed:
            return False
        return self._session_id is None or self._session_id == session_id

    def subscribe(self, session_id: int | None) -> None:
        self._subscribed, self._session_id = True, session_id

    def resume(self) -> None:
        self._server.dispatcher.turns.ask(self)

    def drop(self) -> None:
        """Too much waits for it."""
        self._server.log.notice(f"dropping the control connection of {self.caller}: it does not read")
        self.close()

    def close(self) -> None:
        """Close at once; what is still to be sent is lost."""
        if not self._is_open:
            return
        self._closing = True
        self._forget()
        self._timer.cancel()
        self._socket.close()
        self._server.closed(self)

    def to_json(self) -> dict[str, Any]:
        """For the next process image; the descriptor in it must be inherited."""
        bodies = [*([self._body] if self._making is not None else []), *self._bodies]
        return {
            "fd": self._socket.fileno(),
            # An answer that is being made is made anew, of what is true then: so what is behind it comes before it.
            "in": (b"".join(map(frame, bodies)) + self._reader.pending).hex(),
            "out": (self._out + self._behind).hex(),
            "closing": self._closing,
            "subscribed": self._subscribed,
            "session_id": self._session_id,
            "waiting_for": self.waiting_for,
            "waiting_for_reload": self.waiting_for_reload,
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Be as `to_json` said; no request is looked at before `resume`: there are no sessions yet."""
        self._out += bytes.fromhex(values["out"])
        self._longest = len(self._out)  # it may be one answer
        self._subscribed, self._session_id = values["subscribed"], values["session_id"]
        self.waiting_for, self.waiting_for_reload = values["waiting_for"], values["waiting_for_reload"]
        self._closing = values["closing"]
        self._has_come = False  # as far as is known here: `_watch_input` finds out, if it may be read
        if not self._closing:
            self._take(bytes.fromhex(values["in"]))
        self._watch_input()
        self.flush()

    def take_turn(self) -> bool:
        """Go on with an answer, or read, and answer one request."""
        if self._making is not None:
            self._go_on(self._making)
        elif self._has_come:
            self._receive()
        if self._bodies and not self._is_blocked:
            self._body = self._bodies.popleft()
            self._answer(self._body)
            if self._making is not None:  # most of them need no other slice
                self._go_on(self._making)
        if not (self._bodies or self._is_blocked):
            if self._broken is not None:
                self.give_up(Error(self._broken.code, str(self._broken)))
            elif self._all_said:
                self._closing = True
                self.flush()
        self._watch_input()
        if self._making is not None:
            return self._making.waits_for is None
        return bool(self._bodies) and not self._is_blocked

    def _answer(self, body: bytes) -> None:
        try:
            request = decode_request_msgpack(body)
        except ProtocolError as error:
            # The frame was whole, so the next one can still be found.
            self.send(Error(error.code, str(error)))
            return
        self._server.dispatcher.handle(request, self)

    def _take(self, data: bytes) -> None:
        self._active_at = time.monotonic()
        try:
            bodies = self._reader.feed(data)
        except FramingError as error:
            bodies = error.bodies
            self._broken = error
        self._bodies.extend(bodies)
        if bodies:
            self._frame_began_at = None  # that one is whole; what may follow it is another

    @property
    def _is_blocked(self) -> bool:
        waits = self._is_nameless or self.waiting_for is not None or self.waiting_for_reload
        return waits or self._making is not None or self._closing or len(self._out) > ANSWERS_AHEAD

    def _watch_input(self) -> None:
        """Read on only when what was read is answered: the rest waits in the kernel."""
        if not self._is_open:
            return
        has_all = self._closing or self._all_said or self._broken is not None
        is_wanted = not (has_all or self._bodies or self._is_blocked or self._has_come)
        if not is_wanted:
            self._frame_began_at = None  # what is not read cannot be late
        elif self._reader.mid_frame and self._frame_began_at is None:
            self._frame_began_at = time.monotonic()
        self._read_on(wanted=is_wanted)

    def give_up(self, answer: Error) -> None:
        if not self._is_open:
            return
        self._make_no_more()
        self.send(answer)
        self._closing = True
        self._watch_input()
        self.flush()

    def _check_time(self) -> None:
        """Close what has been half-said or idle for too long, else look again when it could be."""
        now = time.monotonic()
        if self._out or self._closing:
            deadline = self._active_at + FRAME_TIMEOUT_S
            if now >= deadline and (self._closing or not self._subscribed):
                self.close()
                return
        elif self._frame_began_at is not None and not self._is_blocked:
            deadline = self._frame_began_at + FRAME_TIMEOUT_S
            if now >= deadline:
                message = f"half a frame was left waiting for {FRAME_TIMEOUT_S:g} s"
                self._frame_began_at = None
                self.give_up(Error(ErrorCode.TIMED_OUT, message))
        else:
            deadline = self._active_at + self._server.settings.idle_timeout
            if now >= deadline and not (self._subscribed or self._is_blocked):
                self.close()
                return
        if self._is_open:
            delay = max(deadline - now, 0) or self._patience
            self._timer = self._loop.call_later(min(delay, FRAME_TIMEOUT_S) + 0.01, self._check_time)
