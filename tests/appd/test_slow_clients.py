# SPDX-License-Identifier: Apache-2.0
"""Clients that send a frame byte by byte."""

import select
import time

from tests.appd.harness import SLACK_SECONDS, Appd
from weft_runtime.framing import frame
from weft_runtime.protocol import Error, ErrorCode, LaunchApp
from weft_runtime.wire import encode_msgpack

FRAME_TIMEOUT_S = 10
BYTE_EVERY_S = 0.5


def test_the_time_for_a_frame_does_not_begin_again_with_each_byte(appd: Appd) -> None:
    slow = appd.connect()
    request = frame(encode_msgpack(LaunchApp("org.example." + "a" * 100, 0)))
    assert len(request) * BYTE_EVERY_S > 2 * FRAME_TIMEOUT_S
    begun = time.monotonic()
    for byte in request:
        slow.send_bytes(bytes([byte]))
        if select.select([slow.socket], [], [], BYTE_EVERY_S)[0]:
            break
        assert time.monotonic() - begun < FRAME_TIMEOUT_S + 2 * SLACK_SECONDS
    assert time.monotonic() - begun >= FRAME_TIMEOUT_S - BYTE_EVERY_S
    answer = slow.receive()
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.TIMED_OUT
