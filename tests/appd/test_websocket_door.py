# SPDX-License-Identifier: Apache-2.0
"""Who gets in by the WebSocket, who is thrown out, and where the door is."""

import socket
import stat
import time
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.appd.conftest import Make
from tests.appd.harness import WAIT_SECONDS, Appd, eventually, memory
from tests.appd.test_connections import limit_descriptors
from weft_runtime.framing import frame
from weft_runtime.protocol import NavigationGesture, PanelGesture, QueryRunning, RunningApps
from weft_runtime.wire import encode_msgpack

MIB = 1024 * 1024
SWITCHING, UNAUTHORIZED, FORBIDDEN, UNAVAILABLE = 101, 401, 403, 503
TOKEN = "s3cret-tökén"
ORIGINS = "https://shell.example http://localhost:8080"


def knock(appd: Appd, *headers: str, host: str | None = "127.0.0.1", path: str = "/appd") -> int:
    """Ask for a WebSocket by hand; the status of the answer, 0 for none."""
    with door(appd) as connection:
        shake(connection, *headers, host=host, path=path)
        return answer(connection)


def door(appd: Appd) -> socket.socket:
    return socket.create_connection(("127.0.0.1", appd.port), WAIT_SECONDS)


def shake(connection: socket.socket, *headers: str, host: str | None, path: str = "/appd") -> None:
    lines = [
        f"GET {path} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *headers, "", "",
    ]  # fmt: skip
    connection.sendall("\r\n".join(lines).encode())


def answer(connection: socket.socket) -> int:
    line = connection.recv(4096).split(b"\r\n")[0]
    return int(line.split()[1]) if line else 0


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", SWITCHING),
        ("127.0.0.1:7410", SWITCHING),
        ("localhost:1", SWITCHING),
        ("LocalHost", SWITCHING),
        ("[::1]:7410", SWITCHING),
        ("example.org", FORBIDDEN),
        ("127.0.0.1.example.org", FORBIDDEN),
        ("localhost.example.org:7410", FORBIDDEN),
        ("", FORBIDDEN),
        ("[", FORBIDDEN),
        ("[::1", FORBIDDEN),
        ("localhost@example.org", FORBIDDEN),
        (None, FORBIDDEN),
    ],
)
def test_the_host_must_be_the_loopback(start: Make, host: str | None, status: int) -> None:
    """Else a page whose name was made to point here could come in as of the same origin."""
    assert knock(start(WEFT_APPD_WS_PORT="0"), host=host) == status


def test_two_hosts_are_none(start: Make) -> None:
    assert knock(start(WEFT_APPD_WS_PORT="0"), "Host: 127.0.0.1") in (400, FORBIDDEN)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://shell.example", SWITCHING),
        ("http://localhost:8080", SWITCHING),
        ("https://shell.example.evil.org", FORBIDDEN),
        ("https://shell.example:8443", FORBIDDEN),
        ("http://shell.example", FORBIDDEN),
        ("https://shell.example/", FORBIDDEN),
        ("http://localhost", FORBIDDEN),
        ("null", FORBIDDEN),
        ("", FORBIDDEN),
        ("*", FORBIDDEN),
    ],
)
def test_the_origin_must_be_absent_or_listed_exactly(start: Make, origin: str, status: int) -> None:
    appd = start(WEFT_APPD_WS_PORT="0", WEFT_APPD_WS_ORIGINS=ORIGINS)
    assert knock(appd, f"Origin: {origin}") == status
    assert knock(appd) == SWITCHING


def test_without_a_list_no_page_gets_in(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0")
    assert knock(appd, "Origin: http://localhost") == FORBIDDEN
    assert knock(appd, f"Origin: http://127.0.0.1:{appd.port}") == FORBIDDEN
    assert knock(appd) == SWITCHING


def test_a_token_is_asked_for_in_a_header_or_in_the_query(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f" {TOKEN}\n")
    appd = make(WEFT_APPD_WS_PORT="0", WEFT_APPD_WS_TOKEN_FILE=str(file))
    appd.start()
    assert knock(appd) == UNAUTHORIZED
    assert knock(appd, "Authorization: Bearer wrong") == UNAUTHORIZED
    assert knock(appd, "Authorization: Bearer") == UNAUTHORIZED
    assert knock(appd, path="/appd?token=wrong") == UNAUTHORIZED
    assert knock(appd, path="/appd?token=") == UNAUTHORIZED
    assert knock(appd, path=f"/appd?tokens={TOKEN[:6]}") == UNAUTHORIZED
    assert knock(appd, path="/appd?token=s3cret-t%C3%B6k%C3%A9n") == SWITCHING
    assert knock(appd, path="/appd?x=1&token=wrong&token=s3cret-t%C3%B6k%C3%A9n") == SWITCHING
    assert (
        knock(appd, "Origin: https://evil.example", path="/appd?token=s3cret-t%C3%B6k%C3%A9n") == FORBIDDEN
    )


def test_a_token_in_a_header(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret")
    appd = make(WEFT_APPD_WS_PORT="0", WEFT_APPD_WS_TOKEN_FILE=str(file))
    appd.start()
    assert knock(appd, "Authorization: Bearer s3cret") == SWITCHING
    assert knock(appd, "Authorization: Bearer s3cre") == UNAUTHORIZED
    assert knock(appd, "Authorization: Bearer s3crets") == UNAUTHORIZED


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_token_file_without_a_token_keeps_the_daemon_from_starting(
    make: Make, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    appd = make(WEFT_APPD_WS_PORT="0", WEFT_APPD_WS_TOKEN_FILE=str(file))
    for option in ((), ("--check",)):
        done = appd.run("--config", str(appd.config), *option)
        assert done.status == 178
        assert f"token file {'' if content is None else file}" in done.stderr
    assert not appd.socket.exists()


def test_the_port_is_in_a_file_while_it_is_open(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0")
    file = appd.runtime / "weft/appd.wsport"
    assert file.read_bytes() == str(appd.port).encode()
    assert stat.S_ISREG(file.stat().st_mode)
    assert knock(appd) == SWITCHING
    appd.stop()
    assert not file.exists()


def test_off_is_no_port_at_all(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="off")
    assert not (appd.runtime / "weft/appd.wsport").exists()
    sockets = Path(f"/proc/{appd.process.pid}/net/tcp").read_text()
    inodes = [line.split()[9] for line in sockets.splitlines()[1:]]
    from_daemon = {str(path.readlink()) for path in Path(f"/proc/{appd.process.pid}/fd").iterdir()}
    assert not [inode for inode in inodes if f"socket:[{inode}]" in from_daemon]


def test_a_port_that_is_taken_is_a_clear_error_and_leaves_nothing(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        appd = make(WEFT_APPD_WS_PORT=str(port))
        done = appd.run("--config", str(appd.config))
    assert done.status == 171
    assert f"err: cannot listen on 127.0.0.1:{port}: Address already in use [set another" in done.stderr
    assert not list((appd.runtime / "weft").iterdir())


def test_a_port_file_that_cannot_be_written_is_a_warning(make: Make) -> None:
    appd = make(WEFT_APPD_WS_PORT="0")
    (appd.runtime / "weft/appd.wsport/x").mkdir(parents=True)
    appd.start()
    assert appd.find("appd.wsport").startswith("warning: cannot write ")
    assert appd.control.ask(QueryRunning()) == RunningApps(())


def test_connections_beyond_the_limit_are_told_so(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0", WEFT_MAX_CONNECTIONS="2")
    first, _ = appd.websocket(), appd.websocket()
    with pytest.raises(InvalidStatus) as refused:
        appd.websocket()
    assert refused.value.response.status_code == UNAVAILABLE
    first.close()
    eventually(lambda: knock(appd) == SWITCHING, "there is room again")
    # The control socket has a limit of its own.
    assert appd.control.ask(QueryRunning()) == RunningApps(())


def test_who_does_not_read_is_dropped_at_nobodys_cost(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0")
    deaf, hearing = door(appd), appd.websocket()
    with deaf:
        shake(deaf, host="localhost")
        assert answer(deaf) == SWITCHING
        before = memory(appd.process.pid)
        batch = 200
        gesture = frame(encode_msgpack(PanelGesture(2**31, 2**31, 0.5, 0.5)))
        deadline = time.monotonic() + 8 * WAIT_SECONDS
        while not appd.has("it does not read"):
            assert time.monotonic() < deadline
            appd.control.send_bytes(gesture * batch)
            for _ in range(batch):
                assert isinstance(appd.control.receive(), NavigationGesture)
                assert "NAVIGATION_GESTURE" in str(hearing.recv(WAIT_SECONDS))
        assert memory(appd.process.pid) - before < 8 * MIB
    assert appd.find("dropping WebSocket client ").startswith("notice: ")


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\n", b"nonsense\r\n\r\n", b"\x16\x03\x01" * 100, b"x" * 100_000]
)
def test_whatever_is_no_websocket_is_turned_away(start: Make, data: bytes) -> None:
    appd = start(WEFT_APPD_WS_PORT="0")
    with door(appd) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
    assert b" 101 " not in received
    assert knock(appd) == SWITCHING


def test_connections_wait_while_there_are_no_descriptors(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0")
    assert appd.control.ask(QueryRunning()) == RunningApps(())
    limit_descriptors(appd, 0)
    with door(appd) as connection:
        shake(connection, host="localhost")
        for _ in range(100):
            assert appd.control.ask(QueryRunning()) == RunningApps(())
        limit_descriptors(appd, None)
        assert answer(connection) == SWITCHING
