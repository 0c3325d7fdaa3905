# SPDX-License-Identifier: Apache-2.0
"""Whatever a daemon answers, weftctl says one thing, and ends: no traceback, no wait beyond its time."""

import contextlib
import io
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft_runtime import programs
from weft_runtime.client import VALUES_MAX
from weft_runtime.ctl import daemon, launch, scene
from weft_runtime.ctl.main import main
from weft_runtime.framing import REPLY_MAX, frame

COMMANDS: Sequence[Sequence[str]] = (
    ("list", "--all"), ("list", "--all", "--json"), ("status",), ("status", "1"), ("status", "--json"), ("apps",),
    ("stop", "1"), ("stop", "org.example.app"), ("launch", "org.example.app"), ("launch", "--wait", "org.example.app"),
    ("watch",), ("watch", "--json"), ("doctor",), ("list", "--wide"), ("status", "org.example.app"),
    ("status", "org.example.app", "--json"), ("restart", "1"), ("restart", "org.example.app"), ("top", "--once"),
    ("launch", "--wait-stable", "0.01", "org.example.app"),
)  # fmt: skip
STATUSES = (0, 1, 134, 143, *range(164, 179))
ESCAPES = "\x1b]0;x\x07\x1b[2J\r\nnew\u202e\0"
SLOW_S = 0.5


class Liar:
    """A daemon in a thread: its answer to every request is whatever `answer` is; then it hangs up, or goes on."""

    def __init__(self, path: Path) -> None:
        self.answer = b""
        self.holds = False
        self.drips = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(path))
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(65536):
                for byte in self.answer if self.drips else ():
                    connection.sendall(bytes([byte]))
                    time.sleep(SLOW_S / 5)
                if not self.drips:
                    connection.sendall(self.answer)
                if not self.holds:
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Liar]:
    directory = tmp_path_factory.mktemp("liar")
    liar = Liar(directory / "appd.sock")
    environ = {
        "WEFT_APPD_SOCKET": str(directory / "appd.sock"),
        "HOME": str(directory),
        "PATH": "/usr/bin:/bin",
    }
    # What a doctor asks of other programs is the same each time, and takes its time.
    with (
        mock.patch.dict(os.environ, environ, clear=True),
        mock.patch.object(programs, "run", return_value=None),
        mock.patch.object(scene, "FORK_SERVER_S", 0),
    ):
        yield liar
    liar.close()


def run(command: Sequence[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(command)
    return status, out.getvalue(), err.getvalue()


def check(command: Sequence[str]) -> None:
    status, out, err = run(command)
    assert status in STATUSES, (command, status, err)
    assert "Traceback" not in err
    assert "internal error" not in err
    assert all(char.isprintable() or char == "\n" for char in out + err)
    assert status == 0 or err or command[0] == "doctor"
    assert "NaN" not in out
    assert "Infinity" not in out


def session(**values: object) -> list[object]:
    fields: dict[str, object] = {
        "session_id": 1, "app_id": "org.example.app", "state": "running", "pid": 1, "launched": 1.0, "ready": 2.0,
        "stopped": None, "exit_status": None, "signal": None, "reason": None,
    }  # fmt: skip
    return [*(fields | values).values()]


def sessions(**values: object) -> bytes:
    return frame(msgpack.packb(["SESSIONS", [session(**values)]]))


def status_of(value: object, text: str) -> bytes:
    answer = [
        "DAEMON_STATUS",
        text,
        1,
        value,
        text,
        text,
        2**64 - 1,
        0,
        0,
        text,
        [[text, text]],
        [text],
        None,
        0,
    ]
    return frame(msgpack.packb(answer))


ODD_NUMBERS = [math.nan, math.inf, -math.inf, 1e300, -1e300, -1e18, 2**64 - 1, -(2**63), 0, -1, 1e-320]
ANSWERS = {
    **{f"launched {value}": sessions(launched=value) for value in ODD_NUMBERS},
    **{f"stopped {value}": sessions(state="stopped", stopped=value) for value in ODD_NUMBERS},
    **{f"ready {value}": sessions(ready=value) for value in ODD_NUMBERS},
    **{f"since {value}": status_of(value, ESCAPES) for value in ODD_NUMBERS},
    "the largest": sessions(session_id=2**64 - 1, pid=2**64 - 1, exit_status=2**64 - 1, state="stopped"),
    "escapes": sessions(app_id=ESCAPES, reason=ESCAPES, signal=ESCAPES, state="stopped", stopped=3.0),
    "surrogates": sessions(app_id=b"\xed\xa0\x80", reason=b"\xff"),
    "wrong types": sessions(app_id=1, state=[], launched="x", signal={}),
    "another state": sessions(state="not_found"),
    "an unknown tag": frame(msgpack.packb(["NEW_TAG", 1])) * 100,
    "another tag": frame(msgpack.packb(["APP_READY", 1, ESCAPES])),
    "an error": frame(msgpack.packb(["ERROR", 77, ESCAPES])),
    "an error of 0": frame(msgpack.packb(["ERROR", 0, ""])),
    "launched": frame(msgpack.packb(["LAUNCH_ACK", 2**64 - 1, ESCAPES])),
    "subscribed": frame(msgpack.packb(["SUBSCRIBED", None])) + sessions(state="stopped"),
    "stopped": frame(msgpack.packb(["APP_STATE", 1, "stopped"])),
    "apps": frame(msgpack.packb(["INSTALLED_APPS", [[ESCAPES, ESCAPES, ESCAPES]]])),
    "nothing": b"",
    "half a frame": (100).to_bytes(4, "little") + b"\x92",
    "half a length": b"\1",
    "an empty frame": bytes(4),
    "a frame too large": (REPLY_MAX + 1).to_bytes(4, "little") + b"x" * 1000,
    "nested": frame(b"\x92\xa8SESSIONS" + b"\x91" * 3_000_000),
    "nested maps": frame(b"\x92\xa8SESSIONS" + b"\x81\xa1x" * 1_000_000),
    "many nothings": frame(b"\x92\xa8SESSIONS\xdd\0\xe0\0\0" + b"\xc0" * (14 * 1024 * 1024)),
    "many sessions": frame(b"\x92\xa8SESSIONS\xdd\0\x30\0\0" + b"\x91\xc0" * (3 * 1024 * 1024)),
    "an announcement": frame(b"\x92\xa8SESSIONS\xdd\xff\xff\xff\xff"),
    "an HTTP server": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_whatever_a_daemon_answers(name: str, liar: Liar) -> None:
    liar.answer = ANSWERS[name]
    is_large = len(liar.answer) > 1_000_000  # what takes its time to be sent
    for command in COMMANDS[:1] if is_large else COMMANDS:
        check(command)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_one_clear_error(value: float, liar: Liar) -> None:
    liar.answer = sessions(launched=value)
    reason = f"its answer cannot be understood: a number in it is {value}"
    assert run(["list"]) == (
        171,
        "",
        f"weftctl: lost weft-appd: {reason} [see 'journalctl _UID=$(id -u weft) + _PID=1 UNIT=weft-appd.service']\n",
    )


def test_an_answer_of_too_many_values_is_refused_before_it_is_decoded(liar: Liar) -> None:
    liar.answer = ANSWERS["many sessions"]
    began = time.thread_time()
    assert "its answer cannot be understood" in run(["list"])[2]
    liar.answer = frame(msgpack.packb(["SESSIONS", [[None] * 9] * (VALUES_MAX // 10 + 1)]))
    assert f"it has more than {VALUES_MAX} values" in run(["list"])[2]
    assert time.thread_time() - began < 10


@pytest.fixture
def slow(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> Iterator[Liar]:
    monkeypatch.setattr(daemon.connect, "__defaults__", (SLOW_S,))
    monkeypatch.setattr(launch, "ANSWER_TIMEOUT_S", SLOW_S)
    monkeypatch.setattr(scene, "ANSWER_TIMEOUT_S", SLOW_S)
    liar.holds = True
    yield liar
    liar.holds = liar.drips = False


ENDLESS = (
    ("list",),
    ("status",),
    ("apps",),
    ("stop", "1"),
    ("launch", "--no-wait", "org.example.app"),
    ("doctor",),
)


@pytest.mark.parametrize("name", ["nothing", "half a frame", "drip"])
def test_an_answer_that_does_not_come_is_not_waited_for(name: str, slow: Liar) -> None:
    slow.drips = name == "drip"
    slow.answer = sessions() if slow.drips else ANSWERS[name]
    for command in ENDLESS:
        status, _, err = run(command)
        assert status == (1 if command == ("doctor",) else 171)
        assert "no answer within 0.5 s" in err or command == ("doctor",)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20)
    | st.binary(max_size=20) | st.sampled_from(ODD_NUMBERS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
FIELDS = st.dictionaries(
    st.sampled_from(
        ["session_id", "app_id", "state", "pid", "launched", "ready", "stopped", "exit_status", "reason"]
    ),
    VALUES | st.sampled_from(["stopped", "starting", "SIGKILL", "x" * 3000]),
)
MESSAGES = (
    st.builds(lambda fields: ["SESSIONS", [session(**fields)]], FIELDS)
    | st.builds(
        lambda tag, values: [tag, *values],
        st.sampled_from(
            ["SESSIONS", "ERROR", "DAEMON_STATUS", "LAUNCH_ACK", "SUBSCRIBED", "APP_STATE", "X"]
        ),
        st.lists(VALUES, max_size=13),
    )
    | VALUES
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.builds(lambda value: frame(msgpack.packb(value) or b"\0"), MESSAGES) | st.binary(), max_size=3
    )
)
def test_no_answer_is_too_odd(liar: Liar, answers: list[bytes]) -> None:
    liar.answer = b"".join(answers)
    for command in COMMANDS:
        check(command)
