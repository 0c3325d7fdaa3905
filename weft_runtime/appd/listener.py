# SPDX-License-Identifier: Apache-2.0
"""The control socket itself, where systemd does not pass one in, and who is at the other end of a connection."""

import os
import socket
import struct
from pathlib import Path

from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import quote

SOCKET_MODE = 0o660


def listen(path: Path) -> socket.socket:
    """Make the control socket at `path`; one that nobody listens on is replaced.

    Raises WeftError: CONFIG_INVALID where another daemon is alive on it, OS_ERROR, NOT_PERMITTED.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_socket():
            if _is_alive(path):
                message = f"another weft-appd is listening on {quote(str(path))}"
                raise WeftError(
                    Problem.CONFIG_INVALID, message, "stop it first, or set another WEFT_APPD_SOCKET"
                )
            path.unlink()
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        raise from_os_error(f"listen on {quote(str(path))}", error) from None
    except WeftError:
        listener.close()
        raise
    return listener


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # its backlog is full: somebody is there
            return True
        return True


def peer(connection: socket.socket) -> tuple[int, int, int]:
    """Process, user and group at the other end (unix(7), SO_PEERCRED)."""
    size = struct.calcsize("3i")
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid, gid
