# SPDX-License-Identifier: Apache-2.0
"""A connection to weft-appd over its control socket, for tools."""

import os
import socket
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import quote
from weft_runtime.framing import REPLY_MAX, FrameReader, frame
from weft_runtime.protocol import ProtocolError, Request, Response
from weft_runtime.wire import decode_response_msgpack, encode_msgpack

SYSTEM_SOCKET = Path("/run/weft/appd.sock")
_READ_SIZE = 64 * 1024


def socket_path(environ: Mapping[str, str]) -> Path:
    """The daemon's socket: the one that is set, that of the user's own daemon, or that of the system's."""
    if override := environ.get("WEFT_APPD_SOCKET"):
        return Path(override)
    own = Path(environ.get("XDG_RUNTIME_DIR") or "/nonexistent", "weft/appd.sock")
    try:
        return own if own.is_socket() else SYSTEM_SOCKET
    except OSError:  # somebody else's directory, as su(1) leaves it in the environment
        return SYSTEM_SOCKET


class DaemonClient:
    """One connection; a context manager. Requests are answered in their order."""

    def __init__(self, path: Path, *, timeout: float | None) -> None:
        """Connect; `timeout` in seconds is for each answer, None for ever.

        Raises WeftError: OS_ERROR where no daemon is there, NOT_PERMITTED where it may not be talked to; the
        hint says what to do.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._reader = FrameReader(limit=REPLY_MAX)
        self._bodies: deque[bytes] = deque()
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            raise _unreachable(path, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For select(): readable when something comes, but see `has_message`."""
        return self._socket.fileno()

    @property
    def has_message(self) -> bool:
        """Whether `receive` has something to return without looking at the socket."""
        return bool(self._bodies)

    def wait_for(self, seconds: float | None) -> None:
        """From now on `receive` waits so long; None is for ever."""
        self._socket.settimeout(seconds)

    def send(self, request: Request) -> None:
        """Raises WeftError(OS_ERROR)."""
        try:
            self._socket.sendall(frame(encode_msgpack(request)))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have said why before it hung up: `receive` has that, or says that it did
        except OSError as error:
            raise _lost(error.strerror or str(error)) from None

    def receive(self) -> Response:
        """The next answer or push. Raises WeftError(OS_ERROR) where none comes."""
        try:
            while not self._bodies:
                data = self._socket.recv(_READ_SIZE)
                if not data:
                    raise _lost("it closed the connection")
                self._bodies.extend(self._reader.feed(data))
            return decode_response_msgpack(self._bodies.popleft())
        except TimeoutError:
            raise _lost(f"no answer within {self._socket.gettimeout():g} s") from None
        except OSError as error:
            raise _lost(error.strerror or str(error)) from None
        except ProtocolError as error:
            raise _lost(f"its answer cannot be understood: {error}") from None

    def ask(self, request: Request) -> Response:
        """Send `request` and return its answer, on a connection without a subscription."""
        self.send(request)
        return self.receive()


def _unreachable(path: Path, error: OSError) -> WeftError:
    match error:
        case PermissionError():
            message = f"permission denied on {quote(str(path))}"
            return WeftError(Problem.NOT_PERMITTED, message, _how_to_get_in(path))
        case FileNotFoundError() | ConnectionRefusedError() | NotADirectoryError():
            message = f"no weft-appd is listening on {quote(str(path))}"
            hint = "start it: 'systemctl start weft-appd', or run weft-appd"
            return WeftError(Problem.OS_ERROR, message, hint)
        case _:
            message = f"cannot connect to {quote(str(path))}: {error.strerror or error}"
            return WeftError(Problem.OS_ERROR, message)


def _lost(reason: str) -> WeftError:
    return WeftError(Problem.OS_ERROR, f"lost weft-appd: {reason}", "see 'journalctl -u weft-appd'")


def _how_to_get_in(path: Path) -> str:
    try:
        group = path.group()
    except (OSError, KeyError):
        group = "weft"
    return f"become a member: 'usermod -aG {group} USER' as root, then log in again"
