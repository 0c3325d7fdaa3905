# SPDX-License-Identifier: Apache-2.0
"""What a supervisor and a fork server say to each other, and what neither must take for it."""

import os
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft_runtime import fork_protocol
from weft_runtime.fork_protocol import DESCRIPTORS_MAX, MESSAGE_MAX, ProtocolError
from weft_runtime.plan import SIZE_MAX
from weft_runtime.runtime import main

DIGEST = bytes(range(32))


@given(st.binary(max_size=32), st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8"))))
def test_hello_names_an_engine_and_files(made_by: bytes, files: list[str]) -> None:
    assert fork_protocol.parse_hello(fork_protocol.hello(made_by, files)) == (made_by, files)


def test_a_file_may_have_any_name() -> None:
    files = [os.fsdecode(b"/\xff\xfe")]
    assert fork_protocol.parse_hello(fork_protocol.hello(DIGEST, files)) == (DIGEST, files)


@pytest.mark.parametrize(
    "message",
    [
        b"", b"READY\n", b"\xff\0", b"weft-fork-server 1\n/a", b"weft-fork-server 2", b"weft-fork-server 2\n/a",
        b"weft-fork-server 3\n00\n/a",
    ],
)  # fmt: skip
def test_another_greeting_is_no_hello(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        fork_protocol.parse_hello(message)


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_no_hello(message: bytes) -> None:
    try:
        fork_protocol.parse_hello(message)
    except ProtocolError:
        pass


@pytest.fixture
def ends() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@pytest.mark.parametrize("procs", ["", "/sys/fs/cgroup/a/cgroup.procs", os.fsdecode(b"/\xff")])
def test_a_request_names_a_control_group_or_none(procs: str) -> None:
    message = fork_protocol.request(procs)
    assert message  # an empty one would be the end of the conversation
    assert fork_protocol.parse_request(message) == procs


@pytest.mark.parametrize("count", range(DESCRIPTORS_MAX + 1))
def test_a_message_takes_its_descriptors_along(
    ends: tuple[socket.socket, socket.socket], count: int
) -> None:
    sender, receiver = ends
    files = [os.memfd_create(str(number)) for number in range(count)]
    with sender, receiver:
        fork_protocol.send(sender, b"m" * SIZE_MAX, files)
        message, received = fork_protocol.receive(receiver)
    assert message == b"m" * SIZE_MAX
    for sent, got in zip(files, received, strict=True):
        assert os.path.sameopenfile(sent, got)
        assert not os.get_inheritable(got)
        os.close(sent)
        os.close(got)


def test_the_program_knows_the_option() -> None:
    assert main.FORK_SERVER == fork_protocol.OPTION


def test_a_plan_fits_into_a_message() -> None:
    assert SIZE_MAX < MESSAGE_MAX


@given(st.integers(1, 2**22))
def test_an_answer_is_a_number(pid: int) -> None:
    assert fork_protocol.parse_answer(fork_protocol.forked(pid), [0] * DESCRIPTORS_MAX) == pid


@pytest.mark.parametrize(
    ("answer", "descriptors", "text"),
    [
        (fork_protocol.failed(OSError(11, "Resource temporarily unavailable")), 0, "Resource temporarily unavailable"),
        (b"-1", DESCRIPTORS_MAX, "-1"),
        (b"\xff", 0, "\N{REPLACEMENT CHARACTER}"),
        (b"", 0, "it has ended"),
        (b"7", DESCRIPTORS_MAX - 1, "descriptors are missing"),
    ],
)  # fmt: skip
def test_any_other_answer_is_the_reason_for_having_no_process(
    answer: bytes, descriptors: int, text: str
) -> None:
    with pytest.raises(ProtocolError, match=re.escape(text)):
        fork_protocol.parse_answer(answer, [0] * descriptors)


def test_who_has_gone_says_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    supervisor, server = ends
    supervisor.close()
    with server:
        assert fork_protocol.receive(server) == (b"", [])
