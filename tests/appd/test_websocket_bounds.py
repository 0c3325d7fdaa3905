# SPDX-License-Identifier: Apache-2.0
"""What a WebSocket client can cost the others: time, memory, descriptors, places."""

import contextlib
import os
import select
import socket
import statistics
import struct
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.appd import raw_websocket
from tests.appd.conftest import Make
from tests.appd.harness import (
    SLACK_SECONDS,
    WAIT_SECONDS,
    Appd,
    cpu_seconds,
    descriptors,
    eventually,
    memory,
)
from tests.appd.raw_websocket import BINARY, CONTINUATION, HANDSHAKE, PING, PONG, TEXT, door, flood, page
from tests.appd.test_connections import limit_descriptors
from tests.appd.test_manager import pass_sockets
from weft_runtime.appd.websocket_client import HANDSHAKE_TIMEOUT_S
from weft_runtime.framing import frame
from weft_runtime.protocol import NavigationGesture, PanelGesture, QueryRunning, RunningApps, Subscribe
from weft_runtime.wire import encode_msgpack

MIB = 1024 * 1024
NO_APPS = RunningApps(())
QUERY = b'{"type":"QUERY_RUNNING"}'
MANY = 500
ATTEMPTS = 3
"""A machine may have other work in one half of a comparison, but not each time."""


@pytest.fixture
def appd(start: Make) -> Appd:
    return start(WEFT_APPD_WS_PORT="0")


def wait_of(appd: Appd) -> float:
    """Seconds that somebody else waits for an answer: the median of some."""
    waits = []
    for _ in range(40):
        begun = time.monotonic()
        assert appd.control.ask(QueryRunning()) == NO_APPS
        waits.append(time.monotonic() - begun)
    return statistics.median(waits)


def status(connection: socket.socket) -> int:
    """Of the answer to a handshake; 0 for none."""
    line = connection.recv(4096).split(b"\r\n")[0]
    return int(line.split()[1]) if line else 0


# Time


@pytest.mark.parametrize("passed", [False, True])
def test_a_push_does_not_wait_until_the_one_before_is_acknowledged(
    make: Make, tmp_path: Path, passed: bool
) -> None:
    """By Nagle's algorithm it would, for 40 ms; compared with the Unix socket, which has no such thing."""
    appd = make(WEFT_APPD_WS_PORT="0")
    if passed:
        with socket.socket(socket.AF_UNIX) as control, socket.socket() as ws:
            control.bind(os.fspath(tmp_path / "passed"))
            ws.bind(("127.0.0.1", 0))
            pass_sockets(appd, "control:ws", [control, ws])
        appd.socket = tmp_path / "passed"
    else:
        appd.start()
    subscribed, asking = appd.connect(), appd.websocket()
    subscribed.ask(Subscribe(None))
    by_unix, by_websocket = [], []
    for number in range(60):  # each is answered, and then pushed
        begun = time.monotonic()
        gesture = subscribed.ask(PanelGesture(number, 1, 0.5, 0.5))
        assert isinstance(gesture, NavigationGesture)
        assert subscribed.receive() == gesture
        by_unix.append(time.monotonic() - begun)
        assert f'"gesture_type":{number},' in str(asking.recv(WAIT_SECONDS))
        begun = time.monotonic()
        asking.send(f'{{"type":"PANEL_GESTURE","gesture_type":{number},"fingers":2,"dx":0,"dy":0}}')
        assert asking.recv(WAIT_SECONDS) == asking.recv(WAIT_SECONDS)
        by_websocket.append(time.monotonic() - begun)
        assert isinstance(subscribed.receive(), NavigationGesture)
    assert statistics.median(by_websocket) < 10 * statistics.median(by_unix)


@pytest.mark.parametrize(
    ("first", "repeated"),
    [
        pytest.param(b"", raw_websocket.frame(PING, b"x" * 125), id="pings"),
        pytest.param(b"", raw_websocket.frame(PING), id="empty pings"),
        pytest.param(b"", raw_websocket.frame(PONG), id="pongs"),
        pytest.param(b"", raw_websocket.frame(BINARY), id="binary messages"),
        pytest.param(b"", raw_websocket.frame(TEXT), id="empty messages"),
        pytest.param(b"", raw_websocket.frame(TEXT, b"[" * 60_000), id="long messages"),
        pytest.param(
            raw_websocket.frame(TEXT, final=False),
            raw_websocket.frame(CONTINUATION, final=False),
            id="empty pieces of a message",
        ),
        pytest.param(
            b"",
            raw_websocket.frame(TEXT, final=False) + raw_websocket.frame(CONTINUATION),
            id="messages in pieces",
        ),
    ],
)
def test_whatever_a_client_sends_costs_the_others_no_more_than_requests(
    appd: Appd, first: bytes, repeated: bytes
) -> None:
    for _ in range(ATTEMPTS):
        with flood(appd, raw_websocket.frame(TEXT, QUERY) * MANY):
            usual = wait_of(appd)
        with flood(appd, repeated * max(1, 100_000 // len(repeated)), first):
            found = wait_of(appd)
        if found < 5 * usual:
            break
    assert found < 5 * usual


def test_what_a_client_has_said_is_forgotten_once_it_is_gone(appd: Appd) -> None:
    """Compared by the daemon's CPU time with a client that stays; none of these frames has an answer."""
    pong = raw_websocket.frame(PONG)
    said = pong * 20_000
    pid, used = appd.process.pid, []
    idle = len(descriptors(pid))
    for stays in (True, False):
        client = page(appd)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(said))
        before = cpu_seconds(pid)
        with appd.stopped():
            client.setblocking(False)
            sent = client.send(said)
            assert sent > len(said) / 4
            if not stays:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("2i", 1, 0))
                client.close()
        if stays:
            # It is answered behind all that it has said.
            client.setblocking(True)
            client.sendall(said[sent : sent + -sent % len(pong)] + raw_websocket.frame(PING))
            assert client.recv(100)
            client.close()
        eventually(lambda: len(descriptors(pid)) == idle, "the daemon has closed it")
        used.append(cpu_seconds(pid) - before)
    print("USED", used, sent)
    assert used[1] < used[0] / 3


def test_clients_that_send_as_fast_as_they_can_leave_room_for_another_page(appd: Appd) -> None:
    with flood(appd, raw_websocket.frame(PING, b"x" * 125) * MANY, clients=10):
        for _ in range(5):
            with page(appd) as other:
                other.sendall(raw_websocket.frame(TEXT, QUERY))
                assert b"RUNNING_APPS" in other.recv(4096)


# Memory


def until_full(connection: socket.socket, data: bytes, limit: int) -> int:
    """Send until the daemon reads no more, or `limit` bytes are sent; how many that took."""
    sent = 0
    connection.setblocking(False)
    while sent < limit and select.select([], [connection], [], 1)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += connection.send(data[sent % len(data) :])
    connection.settimeout(WAIT_SECONDS)
    return sent


def test_pongs_that_nobody_reads_are_bounded_and_none_is_lost(appd: Appd) -> None:
    limit = 64 * MIB  # far beyond what the kernel keeps for both sides
    before = memory(appd.process.pid)
    ping, pong_size = raw_websocket.frame(PING, b"x" * 125), 2 + 125
    with page(appd) as deaf:
        sent = until_full(deaf, ping * 1000, limit)
        assert sent < limit
        assert memory(appd.process.pid) - before < 2 * MIB
        assert appd.control.ask(QueryRunning()) == NO_APPS
        received = 0
        while received < sent // len(ping) * pong_size:
            received += len(deaf.recv(MIB))


def test_answers_that_nobody_reads_are_bounded_in_bytes(appd: Appd) -> None:
    appd.install("os._exit(1)")
    for _ in range(60):
        appd.until_stopped(appd.launch())
    before = memory(appd.process.pid)
    deaf = [page(appd) for _ in range(4)]
    for it in deaf:
        it.setblocking(False)
        # So that the kernel does not keep them all.
        it.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(BlockingIOError):
            it.send(raw_websocket.frame(TEXT, b'{"type":"QUERY_SESSIONS"}') * 1000)
    for _ in range(200):
        assert appd.control.ask(QueryRunning()) == NO_APPS
    assert memory(appd.process.pid) - before < 4 * MIB
    for it in deaf:
        it.close()


def test_a_message_in_ever_more_pieces_is_bounded_like_one_in_one(appd: Appd) -> None:
    before = memory(appd.process.pid)
    with page(appd) as client:
        client.sendall(raw_websocket.frame(TEXT, b"{", final=False))
        client.sendall(raw_websocket.frame(CONTINUATION, final=False) * 20_000)
        client.sendall(raw_websocket.frame(CONTINUATION, b'"type":"QUERY_RUNNING"', final=False))
        client.sendall(raw_websocket.frame(CONTINUATION, b"}"))
        assert b"RUNNING_APPS" in client.recv(4096)
        assert memory(appd.process.pid) - before < MIB
        with contextlib.suppress(OSError):  # it may be closed before all is sent
            client.sendall(raw_websocket.frame(TEXT, b"x", final=False))
            client.sendall(raw_websocket.frame(CONTINUATION, b"x" * 10, final=False) * 10_000)
        while (answer := client.recv(4096)) == b"\x89\0":
            pass  # a ping: the machine is that busy
        assert int.from_bytes(answer[2:4], "big") == 1009
        assert memory(appd.process.pid) - before < MIB


# Places and descriptors


def test_half_open_connections_make_room_and_take_no_descriptors(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0", WEFT_MAX_CONNECTIONS="10")
    idle = len(descriptors(appd.process.pid))
    with page(appd) as earlier, ExitStack() as stack:
        silent = [stack.enter_context(door(appd)) for _ in range(100)]
        for connection in silent[::2]:
            with contextlib.suppress(OSError):
                connection.sendall(HANDSHAKE[:-2])
        for _ in range(5):
            with page(appd) as later:
                later.sendall(raw_websocket.frame(TEXT, QUERY))
                assert b"RUNNING_APPS" in later.recv(4096)
        # Long before they would be closed for their silence.
        eventually(
            lambda: len(descriptors(appd.process.pid)) <= idle + 10,
            "no more than the limit is open",
            seconds=HANDSHAKE_TIMEOUT_S / 2,
        )
        # Those that came first went first.
        assert is_closed(silent[0])
        earlier.sendall(raw_websocket.frame(TEXT, QUERY))
        assert b"RUNNING_APPS" in earlier.recv(4096)


def is_closed(connection: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


def test_who_comes_when_all_places_are_taken_is_told_so_at_once(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0", WEFT_MAX_CONNECTIONS="10")
    with ExitStack() as stack:
        pages = [stack.enter_context(page(appd)) for _ in range(10)]
        idle = len(descriptors(appd.process.pid))
        silent = [stack.enter_context(door(appd)) for _ in range(200)]
        eventually(lambda: is_closed(silent[0]), "those that came first are closed")
        assert len(descriptors(appd.process.pid)) <= idle + 1 + 32
        for _ in range(50):
            late = stack.enter_context(door(appd))
            late.sendall(HANDSHAKE)
            assert status(late) == 503
        assert len(descriptors(appd.process.pid)) <= idle + 1 + 32
        assert appd.control.ask(QueryRunning()) == NO_APPS
        pages[0].close()
        eventually(lambda: knock(appd) == 101, "there is room again")


def knock(appd: Appd) -> int:
    with door(appd) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(HANDSHAKE)
        return status(connection)
    return 0


def test_connections_leave_descriptors_for_launches(appd: Appd) -> None:
    appd.run_app("ready(); wait()")
    limit_descriptors(appd, 80)
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(door(appd)).sendall(HANDSHAKE)
        eventually(lambda: knock(appd) != 101, "the rest is kept back")
        for _ in range(3):
            appd.run_app("ready(); wait()")
    limit_descriptors(appd, None)
    eventually(lambda: knock(appd) == 101, "there is room again")


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_handshake_that_is_not_finished_in_time_ends_the_connection(appd: Appd, is_slow: bool) -> None:
    begun = time.monotonic()
    with door(appd) as connection:
        connection.sendall(HANDSHAKE[:10])
        for byte in HANDSHAKE[10:40] if is_slow else b"":
            if select.select([connection], [], [], 0.3)[0]:
                break
            connection.sendall(bytes([byte]))
        assert is_closed(connection)
    assert HANDSHAKE_TIMEOUT_S * 0.9 < time.monotonic() - begun < HANDSHAKE_TIMEOUT_S + SLACK_SECONDS


@pytest.mark.parametrize(
    "lines",
    [
        b"X: " + b"x" * 20_000,
        b"X: x\r\n" * 4_000,
        b"X: x\r\n" * 200 + b"\r\n",
        b"Connection: " + b"a," * 1_000 + b"a\r\n\r\n",
        b"Sec-WebSocket-Protocol: " + b"a," * 1_000 + b"a\r\n\r\n",
    ],
)
def test_a_handshake_that_is_too_long_is_refused(appd: Appd, lines: bytes) -> None:
    with door(appd) as connection:
        connection.sendall(HANDSHAKE[:-2] + lines)
        assert status(connection) == 431
    assert knock(appd) == 101


def test_a_client_that_does_not_end_its_connection_is_ended(appd: Appd) -> None:
    """After the closing handshake, whatever it still sends, and if it does not read."""
    idle = len(descriptors(appd.process.pid))
    with page(appd) as client:
        client.sendall(raw_websocket.frame(raw_websocket.CLOSE))
        with contextlib.suppress(ConnectionError):
            while True:
                client.sendall(raw_websocket.frame(PING, b"x" * 125) * MANY)
        eventually(lambda: len(descriptors(appd.process.pid)) <= idle, "the connection is closed")


def test_a_push_to_all_places_and_long_answers_let_others_be_served(start: Make) -> None:
    """What a callback takes is held by the harness: one that takes long is an error in the log."""
    appd = start(WEFT_APPD_WS_PORT="0", WEFT_MAX_CONNECTIONS="256")
    appd.install("os._exit(1)")
    for _ in range(40):
        appd.until_stopped(appd.launch())
    with ExitStack() as stack:
        pages = [stack.enter_context(page(appd)) for _ in range(256)]
        for number in range(20):
            assert isinstance(appd.control.ask(PanelGesture(number, 1, 0.5, 0.5)), NavigationGesture)
        pushed = [it.recv(1 << 20) for it in pages[::16]]
        assert all(b"NAVIGATION_GESTURE" in text for text in pushed)
        for it in pages[::4]:
            it.sendall(raw_websocket.frame(TEXT, b'{"type":"QUERY_SESSIONS"}') * 3)
        for it in pages[::4]:
            answers = b""
            while answers.count(b'{"type":"SESSIONS"') < 3 or not answers.endswith(b"]}"):
                answers += it.recv(1 << 20)


def test_all_that_waits_for_clients_that_do_not_read_is_bounded_too(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0", WEFT_MAX_CONNECTIONS="256")
    before = memory(appd.process.pid)
    with ExitStack() as stack:
        for _ in range(256):
            stack.enter_context(page(appd))
        gesture = frame(encode_msgpack(PanelGesture(2**31, 2**31, 0.5, 0.5)))
        deadline = time.monotonic() + 8 * WAIT_SECONDS
        while not appd.has("it does not read"):
            assert time.monotonic() < deadline
            appd.control.send_bytes(gesture * 200)
            for _ in range(200):
                assert isinstance(appd.control.receive(), NavigationGesture)
        assert memory(appd.process.pid) - before < 64 * MIB
