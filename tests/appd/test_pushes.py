# SPDX-License-Identifier: Apache-2.0
"""Who hears of what, and in which order."""

from collections.abc import Callable

from tests.appd.client import Control
from tests.appd.conftest import Make
from tests.appd.harness import WAIT_SECONDS, Appd, is_gone
from tests.packages import APP_ID
from weft_runtime.protocol import (
    AppReady,
    AppState,
    Error,
    ErrorCode,
    LaunchAck,
    LaunchApp,
    NavigationGesture,
    PanelGesture,
    QueryAppState,
    QueryRunning,
    Response,
    RunningApp,
    RunningApps,
    State,
    Subscribe,
    Subscribed,
    TerminateApp,
)
from weft_runtime.wire import decode_response_json

SESSIONS = 30
OTHER_ID = "org.example.other"
STOPS_LATE = "signal.signal(signal.SIGTERM, lambda *_: until('go') or os._exit(0)); ready(); wait()"


def subscriber(appd: Appd, session: int | None = None) -> Control:
    connection = appd.connect()
    assert connection.ask(Subscribe(session)) == Subscribed(session)
    return connection


def test_without_a_subscription_there_is_nothing_but_replies(appd: Appd) -> None:
    quiet = appd.connect()
    assert quiet.ask(QueryRunning()) == RunningApps(())
    session = appd.run_app("ready(); wait()")
    appd.control.ask(PanelGesture(1, 2, 3.0, 4.0))
    assert appd.control.ask(TerminateApp(session)) == AppState(session, State.STOPPED)
    assert quiet.is_quiet
    assert quiet.ask(QueryRunning()) == RunningApps(())


def test_a_subscriber_hears_of_everybodys_sessions(appd: Appd) -> None:
    hearing = subscriber(appd)
    session = appd.run_app("ready(); wait()")
    assert appd.control.ask(PanelGesture(1, 2, 3.0, 4.0)) == NavigationGesture(1, 2, 3.0, 4.0)
    assert appd.control.ask(TerminateApp(session)) == AppState(session, State.STOPPED)
    heard = [hearing.receive() for _ in range(4)]
    assert heard == [
        LaunchAck(1, APP_ID), AppReady(1, APP_ID), NavigationGesture(1, 2, 3.0, 4.0), AppState(1, State.STOPPED),
    ]  # fmt: skip
    assert [type(message) for message in heard] == [LaunchAck, AppReady, NavigationGesture, AppState]
    assert hearing.is_quiet


def test_a_subscriber_of_one_session_hears_of_that_alone(appd: Appd) -> None:
    appd.install("ready(); wait()")
    hearing = subscriber(appd, 2)
    appd.until_ready(appd.launch(), appd.launch())
    appd.control.ask(PanelGesture(1, 2, 3.0, 4.0))
    for session in (1, 2):
        assert appd.control.ask(TerminateApp(session)) == AppState(session, State.STOPPED)
    heard = [hearing.receive() for _ in range(3)]
    assert heard == [LaunchAck(2, APP_ID), AppReady(2, APP_ID), AppState(2, State.STOPPED)]
    assert hearing.is_quiet


def test_a_new_subscription_replaces_the_old_one(appd: Appd) -> None:
    hearing = subscriber(appd)
    assert hearing.ask(Subscribe(99)) == Subscribed(99)
    appd.run_app("ready(); wait()")
    assert hearing.is_quiet
    assert hearing.ask(Subscribe(None)) == Subscribed(None)
    assert appd.control.ask(TerminateApp(1)) == AppState(1, State.STOPPED)
    assert hearing.receive() == AppState(1, State.STOPPED)


def test_a_launch_is_acknowledged_before_all_else_to_everybody(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0")
    appd.install("ready()")  # over before anybody can ask
    appd.install("os._exit(1)", app_id=OTHER_ID)
    subscribers = [subscriber(appd) for _ in range(3)]
    websockets = [appd.websocket() for _ in range(2)]
    launchers = [appd.connect() for _ in range(3)]
    for index in range(SESSIONS):
        app_id = (APP_ID, OTHER_ID)[index % 2]
        speaker = index % 5
        if speaker < 3:
            launchers[speaker].send(LaunchApp(app_id, 0))
        else:
            websockets[speaker - 3].send(f'{{"type":"LAUNCH_APP","app_id":"{app_id}","surface_id":0}}')
    ears: list[Callable[[], Response]] = [connection.receive for connection in subscribers]
    ears += [lambda ear=ear: decode_response_json(str(ear.recv(WAIT_SECONDS))) for ear in websockets]  # type: ignore[misc]
    for hear in ears:
        check_order(hear)
    for launcher in launchers:
        answers = [launcher.receive() for _ in range(SESSIONS // 5)]
        assert {type(answer) for answer in answers} == {LaunchAck}
        assert launcher.is_quiet


def check_order(hear: Callable[[], Response]) -> None:
    """Listen until all sessions are over; each must have been acknowledged, then ready or not, then stopped."""
    acknowledged: set[int] = set()
    ready: set[int] = set()
    stopped: set[int] = set()
    while len(stopped) < SESSIONS:
        match hear():
            case LaunchAck(session_id, _):
                assert session_id not in ready | stopped
                acknowledged.add(session_id)
            case AppReady(session_id, app_id):
                assert app_id == APP_ID
                assert session_id in acknowledged - stopped - ready
                ready.add(session_id)
            case AppState(session_id, state):
                assert state is State.STOPPED
                assert session_id in acknowledged - stopped
                stopped.add(session_id)
            case other:
                raise AssertionError(f"unexpected: {other}")
    assert len(ready) == SESSIONS // 2


def test_stopped_is_said_when_the_process_is_gone_and_not_before(appd: Appd) -> None:
    session = appd.run_app(STOPS_LATE)
    pid = appd.sessions[session].pid
    assert pid is not None
    hearing, asking = subscriber(appd), appd.connect()
    asking.send(TerminateApp(session), QueryRunning(), QueryAppState(session), QueryAppState(99))
    appd.find("ending it", session)
    # Others are served meanwhile; what was asked behind it waits.
    for _ in range(50):
        assert appd.control.ask(QueryAppState(session)) == AppState(session, State.STOPPING)
    assert asking.is_quiet
    assert hearing.is_quiet
    (appd.store / APP_ID / "go").touch()
    assert hearing.receive() == AppState(session, State.STOPPED)
    assert is_gone(pid)
    answers = [asking.receive() for _ in range(4)]
    assert answers == [
        AppState(session, State.STOPPED), RunningApps(()), AppState(session, State.STOPPED),
        AppState(99, State.NOT_FOUND),
    ]  # fmt: skip


def test_one_who_ends_two_sessions_gets_the_answers_in_the_order_of_the_requests(appd: Appd) -> None:
    slow = appd.run_app(STOPS_LATE)
    appd.install("ready(); wait()", app_id=OTHER_ID)
    fast = appd.launch(OTHER_ID)
    appd.until_ready(fast)
    asking = appd.connect()
    asking.send(TerminateApp(slow), TerminateApp(fast), LaunchApp("none", 0))
    appd.find("ending it", slow)
    assert asking.is_quiet
    (appd.store / APP_ID / "go").touch()
    assert [asking.receive(), asking.receive()] == [
        AppState(slow, State.STOPPED),
        AppState(fast, State.STOPPED),
    ]
    refused = asking.receive()
    assert isinstance(refused, Error)
    assert refused.code == ErrorCode.INVALID_APP_ID


def test_a_subscriber_that_waits_for_an_end_still_hears_of_the_others(appd: Appd) -> None:
    slow = appd.run_app(STOPS_LATE)
    appd.install("ready(); wait()", app_id=OTHER_ID)
    asking = subscriber(appd)
    asking.send(TerminateApp(slow), QueryRunning())
    other = appd.launch(OTHER_ID)
    assert [asking.receive(), asking.receive()] == [LaunchAck(other, OTHER_ID), AppReady(other, OTHER_ID)]
    assert asking.is_quiet
    (appd.store / APP_ID / "go").touch()
    # The answer, then the push, then the next answer.
    heard = [asking.receive() for _ in range(3)]
    stopped = AppState(slow, State.STOPPED)
    assert heard == [stopped, stopped, RunningApps((RunningApp(other, OTHER_ID),))]


def test_a_client_that_leaves_while_it_waits_is_forgotten(appd: Appd) -> None:
    session = appd.run_app(STOPS_LATE)
    leaving = appd.connect()
    leaving.send(TerminateApp(session))
    appd.find("ending it", session)
    leaving.close()
    (appd.store / APP_ID / "go").touch()
    assert appd.until_stopped(session).exit_status == 0
    assert appd.control.ask(QueryAppState(session)) == AppState(session, State.STOPPED)
