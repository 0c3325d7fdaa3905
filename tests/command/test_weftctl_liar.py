# SPDX-License-Identifier: Apache-2.0
"""The programs that ask a daemon against one that lies or is silent: an error or a result, and no endless wait."""

import io
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tests.command.device import PROGRAMS
from tests.command.harness import RUN_SECONDS
from tests.command.liar import Conversation, framed, lying
from tests.packages import APP_ID
from weft_runtime import client
from weft_runtime.ctl import commands as ctl_commands
from weft_runtime.ctl import daemon, launch, main
from weft_runtime.framing import REPLY_MAX
from weft_runtime.protocol import QuerySessions

HOSTILE = "\x1b]0;pwn\x07\x1b[2J\x1b[31mred\r\nnew\u202e\0"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202e]")


def session(**changes: object) -> list[object]:
    values: dict[str, object] = {
        "id": 1, "app": APP_ID, "state": "stopped", "pid": 1, "launched": 1.0, "ready": 2.0, "stopped": 3.0,
        "status": 0, "signal": None, "reason": None,
    }  # fmt: skip
    return list((values | changes).values())


def sane(tag: str, sessions: list[list[object]], text: str = APP_ID) -> list[object]:
    """Answers of the right form."""
    match tag:
        case "QUERY_SESSIONS":
            return [["SESSIONS", sessions]]
        case "LAUNCH_APP":
            return [["LAUNCH_ACK", 1, text]]
        case "SUBSCRIBE":
            return [["SUBSCRIBED", None], ["APP_READY", 1, text], ["APP_STATE", 1, "stopped"]]
        case "QUERY_APP_STATE" | "TERMINATE_APP":
            return [["APP_STATE", 1, "stopped"]]
    return [["ERROR", 77, text]]


def answering(messages: Callable[[str], list[object]]) -> Conversation:
    return lambda client, tag: client.sendall(b"".join(map(framed, messages(tag))))


SESSIONS: dict[str, list[list[object]]] = {
    "impossible times": [session(launched=1e300, ready=-1e300, stopped=-1e18)],
    "huge numbers": [session(id=2**64 - 1, pid=2**64 - 1, status=2**64 - 1), session(launched=-1e300, pid=0)],
    "texts that are no names": [session(app=HOSTILE, reason=HOSTILE, signal=HOSTILE)],
    "twins": [session(), session(), session(state="running")],
}  # fmt: skip


def run(path: Path, *args: str, program: str = "weftctl") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [PROGRAMS / program, *args], env={"PATH": "/usr/bin:/bin", "WEFT_APPD_SOCKET": str(path), "TZ": "UTC"},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip


def check(done: subprocess.CompletedProcess[bytes]) -> None:
    """What a person may see, whoever has sent it."""
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err, err
    assert "internal error" not in err, err
    assert 0 <= done.returncode < 256
    assert not CONTROL.search(out + err), (out, err)


@pytest.mark.parametrize("name", SESSIONS)
def test_what_journalctl_and_the_other_programs_make_of_it(name: str, tmp_path: Path) -> None:
    socket_ = tmp_path / "s"
    with lying(socket_, answering(lambda tag: sane(tag, SESSIONS[name], HOSTILE))):
        for args in (["logs", "1"], ["launch", "-f", APP_ID]):
            check(run(socket_, *args))
        check(run(socket_, "uninstall", "org.example.none", program="weft-pack"))
        check(run(socket_, "--reload", program="weft-appd"))


def test_a_time_that_no_clock_can_have_is_shown_as_nothing(tmp_path: Path) -> None:
    socket_ = tmp_path / "s"
    with lying(socket_, answering(lambda tag: sane(tag, SESSIONS["impossible times"]))):
        shown = run(socket_, "status", "1").stdout.decode().splitlines()
    (launched,) = (line for line in shown if line.startswith("Launched:"))
    assert launched.split() == ["Launched:", "-,", "-"]


# In this process, with time-outs of a moment: a daemon that says nothing, or will not stop.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (daemon, ctl_commands, launch):
        monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(daemon.connect, "__defaults__", (1.0,))


def ctl(path: Path, *args: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_APPD_SOCKET", str(path))
        code = main.main(args)
    return code, out.getvalue(), err.getvalue()


def drip(client: socket.socket, tag: str) -> None:
    """An answer a byte at a time: each comes soon enough, all of them never."""
    for byte in framed(["SESSIONS", [session(reason="x" * 100)]]):
        time.sleep(0.4)
        client.sendall(bytes([byte]))


def silent_about(silent_tag: str, sessions: list[list[object]]) -> Conversation:
    def answer(client: socket.socket, tag: str) -> None:
        if tag != silent_tag:
            client.sendall(framed(["SUBSCRIBED", None] if tag == "SUBSCRIBE" else sane(tag, sessions)[0]))

    return answer


@pytest.mark.parametrize(
    ("conversation", "commands"),
    [
        (lambda client, tag: client.sendall(b"\x64\0\0\0\x92"), [["launch", APP_ID], ["stop", APP_ID]]),
        (drip, [["stop", "1"]]),
        (silent_about("SUBSCRIBE", [session()]), [["launch", APP_ID], ["launch", "-w", APP_ID]]),
        (silent_about("QUERY_SESSIONS", []), [["stop", "1"], ["launch", "-w", APP_ID]]),
    ],
    ids=["half a frame", "drip", "no subscription", "no sessions"],
)
def test_no_daemon_makes_it_wait_for_ever(
    conversation: Conversation, commands: list[list[str]], tmp_path: Path, impatient: None
) -> None:
    socket_ = tmp_path / "s"
    with lying(socket_, conversation):
        for args in commands:
            code, _, err = ctl(socket_, *args)
            assert (code, "Traceback" in err) == (171, False), err
            assert "lost weft-appd: no answer within 1 s" in err, err


def test_an_end_that_is_never_told_is_not_waited_for_once_it_is_known(
    tmp_path: Path, impatient: None
) -> None:
    """The daemon says that the session runs, then that it has ended, and never answers who ended it."""
    asked = 0

    def answer(client: socket.socket, tag: str) -> None:
        nonlocal asked
        asked += tag == "QUERY_SESSIONS"
        state = {"state": "running" if asked < 4 else "stopped"}
        if tag == "QUERY_SESSIONS":
            client.sendall(framed(["SESSIONS", [session(**state)]]))

    socket_ = tmp_path / "s"
    with lying(socket_, answer):
        code, _, err = ctl(socket_, "stop", "1")
    assert (code, asked) == (171, 4)
    assert "no answer within 1 s" in err


def shortest(count: int) -> bytes:
    return framed(["SESSIONS", [session(app="", launched=0, ready=None, stopped=None)] * count])


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (shortest(20_000), 0),
        (shortest(REPLY_MAX // 32), 171),
        (framed(["SESSIONS", [session(reason="\u00e9" * 300)] * 20_000]), 0),
        (framed(b"\x81\xa1x\xdd\0\xf0\0\0" + bytes(REPLY_MAX - 8)), 171),
    ],
    ids=["many sessions", "half a million", "long texts", "breadth"],
)
def test_the_largest_answer_takes_seconds_not_minutes(answer: bytes, status: int, tmp_path: Path) -> None:
    socket_ = tmp_path / "s"
    assert len(answer) <= REPLY_MAX + 4
    with lying(socket_, lambda client, tag: client.sendall(answer)):
        done = run(socket_, "list", "--all")
    check(done)
    assert done.returncode == status


def test_why_a_connection_is_hung_up_on_is_told(tmp_path: Path) -> None:
    """The daemon says so before it has read anything."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.sendall(framed(["ERROR", 13, "the daemon is ending"]))
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with client.DaemonClient(path, timeout=10) as connected:
            thread.join()
            answer = connected.ask(QuerySessions())
    assert tuple(answer) == (13, "the daemon is ending")
