# SPDX-License-Identifier: Apache-2.0
"""Long answers in pieces: the bytes are those of the whole, and no piece is long."""

import pytest

from weft_runtime.protocol import (
    AppState,
    DaemonStatus,
    InstalledApp,
    InstalledApps,
    LimitInfo,
    NavigationGesture,
    Response,
    RunningApp,
    RunningApps,
    SessionInfo,
    Sessions,
    State,
)
from weft_runtime.wire import encode_json, encode_msgpack, json_pieces, msgpack_pieces

INFO = SessionInfo(
    2**40, "org.example.app", State.STOPPED, None, 1.5, None, 1e9, 134, "SIGSEGV", 'said "ü"\n'
)
STATUS = DaemonStatus(
    "1", 2, 3.5, None, "none", 1, 2, 3, "journal", (LimitInfo("a", "1"), LimitInfo("b", "2")),
    ("cpu", "memory"), None, 0,
)  # fmt: skip
COUNTS = (0, 1, 15, 16, 31, 32, 33, 2024, 70_000)  # around the widths of headers, and of pieces


@pytest.mark.parametrize(
    "message",
    [
        AppState(7, State.RUNNING),
        NavigationGesture(1, 2, 1e-5, float("nan")),
        STATUS,
        STATUS._replace(limits=()),
        *(Sessions((INFO,) * count) for count in COUNTS[:-1]),
        *(RunningApps((RunningApp(2**63, "org.example.app"),) * count) for count in COUNTS),
        *(InstalledApps((InstalledApp("org.example.app", "\x00", "1"),) * count) for count in COUNTS[:-1]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_pieces_are_the_whole(message: Response) -> None:
    packed = [*msgpack_pieces(message)]
    assert b"".join(packed) == encode_msgpack(message)
    text = [*json_pieces(message)]
    assert "".join(text) == encode_json(message)
    assert max(map(len, packed)) < 8192
    assert max(map(len, text)) < 16384
