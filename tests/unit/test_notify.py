# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.notify against a real socket in place of the service manager's."""

import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft_runtime.journal import Level, Log
from weft_runtime.notify import SEND_TIMEOUT_S, Notifier, open_notifier

Lines = list[tuple[Level, str]]


@pytest.fixture
def lines() -> Lines:
    return []


@pytest.fixture
def log(lines: Lines) -> Log:
    return Log(lambda level, message, fields: lines.append((level, message)), Level.DEBUG)


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A service manager's socket, and its address in the environment."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@weft-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0") if request.param == "abstract" else name)
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield receiver


def opened(log: Log, manager: socket.socket) -> Notifier:
    assert manager.getsockname()
    return open_notifier(log, wanted=True, notify_socket="as in the environment")


def test_assignments_go_out_in_one_datagram(log: Log, lines: Lines, manager: socket.socket) -> None:
    notifier = opened(log, manager)
    assert notifier.active
    notifier.send("READY=1", "STATUS=the app is running")
    notifier.send("STOPPING=1")
    assert manager.recv(1000) == b"READY=1\nSTATUS=the app is running"
    assert manager.recv(1000) == b"STOPPING=1"
    assert lines == []


def test_a_status_is_utf8_which_is_all_that_a_service_manager_takes(
    log: Log, lines: Lines, manager: socket.socket
) -> None:
    opened(log, manager).send("STATUS=käse 漢字 \udcff")
    status = manager.recv(1000).decode()
    assert status.startswith("STATUS=käse 漢字 ")
    assert lines == []


def test_nothing_is_sent_unless_wanted(log: Log, lines: Lines, manager: socket.socket) -> None:
    notifier = open_notifier(log, wanted=False, notify_socket="as in the environment")
    assert not notifier.active
    notifier.send("READY=1")
    with pytest.raises(BlockingIOError):
        manager.recv(1000)
    assert lines == []


@pytest.mark.parametrize("address", [None, ""])
def test_without_a_socket_it_is_a_debug_message(log: Log, lines: Lines, address: str | None) -> None:
    notifier = open_notifier(log, wanted=True, notify_socket=address)
    assert not notifier.active
    notifier.send("READY=1")
    assert lines == [
        (Level.DEBUG, "notification was asked for, but there is no $NOTIFY_SOCKET: not notifying")
    ]


def refused(log: Log, lines: Lines, monkeypatch: pytest.MonkeyPatch, address: str) -> str:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = open_notifier(log, wanted=True, notify_socket=address)
    assert not notifier.active
    notifier.send("READY=1")
    [(level, message)] = lines
    assert level is Level.WARNING
    return message.removeprefix("cannot notify the service manager, ignoring: ")


def test_a_socket_that_is_not_there_is_a_warning(
    log: Log, lines: Lines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert refused(log, lines, monkeypatch, str(tmp_path / "nowhere")) == "No such file or directory"


def test_a_socket_that_nobody_has_open_is_a_warning(
    log: Log, lines: Lines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "dead"))
    assert refused(log, lines, monkeypatch, str(tmp_path / "dead")) == "Connection refused"


def test_an_impossible_address_is_a_warning(log: Log, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(log, lines, monkeypatch, "/" * 200) == "AF_UNIX path too long"


def test_a_service_manager_that_has_gone_is_a_warning(
    log: Log, lines: Lines, manager: socket.socket
) -> None:
    notifier = opened(log, manager)
    manager.close()
    notifier.send("READY=1")
    assert lines == [(Level.WARNING, "cannot notify the service manager, ignoring: Connection refused")]


def test_a_service_manager_that_does_not_read_is_waited_for_but_briefly(
    log: Log, lines: Lines, manager: socket.socket
) -> None:
    notifier = opened(log, manager)
    begun = time.monotonic()
    while not lines:
        notifier.send("STATUS=hello?")
    assert lines == [(Level.WARNING, "cannot notify the service manager, ignoring: timed out")]
    assert SEND_TIMEOUT_S * 0.9 <= time.monotonic() - begun < 10
