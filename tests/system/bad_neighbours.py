#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Clients of weft-appd, well-behaved and not, to be run on a device: `bad_neighbours.py NAME SECONDS`.

The program imports nothing of ours: it is copied to where only the package is installed. Each bad neighbour goes on
for SECONDS, whatever the daemon does to its connections. `normal` prints what it saw, as JSON.
"""

import base64
import contextlib
import json
import os
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

import msgpack

SOCKET = "/run/weft/appd.sock"
WEB = ("127.0.0.1", 7410)
TIMEOUT_S = 30
PAUSE_S = 0.05
HELLO = "org.weft.examples.hello"


class Connection:
    """One connection to the control socket."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(SOCKET)

    def send(self, *requests: list[object]) -> None:
        self.socket.sendall(b"".join(map(frame, requests)))

    def receive(self) -> list[object]:
        (length,) = struct.unpack("<I", self._read(4))
        answer: list[object] = msgpack.unpackb(self._read(length))
        return answer

    def ask(self, *request: object) -> list[object]:
        self.send([*request])
        return self.receive()

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise ConnectionError("the daemon has closed the connection")
            data += piece
        return data


def frame(request: list[object]) -> bytes:
    body: bytes = msgpack.packb(request)
    return struct.pack("<I", len(body)) + body


def websocket(*, finished: bool = True) -> socket.socket:
    """A WebSocket connection that takes next to nothing; or one whose handshake goes no further than this."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(TIMEOUT_S)
    connection.connect(WEB)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ["GET / HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
    head = "\r\n".join(lines).encode()
    connection.sendall(head if finished else head[:20])
    if finished:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = connection.recv(1)
            if not piece:
                raise ConnectionError("the daemon has refused the connection")
            head += piece
    return connection


def message(opcode: int, payload: bytes) -> bytes:
    """A frame of RFC 6455, section 5.2, as a client sends it; masked with zeroes."""
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack(">H", length)
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


# The neighbours.


def pipeline() -> None:
    """Many requests at once, again and again, whose answers are long or costly."""
    connection = Connection()
    requests: list[list[object]] = [
        ["QUERY_INSTALLED_APPS"],
        ["QUERY_SESSIONS"],
        ["QUERY_STATUS"],
        ["LAUNCH_APP", "org.no.app", 0],
    ]
    for request in requests:
        count = 64 * 1024 // len(frame(request))
        sender = threading.Thread(target=_send, args=(connection, [request] * count), daemon=True)
        sender.start()
        for _ in range(count):
            connection.receive()


def _send(connection: Connection, requests: list[list[object]]) -> None:
    with contextlib.suppress(OSError):
        connection.send(*requests)


def deaf() -> None:
    """WebSocket connections that ask for the longest answer and read none."""
    connections = [websocket() for _ in range(4)]
    question = message(1, b'{"type":"QUERY_SESSIONS"}') * 400
    for connection in connections:
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            connection.sendall(question)
    time.sleep(1)


def large() -> None:
    """Frames that say as much as a frame may, in the most elements, all completed at the same moment."""
    for size in (60_000, 1_000_000):
        body = b"\xdf" + struct.pack(">I", size // 2) + b"\x00\x00" * (size // 2)
        connections = [Connection() for _ in range(20)]
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.socket.sendall(struct.pack("<I", len(body)) + body[:-1])
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.socket.sendall(body[-1:])
        for connection in connections:
            connection.receive()


def crowd() -> None:
    """As many connections as a client can get, each with all pushes, for as long as it can."""
    held = []
    with contextlib.suppress(OSError):
        for _ in range(300):
            connection = Connection()
            held.append(connection)
            connection.send(["SUBSCRIBE", None])
    time.sleep(2)


def half_open() -> None:
    """TCP connections that never finish their handshake."""
    held = []
    with contextlib.suppress(OSError):
        for _ in range(1400):
            connection = socket.socket()
            connection.setblocking(False)
            held.append(connection)
            with contextlib.suppress(BlockingIOError):
                connection.connect(WEB)
    for connection in held[::2]:
        with contextlib.suppress(OSError):
            connection.send(b"GET / HTTP/1.1\r\n")
    time.sleep(1)


def pinging() -> None:
    """Pings as fast as they are taken, whose pongs are never read."""
    connection = websocket()
    pings = message(9, b"x" * 125) * 500
    while True:
        connection.sendall(pings)


def asking() -> None:
    """The list of all packages, each time on a new connection."""
    Connection().ask("QUERY_INSTALLED_APPS")


NEIGHBOURS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (pipeline, deaf, large, crowd, half_open, pinging, asking)
}


def neighbour(name: str, seconds: float) -> None:
    """Be a bad neighbour; what the daemon refuses is tried again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    # What is looked for is what they do to the daemon, not that they take the processor from everybody.
    os.nice(19)
    deadline = time.monotonic() + seconds
    threading.Timer(seconds, os._exit, (0,)).start()
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            NEIGHBOURS[name]()
        time.sleep(PAUSE_S)


def normal(seconds: float) -> None:
    """Launch an app, wait until it is ready and gone, ask what runs: again and again, each time on a new connection."""
    took, wrong = [], []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        begun = time.monotonic()
        try:
            _launch_once()
        except (OSError, AssertionError) as error:
            wrong.append(repr(error))
        took.append(time.monotonic() - begun)
        time.sleep(PAUSE_S)
    print(json.dumps({"took": took, "wrong": wrong}))


def _launch_once() -> None:
    connection = Connection()
    with connection.socket:
        assert connection.ask("SUBSCRIBE", None)[0] == "SUBSCRIBED"
        connection.send(["LAUNCH_APP", HELLO, 0])
        session = None
        wanted = ["LAUNCH_ACK", "APP_READY", "APP_STATE"]
        while wanted:
            tag, number, *rest = connection.receive()
            assert tag != "ERROR", rest
            # The first is the answer, and comes before any push about the session.
            if session is None and [tag, *rest] == ["LAUNCH_ACK", HELLO]:
                session = number
            if number == session and wanted[0] == tag:
                wanted.pop(0)
    answer = Connection().ask("QUERY_RUNNING")
    assert answer[0] == "RUNNING_APPS", answer


if __name__ == "__main__":
    if sys.argv[1] == "normal":
        normal(float(sys.argv[2]))
    else:
        neighbour(sys.argv[1], float(sys.argv[2]))
