# SPDX-License-Identifier: Apache-2.0
"""Reload under load: sessions, clients and what is half-done between them all live on."""

import contextlib
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.appd.client import Control
from tests.appd.conftest import Make
from tests.appd.harness import WAIT_SECONDS, Appd, Finished, eventually, state_of
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.framing import frame
from weft_runtime.protocol import (
    AppReady,
    AppState,
    Error,
    ErrorCode,
    LaunchAck,
    LaunchApp,
    QueryAppState,
    QueryRunning,
    Reload,
    Reloaded,
    RunningApp,
    RunningApps,
    State,
    Subscribe,
    Subscribed,
    TerminateApp,
)
from weft_runtime.wire import encode_msgpack

STOPS_LATE = "signal.signal(signal.SIGTERM, lambda *_: until('go') or os._exit(0)); ready(); wait()"

STEADY, SLOW, SHORT = 25, 25, 40
RELOADS = 8
# What the sessions of the test under load do; those that end have a status that tells which they were.
BEHAVIOURS = {
    "org.example.steady": "ready(); wait()",
    "org.example.slow": "for byte in b'READY\\n': say(bytes([byte])); signal.sigtimedwait([], 0.5)\nwait()",
    "org.example.short": "ready(); signal.sigtimedwait([], 0.3); ends_because('done ' + SESSION); os._exit(7)",
}


def reload(appd: Appd) -> None:
    assert appd.control.ask(Reload()) == Reloaded(__version__)


def test_under_load_nothing_is_lost_and_nothing_said_twice(appd: Appd) -> None:
    for app_id, behaviour in BEHAVIOURS.items():
        appd.install(behaviour, app_id=app_id)
    pid = appd.process.pid
    hearing = appd.connect()
    assert hearing.ask(Subscribe(None)) == Subscribed(None)
    heard: Counter[object] = Counter()
    over, ended = threading.Event(), threading.Event()

    def listen() -> None:
        with contextlib.suppress(OSError, AssertionError):
            while True:
                message = hearing.receive()
                heard[type(message).__name__, *message[:1]] += 1
        ended.set()

    def launch(connection: Control, app_id: str, count: int, answers: list[object]) -> None:
        for _ in range(count):
            answers.append(connection.ask(LaunchApp(app_id, 0)))

    reloads: list[object] = []

    def keep_reloading() -> None:
        connection = Control(appd.socket, 2 * WAIT_SECONDS)
        while len(reloads) < RELOADS and not over.is_set():
            reloads.append(connection.ask(Reload()))
        connection.close()

    answers: list[object] = []
    threads = [
        threading.Thread(target=launch, args=(appd.connect(), app_id, count, answers))
        for app_id, count in zip(BEHAVIOURS, (STEADY, SLOW, SHORT), strict=True)
    ]
    listener, reloader = threading.Thread(target=listen), threading.Thread(target=keep_reloading)
    for thread in (listener, reloader, *threads):
        thread.start()
    try:
        for thread in threads:
            thread.join(4 * WAIT_SECONDS)
        reloader.join(4 * WAIT_SECONDS)
        count = STEADY + SLOW + SHORT
        assert reloads == [Reloaded(__version__)] * RELOADS
        assert all(isinstance(answer, LaunchAck) for answer in answers)
        assert sorted(answer.session_id for answer in answers if isinstance(answer, LaunchAck)) == list(
            range(1, count + 1)
        )
        appd.until_ready(*range(1, count + 1))
        short = [
            number for number, session in appd.sessions.items() if session.app_id == "org.example.short"
        ]
        for number in short:
            session = appd.until_stopped(number)
            assert (session.exit_status, session.reason) == (7, f"done {number}")
        expected = Counter({("LaunchAck", number): 1 for number in range(1, count + 1)})
        expected += Counter({("AppReady", number): 1 for number in range(1, count + 1)})
        expected += Counter({("AppState", number): 1 for number in short})
        eventually(lambda: heard.total() >= expected.total(), "all pushes have come")
        assert heard == expected
        assert appd.process.pid == pid
        assert state_of(pid) in "SR"
        assert len(appd.children) == STEADY + SLOW
        for number in range(1, count + 1):
            appd.until_logged("ended with status 7" if number in short else "ready after", number)
            lines = appd.messages(number)
            assert sum("launched by" in line for line in lines) == 1
            assert sum("ready after" in line for line in lines) == 1
            assert sum("ended with status 7" in line for line in lines) == (number in short)
    finally:
        over.set()
        appd.process.terminate()  # which ends the listener
        listener.join(WAIT_SECONDS)
        reloader.join(WAIT_SECONDS)
    assert ended.is_set()
    assert appd.process.wait(WAIT_SECONDS) == 0


def test_everything_that_is_known_is_known_afterwards(appd: Appd) -> None:
    appd.install("ready(); ends_because('bored'); os._exit(3)")
    appd.until_stopped(appd.launch())
    session = appd.run_app("ready(); until('go'); ends_because('tired'); os._exit(4)")
    before = appd.sessions
    pid = appd.process.pid
    reload(appd)
    assert appd.sessions == before
    assert appd.process.pid == pid
    assert appd.find("lives on") == "info: reloaded, 1 session lives on"
    (appd.store / APP_ID / "go").touch()
    assert appd.until_stopped(session).reason == "tired"
    assert appd.launch() == 3


def test_a_line_that_is_half_written_is_put_together_and_a_half_ready_too(appd: Appd) -> None:
    appd.install(
        "say(b'one '); say(b'two ', 2); until('go1'); say(b'line\\nREA'); until('go2'); say(b'DY\\n', 1); wait()"
    )
    session = appd.launch()
    for step in ("go1", "go2"):
        reload(appd)
        (appd.store / APP_ID / step).touch()
        if step == "go1":
            appd.find("one line", session)
    appd.until_ready(session)
    reload(appd)
    appd.control.ask(TerminateApp(session))
    appd.until_logged("ended ", session)
    lines = appd.messages(session)
    assert lines.count("info: one line") == 1
    assert lines.count("warning: two ") == 1
    assert not any("REA" in line for line in lines)


def test_deadlines_are_not_begun_again(start: Make) -> None:
    appd = start(WEFT_READY_TIMEOUT="3", WEFT_STOP_GRACE="3")
    appd.install("ignore_sigterm(); note('there', 1); wait()")
    begun = time.monotonic()
    session = appd.launch()
    appd.note(session, "there")
    eventually(lambda: time.monotonic() > begun + 2, "much of the first time is over")
    reload(appd)
    appd.find("ending it: it did not say READY within 3 s", session)
    begun = time.monotonic()
    eventually(lambda: time.monotonic() > begun + 2, "much of the second time is over")
    reload(appd)
    ended = appd.until_stopped(session)
    assert ended.reason == "it did not say READY within 3 s: killed by SIGKILL"
    assert ended.stopped is not None
    # Two seconds more for each that is begun again.
    assert 5.9 < ended.stopped - ended.launched < 6 + 3.5


def test_who_waits_is_answered_once_and_what_waits_behind_is_not_lost(start: Make) -> None:
    appd = start(WEFT_STOP_GRACE="60")  # a busy machine may reload for seconds
    session = appd.run_app(STOPS_LATE)
    waiting = appd.connect()
    waiting.send(TerminateApp(session), QueryAppState(session), QueryRunning())
    appd.find("ending it", session)
    reload(appd)
    assert waiting.is_quiet
    (appd.store / APP_ID / "go").touch()
    stopped = AppState(session, State.STOPPED)
    assert [waiting.receive() for _ in range(3)] == [stopped, stopped, RunningApps(())]
    waiting.send(QueryAppState(session))
    assert waiting.receive() == stopped
    assert waiting.is_quiet


def test_half_a_frame_can_be_completed(appd: Appd) -> None:
    data = frame(encode_msgpack(QueryAppState(7)))
    connections = [appd.connect() for _ in range(len(data) - 1)]
    for number, connection in enumerate(connections):
        assert connection.ask(QueryRunning()) == RunningApps(())
        connection.send_bytes(data[: number + 1])
    reload(appd)
    for number, connection in enumerate(connections):
        connection.send_bytes(data[number + 1 :])
        assert connection.receive() == AppState(7, State.NOT_FOUND)
        assert connection.is_quiet


def test_answers_that_are_not_read_yet_are_kept_and_requests_behind_them_see_all_sessions(
    appd: Appd,
) -> None:
    session = appd.run_app("ready(); wait()")
    slow = appd.connect()
    answer = frame(encode_msgpack(RunningApps((RunningApp(session, APP_ID),))))
    count = 20_000
    requests = frame(encode_msgpack(QueryRunning())) * count
    slow.socket.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(requests):
            sent += slow.socket.send(requests[sent : sent + 10_000])
            assert appd.control.ask(QueryAppState(session)) == AppState(session, State.RUNNING)
    assert sent < len(requests)
    slow.socket.settimeout(WAIT_SECONDS)
    reading = threading.Thread(target=lambda: received.append(read_all(slow, len(answer) * count)))
    received: list[bytes] = []
    sending = threading.Thread(target=lambda: slow.socket.sendall(requests[sent:]))
    appd.control.send(Reload())
    reading.start()
    sending.start()
    reading.join()
    sending.join()
    assert appd.control.receive() == Reloaded(__version__)
    assert received[0] == answer * count


def read_all(connection: Control, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.socket.recv(1000_000)
        assert part
        data += part
    return data


def test_subscriptions_live_on(appd: Appd) -> None:
    appd.install("ready(); wait()")
    hearing, one, none = appd.connect(), appd.connect(), appd.connect()
    assert hearing.ask(Subscribe(None)) == Subscribed(None)
    assert one.ask(Subscribe(2)) == Subscribed(2)
    assert none.ask(QueryRunning()) == RunningApps(())
    reload(appd)
    appd.until_ready(appd.launch(), appd.launch())
    for session in (1, 2):
        appd.control.ask(TerminateApp(session))
    assert Counter(type(hearing.receive()) for _ in range(6)) == {LaunchAck: 2, AppReady: 2, AppState: 2}
    assert [type(one.receive()) for _ in range(3)] == [LaunchAck, AppReady, AppState]
    assert [hearing.is_quiet, one.is_quiet, none.is_quiet] == [True] * 3


def test_no_descriptor_leaks_into_what_is_launched_afterwards(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0")
    appd.install("note('descriptors', descriptors()); ready(); wait()")
    appd.until_ready(appd.launch())
    others = [appd.connect() for _ in range(3)]
    assert [other.ask(Subscribe(7)) for other in others] == [Subscribed(7)] * 3
    for number in (2, 3):
        reload(appd)
        session = appd.launch()
        assert session == number
        assert sorted(appd.note(session, "descriptors")) == ["0", "1", "2", "3"]


def test_what_was_dropped_is_told_though_the_app_stays_silent(start: Make) -> None:
    appd = start(WEFT_LOG_LINES="10", WEFT_LOG_INTERVAL="3")
    session = appd.run_app("ready(); say(b'x\\n' * 500); note('said', 1); wait()")
    appd.note(session, "said")
    reload(appd)
    assert appd.find("were dropped", session).endswith(": more than 10 lines in 3 s")


def test_websocket_clients_are_disconnected_and_come_back_to_the_same_port(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0", WEFT_STOP_GRACE="60")  # a busy machine may reload for seconds
    session = appd.run_app(STOPS_LATE)
    port, page, waiting = appd.port, appd.websocket(), appd.websocket()
    # One that waits for the end of a session must not hold the reload up.
    waiting.send(f'{{"type":"TERMINATE_APP","session_id":{session}}}')
    appd.find("ending it", session)
    begun = time.monotonic()
    reload(appd)
    assert time.monotonic() - begun < WAIT_SECONDS / 2
    with pytest.raises(Exception, match="1001"):
        page.recv(WAIT_SECONDS)
    assert appd.port == port
    again = appd.websocket()
    again.send('{"type":"QUERY_APP_STATE","session_id":1}')
    assert again.recv(WAIT_SECONDS) == '{"type":"APP_STATE","session_id":1,"state":"stopping"}'
    (appd.store / APP_ID / "go").touch()
    assert again.recv(WAIT_SECONDS) == '{"type":"APP_STATE","session_id":1,"state":"stopped"}'


def test_the_list_of_sessions_stays_current(appd: Appd) -> None:
    """What was to be saved when the reload came is saved after it."""
    appd.install("ready(); wait()")
    for number in range(1, 4):
        appd.control.send(LaunchApp(APP_ID, 0), Reload())
        assert appd.control.receive() == LaunchAck(number, APP_ID)
        assert appd.control.receive() == Reloaded(__version__)
    expected = ("[" + ",".join([f'"{APP_ID}"'] * 3) + "]").encode()
    path = appd.runtime / "weft/last-session.json"
    eventually(lambda: path.exists() and path.read_bytes() == expected, "it is saved")


def test_by_signal(appd: Appd) -> None:
    session = appd.run_app("ready(); wait()")
    appd.process.send_signal(1)
    assert appd.find("lives on") == "info: reloaded, 1 session lives on"
    assert appd.sessions[session].state is State.RUNNING


def test_it_has_its_name_afterwards(appd: Appd) -> None:
    def name() -> str:
        return Path(f"/proc/{appd.process.pid}/comm").read_text().strip()

    assert name() == "weft-appd"
    for _ in range(2):
        appd.control.ask(Reload())
        assert name() == "weft-appd"


def test_by_command(appd: Appd) -> None:
    session = appd.run_app("ready(); wait()")
    done = appd.run("--reload")
    assert done == Finished(0, f"reloaded, weft-appd {__version__} is running\n", "")
    assert appd.sessions[session].state is State.RUNNING


def test_a_command_without_a_daemon_says_so(make: Make) -> None:
    appd = make()
    appd.environ["WEFT_APPD_SOCKET"] = str(appd.socket)
    done = appd.run("--reload")
    assert (done.status, done.stdout) == (171, "")
    assert f"err: weft-appd is not running: nobody listens on '{appd.socket}' [start it: " in done.stderr


def test_all_who_ask_at_once_are_answered_once(appd: Appd) -> None:
    asking = [appd.connect() for _ in range(5)]
    for connection in asking:
        connection.send(Reload(), QueryRunning())
    for connection in asking:
        assert connection.receive() == Reloaded(__version__)
        assert connection.receive() == RunningApps(())
        assert connection.is_quiet


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_is_not_for_everybody(appd: Appd) -> None:
    assert appd.control.ask(QueryRunning()) == RunningApps(())
    appd.socket.chmod(0o666)
    appd.socket.parent.chmod(0o755)
    pid = os.fork()
    if pid == 0:  # a process of somebody else, who cannot look into the directories above
        status = 1
        with contextlib.suppress(BaseException):
            os.chdir(appd.socket.parent)
            os.setgid(65534)
            os.setuid(65534)
            foreign = Control(appd.socket.relative_to(appd.socket.parent), WAIT_SECONDS)
            answer = foreign.ask(Reload())
            assert isinstance(answer, Error)
            assert answer.code == ErrorCode.NOT_PERMITTED
            assert foreign.ask(QueryRunning()) == RunningApps(())
            status = 0
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "reload" not in appd.log_text
