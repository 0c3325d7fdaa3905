# SPDX-License-Identifier: Apache-2.0
"""A connection to weft-appd over its control socket, for tools."""

import math
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import msgpack

from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import quote
from weft_runtime.framing import REPLY_MAX, FrameReader, frame
from weft_runtime.protocol import ProtocolError, Request, Response
from weft_runtime.wire import decode_response_msgpack, encode_msgpack

SYSTEM_SOCKET = Path("/run/weft/appd.sock")

SEE_LOG = "journalctl _UID=$(id -u weft) + _PID=1 UNIT=weft-appd.service"
"""What shows the entries of the system's daemon, and of systemd about it. `journalctl -u` would show others as well: in
Debian 13 whatever claims to be about a core dump of the unit."""

VALUES_MAX = 250_000
"""Values of one answer: twenty thousand sessions have as many, and they take seconds of a small CPU."""

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
        self._path = path
        self._is_served = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._timeout = timeout
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
        self._timeout = seconds

    def send(self, request: Request) -> None:
        """Raises WeftError(OS_ERROR)."""
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(frame(encode_msgpack(request)))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have said why before it hung up: `receive` has that, or says that it did
        except OSError as error:
            raise _lost(error.strerror or str(error)) from None

    def receive(self) -> Response:
        """The next answer or push. Raises WeftError(OS_ERROR) where none comes, as a whole, in time."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        try:
            while not self._bodies:
                if deadline is not None and (left := deadline - time.monotonic()) > 0:
                    self._socket.settimeout(left)
                elif deadline is not None:
                    raise TimeoutError
                else:
                    self._socket.settimeout(None)
                data = self._socket.recv(_READ_SIZE)
                if not data:
                    raise self._cut_off("it closed the connection")
                self._is_served = True
                self._bodies.extend(self._reader.feed(data))
            body = self._bodies.popleft()
            _expect_bearable(body)
            answer = decode_response_msgpack(body)
            _expect_finite(answer)
            return answer
        except TimeoutError:
            raise no_answer(self._timeout or 0) from None
        except ConnectionError as error:
            raise self._cut_off(error.strerror or str(error)) from None
        except OSError as error:
            raise _lost(error.strerror or str(error)) from None
        except ProtocolError as error:
            raise _lost(f"its answer cannot be understood: {error}") from None

    def ask(self, request: Request) -> Response:
        """Send `request` and return its answer, on a connection without a subscription."""
        self.send(request)
        return self.receive()

    def _cut_off(self, reason: str) -> WeftError:
        """The daemon is gone; or nobody took the connection, and now nobody listens: it was stopped meanwhile."""
        if self._is_served:
            return _lost(reason)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as again:
            again.settimeout(0)
            try:
                again.connect(os.fspath(self._path))
            except (FileNotFoundError, ConnectionRefusedError):
                return _not_running(self._path, f"is not running any more: {reason}")
            except OSError:
                pass
        return _lost(reason)


def _unreachable(path: Path, error: OSError) -> WeftError:
    match error:
        case PermissionError():
            message = f"permission denied on {quote(str(path))}"
            return WeftError(Problem.NOT_PERMITTED, message, _how_to_get_in(path))
        case FileNotFoundError() | ConnectionRefusedError() | NotADirectoryError():
            return _not_running(path, f"is not running: nobody listens on {quote(str(path))}")
        case _:
            message = f"cannot connect to {quote(str(path))}: {error.strerror or error}"
            return WeftError(Problem.OS_ERROR, message)


def _not_running(path: Path, how: str) -> WeftError:
    hint = "systemctl start weft-appd"
    if path != SYSTEM_SOCKET:
        hint = f"start it: '{hint}', or run weft-appd"
    return WeftError(Problem.OS_ERROR, f"weft-appd {how}", hint)


def no_answer(seconds: float) -> WeftError:
    """The daemon has had so much time."""
    return _lost(f"no answer within {seconds:g} s")


def _expect_bearable(body: bytes) -> None:
    """Raises ProtocolError for a message of so many values that to decode it would take minutes."""
    left = VALUES_MAX

    def count(values: Sequence[object]) -> Sequence[object]:
        nonlocal left
        left -= len(values) + 1
        if left < 0:
            raise ProtocolError(f"it has more than {VALUES_MAX} values")
        return ()

    # The library counts fast, and does not know the messages.
    unpacker = msgpack.Unpacker(
        raw=True, strict_map_key=False, max_buffer_size=len(body), max_array_len=VALUES_MAX,
        max_map_len=VALUES_MAX, list_hook=count, object_pairs_hook=count, ext_hook=lambda *_: None,
    )  # fmt: skip
    unpacker.feed(body)
    try:
        unpacker.unpack()
    except ProtocolError:
        raise
    except Exception as error:  # it has a dozen of its own, ValueError and RuntimeError among them
        raise ProtocolError(f"it is no message ({type(error).__name__})") from None


def _expect_finite(values: Iterable[object]) -> None:
    """Raises ProtocolError for a number that is none: no time of a session is, and JSON does not have it."""
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ProtocolError(f"a number in it is {value}")
        if isinstance(value, tuple):
            _expect_finite(value)


def _lost(reason: str) -> WeftError:
    return WeftError(Problem.OS_ERROR, f"lost weft-appd: {reason}", f"see '{SEE_LOG}'")


def _how_to_get_in(path: Path) -> str:
    try:
        group = path.group()
    except (OSError, KeyError):
        group = "weft"
    return f"become a member: 'usermod -aG {group} USER' as root, then log in again"
