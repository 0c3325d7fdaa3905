# SPDX-License-Identifier: Apache-2.0
"""Sockets that systemd passes in (sd_listen_fds_with_names(3)), by the systemd-python library."""

import os
import socket
from collections.abc import Mapping, Sequence

from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable


def passed_sockets() -> dict[str, list[socket.socket]]:
    """The sockets of this process by their FileDescriptorName=; the environment forgets them.

    One name may stand for several sockets: it is the name of all that a socket unit listens on, see
    systemd.socket(5). Raises WeftError(CONFIG_INVALID) where there are some but the library is not installed, and for a
    descriptor that is no socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    try:
        from systemd.daemon import listen_fds_with_names  # noqa: PLC0415 - only who is passed some needs it
    except ImportError:
        message = "systemd has passed sockets, but systemd-python is not installed"
        raise WeftError(Problem.CONFIG_INVALID, message, "pip install 'weft-runtime[journal]'") from None
    names: Mapping[int, str] = listen_fds_with_names(unset_environment=True)
    sockets: dict[str, list[socket.socket]] = {}
    for fd, name in sorted(names.items()):
        os.set_inheritable(fd, False)
        try:
            sockets.setdefault(name, []).append(socket.socket(fileno=fd))
        except OSError as error:
            problem = f"the descriptor named '{printable(name)}' is no socket: {error.strerror}"
            raise WeftError(Problem.CONFIG_INVALID, problem, "see the socket units that start it") from None
    return sockets


def check(name: str, sockets: Sequence[socket.socket], families: Sequence[socket.AddressFamily]) -> None:
    """Raises WeftError(CONFIG_INVALID) for one that connections of these address families cannot come in by."""
    for passed in sockets:
        is_listening = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if passed.family not in families or passed.type != socket.SOCK_STREAM or not is_listening:
            expected = " or ".join(family.name for family in families)
            message = f"the socket named '{printable(name)}' at {address(passed)} cannot be served"
            hint = f"in its socket unit: ListenStream= of {expected}, and Accept=no"
            raise WeftError(Problem.CONFIG_INVALID, message, hint)


def address(listener: socket.socket) -> str:
    """Where a socket listens, for people."""
    name = listener.getsockname()
    if isinstance(name, tuple):
        host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
        return printable(f"{host}:{name[1]}")
    text = os.fsdecode(name)
    return printable(f"@{text[1:]}" if text.startswith("\0") else text)
