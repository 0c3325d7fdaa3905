# SPDX-License-Identifier: Apache-2.0
"""How the daemon ends: in time, with status 0, and with everything that it has started."""

import signal
import socket
import threading
import time

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import WAIT_SECONDS, Appd, eventually, is_gone
from tests.packages import APP_ID
from weft_runtime.protocol import (
    AppReady,
    AppState,
    Error,
    ErrorCode,
    LaunchAck,
    LaunchApp,
    QueryRunning,
    RunningApps,
    State,
    Subscribe,
    Subscribed,
    TerminateApp,
)

IGNORANT = "ignore_sigterm(); ready(); wait()"
GRACE_S = 2.0
PROMISE_S = GRACE_S + 1
SLACK_S = 1.0  # a busy machine, of which the rest is in the three attempts
ATTEMPTS = 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_ends_at_once(appd: Appd, number: signal.Signals) -> None:
    appd.process.send_signal(number)
    assert appd.process.wait(WAIT_SECONDS) == 0
    assert appd.find("stopping, 0 sessions to end")
    assert not appd.socket.exists()


def test_sessions_end_at_the_same_time_within_the_promise(start: Make) -> None:
    took = []
    for _ in range(ATTEMPTS):
        appd = start(WEFT_STOP_GRACE=str(GRACE_S))
        appd.install(IGNORANT)
        appd.install(
            "signal.signal(signal.SIGTERM, lambda *_: os._exit(0)); ready(); wait()",
            app_id="org.example.polite",
        )
        pids = []
        for _ in range(8):
            appd.until_ready(appd.launch(), appd.launch("org.example.polite"))
        pids = [session.pid for session in appd.sessions.values() if session.pid is not None]
        assert len(pids) == 16
        took.append(appd.stop())
        assert all(is_gone(pid) for pid in pids)
        assert appd.log_text.count("ended by SIGKILL") == 8
        assert appd.log_text.count("ended with status 0") == 8
        if took[-1] < PROMISE_S + SLACK_S:
            break
    assert GRACE_S <= min(took) < PROMISE_S + SLACK_S


def test_what_sessions_have_started_ends_too(start: Make) -> None:
    appd = start(WEFT_STOP_GRACE="0.3")
    grandchildren = []
    for number, own_session in enumerate([False, True]):
        app_id = f"org.example.parent{number}"
        appd.install(
            f"grandchild(own_session={own_session}); ignore_sigterm(); ready(); wait()", app_id=app_id
        )
        session = appd.launch(app_id)
        appd.until_ready(session)
        grandchildren.append(appd.note(session, "grandchild", app_id))
    appd.stop()
    # Not by whoever takes over the daemon's orphans: that is us here.
    assert [is_gone(pid) for pid in grandchildren] == [True, True]


def test_clients_hear_of_the_end_of_each_session_and_then_the_end(start: Make) -> None:
    appd = start(WEFT_STOP_GRACE="0.5")
    appd.install(IGNORANT)
    hearing, waiting = appd.connect(), appd.connect()
    assert hearing.ask(Subscribe(None)) == Subscribed(None)
    sessions = [appd.launch(), appd.launch()]
    appd.until_ready(*sessions)
    heard = [hearing.receive() for _ in range(4)]
    assert sum(isinstance(message, LaunchAck) for message in heard) == 2
    assert sum(isinstance(message, AppReady) for message in heard) == 2
    waiting.send(TerminateApp(sessions[0]))
    appd.find("ending it", sessions[0])
    appd.process.send_signal(signal.SIGTERM)
    stopped = sorted(hearing.receive() for _ in range(2))
    assert stopped == [AppState(session, State.STOPPED) for session in sessions]
    assert waiting.receive() == AppState(sessions[0], State.STOPPED)
    assert hearing.read_to_end() == b""
    assert appd.process.wait(WAIT_SECONDS) == 0


def test_while_it_ends_launches_are_refused_and_questions_answered(start: Make) -> None:
    appd = start(WEFT_STOP_GRACE="60")
    session = appd.run_app(
        "signal.signal(signal.SIGTERM, lambda *_: until('go') or os._exit(0)); ready(); wait()"
    )
    asking = appd.connect()
    assert isinstance(asking.ask(QueryRunning()), RunningApps)
    appd.process.send_signal(signal.SIGTERM)
    appd.find("ending it", session)
    assert asking.ask(LaunchApp(APP_ID, 0)) == Error(ErrorCode.SHUTTING_DOWN, "the daemon is shutting down")
    assert asking.ask(QueryRunning()) == RunningApps(())
    # Who comes now is not served any more, and does not hold anything up.
    late = appd.connect()
    late.send(QueryRunning())
    (appd.store / APP_ID / "go").touch()
    assert late.read_to_end() == b""
    assert appd.process.wait(WAIT_SECONDS) == 0


def test_being_asked_again_changes_nothing(start: Make) -> None:
    appd = start(WEFT_STOP_GRACE="1")
    session = appd.run_app(IGNORANT)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        appd.process.send_signal(number)
        appd.find("ending it", session)
    assert appd.process.wait(WAIT_SECONDS) == 0
    assert appd.log_text.count("stopping, 1 session to end") == 1
    assert "reload" not in appd.log_text


def test_a_websocket_client_that_does_not_answer_holds_nothing_up(start: Make) -> None:
    took = []
    for _ in range(ATTEMPTS):
        appd = start(WEFT_APPD_WS_PORT="0", WEFT_STOP_GRACE=str(GRACE_S))
        appd.run_app(IGNORANT)
        hearing = appd.websocket()
        with socket.create_connection(("127.0.0.1", appd.port), WAIT_SECONDS) as deaf:
            deaf.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert b" 101 " in deaf.recv(100)
            begun = time.monotonic()
            appd.process.send_signal(signal.SIGTERM)
            assert str(hearing.recv(WAIT_SECONDS)) == '{"type":"APP_STATE","session_id":1,"state":"stopped"}'
            assert appd.process.wait(WAIT_SECONDS) == 0
        took.append(time.monotonic() - begun)
        if took[-1] < PROMISE_S + SLACK_S / 2:
            break
    assert min(took) < PROMISE_S + SLACK_S / 2


def test_launches_under_way_are_ended_too(start: Make) -> None:
    appd = start(WEFT_STOP_GRACE="1")
    appd.install("ready(); wait()")
    launching = appd.connect()
    done = threading.Event()

    def launch() -> None:
        try:
            while not done.is_set():
                launching.ask(LaunchApp(APP_ID, 0))
        except (OSError, AssertionError):
            pass  # the daemon has gone

    thread = threading.Thread(target=launch)
    thread.start()
    try:
        eventually(lambda: len(appd.children) > 5, "some are launched")
        appd.process.send_signal(signal.SIGTERM)
        assert appd.process.wait(WAIT_SECONDS) == 0
    finally:
        done.set()
        thread.join()
    lines = [line.message for line in appd.log if line.session is not None]
    assert sum("launched by" in line for line in lines) == sum("ended " in line for line in lines)


@pytest.mark.parametrize("delay", [0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
def test_a_stop_during_a_reload_is_a_stop(start: Make, delay: float) -> None:
    appd = start(WEFT_STOP_GRACE="0.5")
    appd.run_app("ready(); wait()")
    appd.process.send_signal(signal.SIGHUP)
    moment = time.monotonic() + delay
    eventually(lambda: time.monotonic() >= moment, "the moment has come")
    appd.stop()
    assert appd.log_text.count("stopping, 1 session to end") == 1


def test_a_stop_during_the_start_is_a_stop(make: Make) -> None:
    appd = make()
    appd.install("ready(); wait()")
    appd.start()
    appd.run_app("ready(); wait()")
    appd.stop()
    before = appd.log_text.count("stopping,")
    appd.start()  # its restore begins just now
    appd.stop()
    assert appd.log_text.count("stopping,") == before + 1
