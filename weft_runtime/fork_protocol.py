# SPDX-License-Identifier: Apache-2.0
"""What a supervisor and a fork server say to each other.

A supervisor executes `PROGRAM --fork-server` with a Unix socket (SOCK_SEQPACKET) at descriptor 3. A program that can
fork sessions answers with a hello, the files that it is made of; any other does not, and is executed for each
session instead. Then, for each session:

- the supervisor sends the path of the cgroup.procs file to enter, or nothing, and on a second line the id of the app that
  is most likely, or nothing, with four descriptors: the one to read the order from, standard output, standard error, and
  the report (`WEFT_REPORT_FD`);
- the fork server answers with the number of a child of the *supervisor*, which has or will have all of these;
- before the order may come hints, each a line with a question mark and an app's id: it may be the app of the order, and
  what needs only the id can be done while the supervisor is still looking at the launch;
- the child runs what the order says once it has come: the command line without the program, each argument ended by a
  zero byte, after a line with their size in bytes. Without a whole order it ends.

Environment, working directory and limits of a session are those that the fork server was started with.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # each launch imports this module for OPTION alone
    from socket import socket

OPTION = "--fork-server"
SERVER_FD = 3

MESSAGE_MAX = 64 * 1024
"""Bytes of a message."""

_HELLO = "weft-fork-server 1"
_FAILED = "failed: "


class Descriptors(NamedTuple):
    """What a session gets, in the order in which they are sent."""

    order: int
    stdout: int
    stderr: int
    report: int


class Request(NamedTuple):
    """What a fork is asked for with."""

    procs: str
    """The file to write its number to; may be empty."""
    likely: str
    """The app that it can expect to run; may be empty. No more than a guess."""
    descriptors: Descriptors


class ProtocolError(Exception):
    """The other side does not speak this protocol, or could not do what it was asked for; the text says what."""


def hello(files: Iterable[str]) -> bytes:
    """The fork server can fork; it is made of `files`."""
    return "\n".join([_HELLO, *files]).encode(errors="surrogateescape")


def parse_hello(message: bytes) -> list[str]:
    """The files. Raises ProtocolError."""
    greeting, *files = message.decode(errors="surrogateescape").split("\n")
    if greeting != _HELLO:
        raise ProtocolError("it does not say hello as a fork server does")
    return files


def request(server: "socket", wanted: Request) -> int:
    """Ask for a session's process; its number. Raises ProtocolError or OSError."""
    from socket import send_fds  # noqa: PLC0415

    send_fds(server, [os.fsencode(f"{wanted.procs}\n{wanted.likely}")], wanted.descriptors)
    answer = server.recv(MESSAGE_MAX).decode(errors="replace")
    if not answer.isascii() or not answer.isdigit():
        raise ProtocolError(answer.removeprefix(_FAILED) or "it has ended")
    return int(answer)


def receive(supervisor: "socket") -> Request | None:
    """The next request; None once the supervisor has closed its side. Raises OSError."""
    from socket import recv_fds  # noqa: PLC0415

    data, fds, _, _ = recv_fds(supervisor, MESSAGE_MAX, len(Descriptors._fields))
    for fd in fds:
        os.set_inheritable(fd, False)  # Python 3.11 overlooks the flag for that
    if len(fds) != len(Descriptors._fields):
        return None
    procs, _, likely = os.fsdecode(data).partition("\n")
    return Request(procs, likely, Descriptors(*fds))


def forked(pid: int) -> bytes:
    """The answer to a request."""
    return str(pid).encode()


def failed(error: OSError) -> bytes:
    """The answer where there is no child."""
    return f"{_FAILED}{error.strerror}".encode()


def order(arguments: Sequence[str]) -> bytes:
    """What to write, and then to close, for a session to begin."""
    data = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    return b"%d\n%s" % (len(data), data)


def hint(app_id: str) -> bytes:
    """What to write before the order of an app that may be launched now."""
    return b"?%s\n" % os.fsencode(app_id)


def read_order(fd: int, on_hint: Callable[[str], None]) -> list[str] | None:
    """Wait for an order; None if none comes any more, or not all of one. Raises OSError.

    `on_hint` is called with the app's id of each hint, as it comes.
    """
    data = b""
    while chunk := os.read(fd, MESSAGE_MAX):
        data += chunk
        while data.startswith(b"?") and b"\n" in data:
            line, _, data = data.partition(b"\n")
            on_hint(os.fsdecode(line[1:]))
    size, _, arguments = data.partition(b"\n")
    if size != b"%d" % len(arguments):
        return None
    return [os.fsdecode(argument) for argument in arguments.split(b"\0")[:-1]]
