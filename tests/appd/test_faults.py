# SPDX-License-Identifier: Apache-2.0
"""Exceptions that nobody expects, raised in the middle of the real daemon: it tells them, answers, and goes on."""

import os
import socket
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.appd import compiled
from tests.appd.conftest import Make
from tests.appd.harness import REAL_RUNTIME, Appd, eventually
from tests.appd.test_persistence import BOTH, RUNNING, launch_both, saved, until_apps, until_saved
from tests.appd.test_real_runtime import SLEEPING
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.protocol import (
    AppState,
    Error,
    ErrorCode,
    LaunchApp,
    QueryAppState,
    QueryRunning,
    QueryStatus,
    Reload,
    Reloaded,
    Request,
    RunningApps,
    State,
    TerminateApp,
)

# The daemon, in which one function raises an exception once, as soon as a file is there.
DRIVER = """
import asyncio, functools, os, sys
import weft_runtime.appd.main
owner = {owner}
real = getattr(owner, {name!r})
def fault(*args, **kwargs):
    if os.path.exists({flag!r}):
        os.unlink({flag!r})
        raise {error}
    return real(*args, **kwargs)
setattr(owner, {name!r}, fault)
sys.argv[0] = "weft-appd"
{more}
sys.exit(weft_runtime.appd.main.main())
"""

ERRORS = ["ValueError('odd')", "KeyError('odd')", "MemoryError('odd')", "RecursionError('odd')",
          "asyncio.CancelledError('odd')"]  # fmt: skip


@pytest.fixture
def faulty(request: pytest.FixtureRequest, make: Make) -> Callable[..., Appd]:
    """Makes a daemon in which a function, an attribute of what a text says, raises an exception when it is armed."""
    # Any of them in any place would be an hour; each test has one of them for good.
    chosen = ERRORS[zlib.crc32(request.node.name.encode()) % len(ERRORS)]

    def faulty(owner: str, name: str, error: str = chosen, more: str = "", **settings: str) -> Appd:
        appd = make(**settings)
        code = DRIVER.format(
            owner=f"__import__('importlib').import_module('weft_runtime.appd.{owner.partition(':')[0]}')"
            + "".join(f".{part}" for part in owner.partition(":")[2].split(".") if part),
            name=name, flag=os.fspath(flag(appd)), error=error, more=more,
        )  # fmt: skip
        appd.program = (sys.executable, "-c", code)
        appd.expected_errors = ["internal error", "reload refused"]
        return appd

    return faulty


def flag(appd: Appd) -> Path:
    return appd.directory / "fault"


def arm(appd: Appd) -> None:
    flag(appd).touch()


def until_told(appd: Appd) -> None:
    eventually(lambda: not flag(appd).exists(), "it has happened")
    eventually(lambda: appd.log_text.count("crit: internal error") == 1, lambda: appd.log_text)
    assert "odd" in appd.log_text
    # The traceback, which makes lines of its own.
    assert ", in fault" in appd.log_text


@pytest.fixture(autouse=True)
def _tracebacks_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Appd, "_check_log", lambda appd: None)


def serves(appd: Appd) -> None:
    assert appd.connect().ask(QueryRunning()) is not None
    assert appd.process.poll() is None


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("handover", "execute"),
        ("handover", "check_command"),
        ("daemon", "load"),
        ("supervisor:Supervisor", "to_json"),
        ("supervisor:Supervisor", "close_fork_server"),
        ("websocket:WebSocketServer", "stop"),
    ],
)
def test_a_reload(faulty: Callable[..., Appd], owner: str, name: str) -> None:
    appd = faulty(owner, name, WEFT_APPD_WS_PORT="0")
    appd.start()
    session = appd.run_app(RUNNING)
    arm(appd)
    answer = appd.control.ask(Reload())
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.RELOAD_FAILED
    assert "internal error" in answer.message
    until_told(appd)
    assert appd.sessions[session].state is State.RUNNING
    appd.websocket().close()
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    assert appd.sessions[session].state is State.RUNNING


@pytest.mark.parametrize("error", ERRORS)
def test_a_reload_by_any_exception(faulty: Callable[..., Appd], error: str) -> None:
    appd = faulty("handover", "execute", error)
    appd.start()
    arm(appd)
    answer = appd.control.ask(Reload())
    assert isinstance(answer, Error)
    assert answer.message.startswith("reload refused, going on as before: internal error: the reload: ")
    until_told(appd)
    assert appd.control.ask(Reload()) == Reloaded(__version__)


REFUSES_ONCE = """
import weft_runtime.appd.handover as handover
execute = handover.execute
def refuse(*args):
    handover.execute = execute
    raise OSError("no")
handover.execute = refuse
"""


def test_the_websocket_is_opened_again_though_that_fails_once(faulty: Callable[..., Appd]) -> None:
    appd = faulty("websocket:WebSocketServer", "_accept_more", more=REFUSES_ONCE, WEFT_APPD_WS_PORT="0")
    appd.start()
    arm(appd)
    answer = appd.control.ask(Reload())
    assert isinstance(answer, Error)
    until_told(appd)
    appd.websocket().close()


def test_a_restore(faulty: Callable[..., Appd]) -> None:
    appd = faulty("restorer:Restorer", "_launch")
    appd.start()
    launch_both(appd)
    until_saved(appd, BOTH)
    appd.stop()
    arm(appd)
    appd.start()
    # It is tried again.
    until_apps(appd, "org.example.other", APP_ID)
    until_told(appd)
    appd.until_ready(appd.launch())


def test_reading_the_list(faulty: Callable[..., Appd]) -> None:
    appd = faulty("files", "read")
    appd.start()
    launch_both(appd)
    until_saved(appd, BOTH)
    appd.stop()
    appd.program = (*appd.program[:-1], appd.program[-1].replace("def fault(", "seen = []\ndef fault(").replace(
        "if os.path", "seen.append(args)\n    if 'last-session' in str(args[0]) and os.path"
    ))  # fmt: skip
    arm(appd)
    appd.start()
    eventually(lambda: not flag(appd).exists(), "it has happened")
    appd.until_ready(appd.launch())
    kept = saved(appd).with_name("last-session.refused.json")
    eventually(kept.exists, "the list that was not read is kept")
    assert kept.read_bytes() == BOTH
    appd.expected_files = {*appd.expected_files, "weft/last-session.refused.json"}
    appd.expected_errors += ["is no list of apps to start again", "cannot read the last session"]
    until_saved(appd, f'["{APP_ID}"]'.encode())


@pytest.mark.parametrize(
    ("owner", "name"), [("persistence:LastSession", "save"), ("files", "put"), ("daemon:Daemon", "_listed")]
)
def test_a_save(faulty: Callable[..., Appd], owner: str, name: str) -> None:
    appd = faulty(owner, name)
    appd.start()
    appd.install(RUNNING)
    arm(appd)
    appd.until_ready(appd.launch())
    until_told(appd)
    until_saved(appd, f'["{APP_ID}"]'.encode())


def test_an_accept(faulty: Callable[..., Appd]) -> None:
    appd = faulty("control:ControlServer", "_add")
    appd.start()
    arm(appd)
    refused = appd.connect()
    answer = refused.receive()
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.INTERNAL
    until_told(appd)
    assert appd.connect().ask(QueryRunning()) == RunningApps(())


@pytest.mark.parametrize(
    ("owner", "name", "ask"),
    [
        ("launcher:Launcher", "find", LaunchApp(APP_ID, 0)),
        ("supervisor:Supervisor", "_adopt", LaunchApp(APP_ID, 0)),
        ("supervisor:Supervisor", "find", TerminateApp(7)),
        ("status", "describe", QueryStatus()),
        ("dispatch:Dispatcher", "_running", QueryRunning()),
        ("connection", "decode_request_msgpack", QueryRunning()),
    ],
)
def test_a_request(faulty: Callable[..., Appd], owner: str, name: str, ask: Request) -> None:
    appd = faulty(owner, name)
    appd.start()
    appd.install(RUNNING)
    client = appd.connect()
    assert client.ask(QueryAppState(7)) == AppState(7, State.NOT_FOUND)
    arm(appd)
    answer = client.ask(ask)
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.INTERNAL
    assert client.read_to_end() == b""
    until_told(appd)
    second = appd.connect().ask(ask)
    assert not (isinstance(second, Error) and second.code == ErrorCode.INTERNAL)
    appd.until_ready(appd.launch())
    appd.disconnect()


@pytest.mark.parametrize("error", ERRORS)
def test_a_request_by_any_exception(faulty: Callable[..., Appd], error: str) -> None:
    appd = faulty("supervisor:Supervisor", "find", error)
    appd.start()
    arm(appd)
    answer = appd.connect().ask(TerminateApp(7))
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.INTERNAL
    until_told(appd)
    answer = appd.connect().ask(TerminateApp(7))
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.UNKNOWN_SESSION


@pytest.mark.parametrize("name", ["_hello", "is_current", "collect", "ask", "answer"])
def test_the_conversation_with_the_fork_server(faulty: Callable[..., Appd], name: str) -> None:
    if name == "is_current":
        name, owner = "take", "spares:Spares"
    else:
        owner = "forkserver:ForkServer"
    # The runtime that is beside the daemon's program follows plans.
    appd = faulty(owner, name, more=f"sys.argv[0] = {os.fspath(REAL_RUNTIME.with_name('weft-appd'))!r}")
    appd.environ |= {"WEFT_RUNTIME_BIN": os.fspath(REAL_RUNTIME), "WEFT_FORK_SERVER": "true"}
    if name == "_hello":
        arm(appd)
    appd.start()
    if name == "_hello":
        until_told(appd)
    compiled.install(appd, SLEEPING)
    eventually(lambda: len(appd.helpers) == 3, "a fork server is there, and what it has forked")
    if name == "collect":
        arm(appd)
        os.kill(min(appd.helpers), 9)
        until_told(appd)
    elif name != "_hello":
        arm(appd)
        for _ in range(1 if name == "take" else 3):
            appd.connect().ask(LaunchApp(APP_ID, 0))
        until_told(appd)
    serves(appd)
    eventually(lambda: len(appd.helpers) == 3, "a fork server is there again, and what it has forked")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("daemon:Daemon", "_tell_change"),
        ("daemon:Daemon", "_look_for_strays"),
        ("live:Live", "_act_at_deadline"),
        ("streams:Streams", "_summarize"),
        ("supervisor:Supervisor", "_ended"),
        ("ending", "tell"),
    ],
)
def test_a_timer_or_an_end(faulty: Callable[..., Appd], owner: str, name: str) -> None:
    appd = faulty(owner, name, WEFT_READY_TIMEOUT="3", WEFT_LOG_LINES="1", WEFT_LOG_INTERVAL="1")
    appd.start()
    appd.install("say(b'x\\n' * 9); until('go')")
    arm(appd)
    session = appd.launch()
    # It never says READY, and so is ended: its deadline must come whatever happened.
    appd.until_stopped(session)
    until_told(appd)
    appd.install(RUNNING)
    second = appd.launch()
    appd.until_ready(second)
    appd.control.ask(TerminateApp(second))
    until_saved(appd, b"[]")


def test_the_watchdogs_ping(faulty: Callable[..., Appd], tmp_path: Path) -> None:
    appd = faulty("daemon:Daemon", "_notify_watchdog")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(os.fspath(tmp_path / "notify"))
    manager.settimeout(30)
    appd.environ |= {"NOTIFY_SOCKET": os.fspath(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    appd.start()
    arm(appd)
    until_told(appd)
    for _ in range(3):
        while manager.recv(1000) != b"WATCHDOG=1":
            pass
    serves(appd)
    manager.close()
