# SPDX-License-Identifier: Apache-2.0
"""A WebSocket client that can also say what no honest client says, and as fast as it likes."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

from tests.appd.harness import WAIT_SECONDS, Appd

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
"""Opcodes of RFC 6455."""

HANDSHAKE = (
    b"GET /appd HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode: int, data: bytes = b"", *, final: bool = True) -> bytes:
    """A frame of a client; its mask is zero, which masks nothing."""
    head = opcode | (0x80 if final else 0)
    if len(data) < 126:
        return bytes([head, 0x80 | len(data), 0, 0, 0, 0]) + data
    if len(data) < 1 << 16:
        return bytes([head, 0xFE]) + len(data).to_bytes(2, "big") + bytes(4) + data
    return bytes([head, 0xFF]) + len(data).to_bytes(8, "big") + bytes(4) + data


def door(appd: Appd) -> socket.socket:
    """A connection that has said nothing."""
    return socket.create_connection(("127.0.0.1", appd.port), WAIT_SECONDS)


def page(appd: Appd) -> socket.socket:
    """A connection whose handshake is done."""
    connection = door(appd)
    connection.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert b" 101 " in head
    return connection


@contextlib.contextmanager
def flood(appd: Appd, data: bytes, first: bytes = b"", *, clients: int = 1) -> Iterator[None]:
    """Clients that send `first` once and then `data` again and again, and read whatever comes."""
    over = threading.Event()

    def send(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(first)
            while not over.is_set():
                connection.sendall(data)

    def read(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(1 << 20):
                pass

    connections = [page(appd) for _ in range(clients)]
    for connection in connections:
        # What the kernel still keeps for the daemon is nobody's when the flood is over.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("2i", 1, 0))
    threads = [threading.Thread(target=work, args=[it]) for it in connections for work in (send, read)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(
                    socket.SHUT_RD
                )  # the reader wakes, and a sender that waits for the daemon goes on
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()
