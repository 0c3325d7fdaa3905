# SPDX-License-Identifier: Apache-2.0
"""What a supervisor and a fork server say to each other, and what neither must take for it."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft_runtime import fork_protocol
from weft_runtime.fork_protocol import Descriptors, ProtocolError, Request

ARGUMENTS = ["org.example.app", "7", "--preopen", "/a b\nc::/data"]


def received(data: bytes, hints: list[str] | None = None) -> list[str] | None:
    hints = [] if hints is None else hints
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    try:
        return fork_protocol.read_order(reading, hints.append)
    finally:
        os.close(reading)


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20), max_size=5))
def test_an_order_arrives_as_it_was_given(arguments: list[str]) -> None:
    assert received(fork_protocol.order(arguments)) == arguments


def test_an_order_may_hold_any_bytes() -> None:
    arguments = [os.fsdecode(b"/\xff\xfe")]
    assert received(fork_protocol.order(arguments)) == arguments


def test_hints_may_come_before_it() -> None:
    hints: list[str] = []
    data = fork_protocol.hint("org.example.one") + fork_protocol.hint("org.example.two")
    assert received(data + fork_protocol.order(ARGUMENTS), hints) == ARGUMENTS
    assert hints == ["org.example.one", "org.example.two"]
    assert received(data) is None


@pytest.mark.parametrize("size", range(len(fork_protocol.order(ARGUMENTS))))
def test_the_beginning_of_an_order_is_none(size: int) -> None:
    assert received(fork_protocol.order(ARGUMENTS)[:size]) is None


def test_hello_names_files() -> None:
    assert fork_protocol.parse_hello(fork_protocol.hello(["/a", "/b c"])) == ["/a", "/b c"]


@pytest.mark.parametrize("message", [b"", b"READY\n", b"weft-fork-server 2\n/a", b"\xff\0"])
def test_another_greeting_is_no_hello(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        fork_protocol.parse_hello(message)


@pytest.fixture
def ends() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@pytest.mark.parametrize("likely", ["", "org.example.app"])
@pytest.mark.parametrize("procs", ["", "/sys/fs/cgroup/a/cgroup.procs"])
def test_a_request_takes_its_descriptors_along(
    ends: tuple[socket.socket, socket.socket], procs: str, likely: str
) -> None:
    supervisor, server = ends
    files = Descriptors(*(os.memfd_create(name) for name in Descriptors._fields))
    server.send(fork_protocol.forked(42))
    with supervisor, server:
        # The answer stands there before the question: what counts is what the other side receives.
        assert fork_protocol.request(supervisor, Request(procs, likely, files)) == 42
        received = fork_protocol.receive(server)
    assert received is not None
    assert (received.procs, received.likely) == (procs, likely)
    for sent, got in zip(files, received.descriptors, strict=True):
        assert os.path.sameopenfile(sent, got)
        assert not os.get_inheritable(got)
        os.close(sent)
        os.close(got)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            fork_protocol.failed(OSError(11, "Resource temporarily unavailable")),
            "Resource temporarily unavailable",
        ),
        (b"-1", "-1"),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_any_other_answer_is_the_reason_for_having_no_process(
    ends: tuple[socket.socket, socket.socket], answer: bytes, text: str
) -> None:
    supervisor, server = ends
    server.send(answer)
    with supervisor, server, pytest.raises(ProtocolError, match=text):
        fork_protocol.request(supervisor, Request("", "", Descriptors(0, 1, 2, 0)))


def test_a_supervisor_that_has_gone_asks_for_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    supervisor, server = ends
    supervisor.close()
    with server:
        assert fork_protocol.receive(server) is None
