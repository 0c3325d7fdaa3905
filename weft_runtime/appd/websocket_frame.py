# SPDX-License-Identifier: Apache-2.0
"""WebSocket frames as bytes (RFC 6455, section 5.2): where one ends, and how one of ours begins."""

import struct

from weft_runtime.framing import FRAME_MAX

MESSAGE_MAX = FRAME_MAX
"""Bytes of a message, in however many frames: a request is not longer in JSON than in a frame of the control socket."""

_WHOLE_TEXT = 0x81
_MASKED, _LENGTH = 0x80, 0x7F
_LENGTH_16, _LENGTH_64 = 126, 127
"""Stand for a length of 2 or 8 bytes that follows."""


def frame_size(data: bytearray) -> int:
    """Bytes of the frame that `data` begins with, at least those of its header.

    For a frame that the library refuses by its header, that is all of it.
    """
    if len(data) < 2:
        return 2
    length, more = data[1] & _LENGTH, 0
    if length in (_LENGTH_16, _LENGTH_64):
        more = 2 if length == _LENGTH_16 else 8
        if len(data) < 2 + more:
            return 2 + more
        length = int.from_bytes(data[2 : 2 + more], "big")
    if not data[1] & _MASKED or length > MESSAGE_MAX:
        return 2 + more
    return 2 + more + 4 + length


def text_header(length: int) -> bytes:
    """The start of a frame with a whole text message, as a server sends it."""
    if length < _LENGTH_16:
        return struct.pack("!BB", _WHOLE_TEXT, length)
    if length < 1 << 16:
        return struct.pack("!BBH", _WHOLE_TEXT, _LENGTH_16, length)
    return struct.pack("!BBQ", _WHOLE_TEXT, _LENGTH_64, length)


def text_frame(data: bytes) -> bytes:
    """A whole text message."""
    return text_header(len(data)) + data
