# SPDX-License-Identifier: Apache-2.0
"""The WebSocket's server in this process: what cannot be seen from outside, or would take long."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from tests.appd.raw_websocket import CLOSE, HANDSHAKE, PONG, frame
from weft_runtime.appd import websocket_client
from weft_runtime.appd.dispatch import Dispatcher
from weft_runtime.appd.settings import load
from weft_runtime.appd.websocket import WebSocketServer, listen
from weft_runtime.appd.websocket_frame import MESSAGE_MAX, frame_size, text_header
from weft_runtime.journal import Log, stderr_sink

WAIT_S = 30
PING_OF_OURS = b"\x89\x00"

Visit = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def serve(listeners: Sequence[socket.socket], tmp_path: Path, visit: Visit) -> None:
    """Let a client whose handshake is done visit each listener of a server."""

    async def run() -> None:
        config = tmp_path / "appd.toml"
        config.touch()
        log = Log(stderr_sink("test", with_priority=False))
        server = WebSocketServer(listeners, load(config, {}), Dispatcher(), log)
        ports = [listener.getsockname()[1] for listener in listeners]
        server.start()
        async with asyncio.timeout(WAIT_S):
            for port in ports:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(HANDSHAKE)
                assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
                await visit(reader, writer)
                writer.close()
            await server.close()

    asyncio.run(run())


def server_end(writer: asyncio.StreamWriter) -> socket.socket:
    """Another descriptor of the connection's end that the server has in this process."""
    ours = writer.get_extra_info("sockname")
    for entry in list(Path("/proc/self/fd").iterdir()):
        if not entry.is_socket():
            continue
        found = socket.socket(fileno=os.dup(int(entry.name)))
        with contextlib.suppress(OSError):
            if found.family == socket.AF_INET and found.getpeername() == ours:
                return found
        found.close()
    raise AssertionError("the server has no such connection")


def test_every_connection_sends_at_once_and_has_bounded_buffers(tmp_path: Path) -> None:
    """Also where the listener came without a protocol number, as from systemd."""
    passed = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    passed.bind(("127.0.0.1", 0))
    passed.listen()

    async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with server_end(writer) as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                assert connection.getsockopt(socket.SOL_SOCKET, buffer) <= 256 * 1024

    serve([listen(0), passed], tmp_path, look)


def test_who_is_silent_is_asked_for_a_sign_of_life_and_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_client, "PING_INTERVAL_S", 0.2)

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            assert await reader.readexactly(2) == PING_OF_OURS
            writer.write(frame(PONG))
        assert await reader.readexactly(2) == PING_OF_OURS
        farewell = await reader.read()
        assert farewell.startswith(bytes([0x80 | CLOSE]))
        assert int.from_bytes(farewell[2:4], "big") == 1011

    serve([listen(0)], tmp_path, be_silent)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535])
def test_the_end_of_a_frame_is_found(length: int) -> None:
    sent = frame(1, b"x" * length)
    for size in range(len(sent) - length):  # however much of the header is there, it asks for more
        assert size < frame_size(bytearray(sent[:size])) <= len(sent)
    assert frame_size(bytearray(sent)) == frame_size(bytearray(sent + b"more")) == len(sent)


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (bytes([0x81, 0xFE]) + b"\xff\xff" + b"mask", 8 + 65535),
        (bytes([0x81, 0xFF]) + (MESSAGE_MAX + 1).to_bytes(8, "big"), 10),
        (bytes([0x81, 0xFF]) + b"\xff" * 8, 10),
        (bytes([0x81, 0x05]) + b"hello", 2),
        (bytes([0x81, 0x7E, 1, 0]), 4),
    ],
)
def test_what_the_library_refuses_by_its_header_is_not_waited_for(header: bytes, size: int) -> None:
    assert frame_size(bytearray(header)) == size


def test_the_header_of_an_answer_says_its_length() -> None:
    assert text_header(125) == b"\x81\x7d"
    assert text_header(126) == b"\x81\x7e\x00\x7e"
    assert text_header(65535) == b"\x81\x7e\xff\xff"
    assert text_header(65536) == b"\x81\x7f\0\0\0\0\0\1\0\0"
