# SPDX-License-Identifier: Apache-2.0
"""The frames that messages travel in over a Unix socket, without I/O: a length, then a body."""

from weft_runtime.limits import KIB, MIB
from weft_runtime.protocol import ErrorCode, ProtocolError

FRAME_MAX = 64 * KIB
"""Bytes of one body. The payload of an IPC_FORWARD is the only field of a request without a short bound of its own: a
line for an app, which the existing daemon's pages fill with some words, or with a page of text. Nothing else comes near
1 KiB. The WebSocket's messages have the same bound, and all that decoding one costs follows from it."""

REPLY_MAX = 16 * MIB
"""Bytes of one body for a client's FrameReader: SESSIONS with 1,000 of the longest reasons has 9 million."""

_HEADER_SIZE = 4


class FramingError(ProtocolError):
    """The stream cannot be read on. `bodies` came before, in the same `feed`: they still want an answer."""

    def __init__(self, text: str, bodies: list[bytes]) -> None:
        super().__init__(text)
        self.bodies = bodies


class FrameTooLarge(FramingError):
    """What a length announces is refused before there is room made for it."""

    code = ErrorCode.FRAME_TOO_LARGE


class EmptyFrame(FramingError):
    """A frame must have a body; the existing daemon hangs up here too."""


def frame(body: bytes) -> bytes:
    """`body` as it goes over a Unix socket."""
    return frame_header(len(body)) + body


def frame_header(size: int) -> bytes:
    """What comes before a body of `size` bytes."""
    return size.to_bytes(_HEADER_SIZE, "little")


class FrameReader:
    """Cuts a stream into the bodies of its frames; keeps no more than one frame and what was fed last."""

    def __init__(self, pending: bytes = b"", limit: int = FRAME_MAX) -> None:
        self._buffer = bytearray(pending)
        self._limit = limit

    @property
    def pending(self) -> bytes:
        """What was fed and not yet returned: a reader that is given it goes on where this one was."""
        return bytes(self._buffer)

    @property
    def mid_frame(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; the bodies that are now complete. Raises FramingError, now and ever after."""
        self._buffer += data
        bodies: list[bytes] = []
        begin = 0
        while len(self._buffer) - begin >= _HEADER_SIZE:
            body = begin + _HEADER_SIZE
            length = int.from_bytes(self._buffer[begin:body], "little")
            if not 0 < length <= self._limit:
                del self._buffer[:begin]
                if not length:
                    raise EmptyFrame("a frame is empty", bodies)
                raise FrameTooLarge(f"a frame announces {length} bytes, the limit is {self._limit}", bodies)
            if body + length > len(self._buffer):
                break
            begin = body + length
            bodies.append(bytes(self._buffer[body:begin]))
        del self._buffer[:begin]
        return bodies
