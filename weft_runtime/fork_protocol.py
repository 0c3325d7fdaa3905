# SPDX-License-Identifier: Apache-2.0
"""What a supervisor and a fork server say to each other.

A supervisor executes `PROGRAM --fork-server` with a Unix socket (SOCK_SEQPACKET) at descriptor 3. A program that can
fork sessions answers with a hello, the files that it is made of; any other does not, and is executed for each
session instead. The hello says too what compiled code it takes, as the cache of it does. Then, for each session:

- the supervisor sends the path of the cgroup.procs file to enter, or a zero byte where there is none;
- the fork server answers with the number of a child of the *supervisor*, with descriptors of: the child (pidfd_open(2)),
  the ends to read from of its standard output, its standard error and its report (`WEFT_REPORT_FD`), which do not block,
  and a socket;
- by that socket the supervisor sends the plan that the child follows, with the open descriptor of its compiled code, and
  perhaps that of its standard input. Without a plan the child ends when the socket is closed: so no app runs in a child
  that the supervisor has not heard of.

Environment, working directory and limits of a session are those that the fork server was started with.
"""

from __future__ import annotations

import os
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET
from sys import byteorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterable, Sequence

OPTION = "--fork-server"
SERVER_FD = 3

MESSAGE_MAX = 64 * 1024
"""Bytes of a message; a session whose plan is longer is executed."""

DESCRIPTORS_MAX = 5
"""Of a message."""

_HELLO = "weft-fork-server 2"
_FAILED = "failed: "

_FD_SIZE = 4  # an int of C
_ANCILLARY_MAX = CMSG_SPACE(DESCRIPTORS_MAX * _FD_SIZE)


class ProtocolError(Exception):
    """The other side does not speak this protocol, or could not do what it was asked for; the text says what."""


def hello(made_by: bytes, files: Iterable[str]) -> bytes:
    """The fork server can fork; it takes code that an engine of the digest `made_by` has made, and is made of `files`."""
    return "\n".join([_HELLO, made_by.hex(), *files]).encode(errors="surrogateescape")


def parse_hello(message: bytes) -> tuple[bytes, list[str]]:
    """The digest, and the files. Raises ProtocolError."""
    try:
        greeting, made_by, *files = message.decode(errors="surrogateescape").split("\n")
        if greeting == _HELLO:
            return bytes.fromhex(made_by), files
    except ValueError:
        pass
    raise ProtocolError("it does not say hello as a fork server does")


def request(procs: str) -> bytes:
    """Ask for a process that waits for its plan, in the control group whose file `procs` is, if there is one."""
    return os.fsencode(procs) or b"\0"


def parse_request(message: bytes) -> str:
    """The file to write its number to; may be empty."""
    return os.fsdecode(message.rstrip(b"\0"))


def forked(pid: int) -> bytes:
    """The answer to a request."""
    return b"%d" % pid


def failed(error: OSError) -> bytes:
    """The answer where there is no child."""
    return f"{_FAILED}{error.strerror or error}".encode()


def parse_answer(message: bytes, descriptors: Sequence[int]) -> int:
    """The number of the child that came with `descriptors`. Raises ProtocolError."""
    if not message.isdigit():
        text = message.decode(errors="replace")
        raise ProtocolError(text.removeprefix(_FAILED) or "it has ended")
    if len(descriptors) != DESCRIPTORS_MAX:
        raise ProtocolError("descriptors are missing")
    return int(message)


def send(connection: socket, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a message with descriptors. Raises OSError."""
    if descriptors:
        data = b"".join([fd.to_bytes(_FD_SIZE, byteorder) for fd in descriptors])
        connection.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, data)])
    else:
        connection.send(message)


def receive(connection: socket) -> tuple[bytes, list[int]]:
    """The next message and its descriptors, which are closed on exec; nothing at the end. Raises OSError."""
    message, ancillary, _, _ = connection.recvmsg(MESSAGE_MAX, _ANCILLARY_MAX, MSG_CMSG_CLOEXEC)
    fds = []
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            for at in range(0, len(data), _FD_SIZE):
                fds.append(int.from_bytes(data[at : at + _FD_SIZE], byteorder))
    return message, fds
