# SPDX-License-Identifier: Apache-2.0
"""A client of the control socket that can also say what no honest client says."""

import select
import socket
from collections import deque
from pathlib import Path

from weft_runtime.framing import REPLY_MAX, FrameReader, frame
from weft_runtime.protocol import Request, Response
from weft_runtime.wire import decode_response_msgpack, encode_msgpack

_READ_SIZE = 64 * 1024


class Control:
    """One connection. What does not come within `timeout` seconds raises TimeoutError."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self._reader = FrameReader(limit=REPLY_MAX)
        self._bodies: deque[bytes] = deque()

    def close(self) -> None:
        self.socket.close()

    def send(self, *requests: Request) -> None:
        """Send requests without a look at the answers."""
        self.send_bytes(b"".join(frame(encode_msgpack(request)) for request in requests))

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive_frame(self) -> bytes:
        """The next whole frame, header included."""
        while not self._bodies:
            data = self.socket.recv(_READ_SIZE)
            assert data, "the daemon closed the connection"
            self._bodies.extend(self._reader.feed(data))
        return frame(self._bodies.popleft())

    def receive(self) -> Response:
        return decode_response_msgpack(self.receive_frame()[4:])

    def ask(self, request: Request) -> Response:
        self.send(request)
        return self.receive()

    @property
    def is_quiet(self) -> bool:
        """Whether there is neither an answer nor an end to be read just now."""
        if self._bodies or self._reader.mid_frame:
            return False
        return not select.select([self.socket], [], [], 0)[0]

    def read_to_end(self) -> bytes:
        """All that comes until the daemon closes the connection."""
        rest = b"".join(map(frame, self._bodies)) + self._reader.pending
        self._bodies.clear()
        while True:
            try:
                data = self.socket.recv(_READ_SIZE)
            except ConnectionResetError:  # it has not read all that we sent
                return rest
            if not data:
                return rest
            rest += data
