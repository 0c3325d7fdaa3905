# SPDX-License-Identifier: Apache-2.0
"""The control socket and its connections: how many, how long, how slow, and whose."""

import resource
import select
import stat
import time

import pytest

from tests.appd.client import Control
from tests.appd.conftest import Make
from tests.appd.harness import CALLER, SLACK_SECONDS, WAIT_SECONDS, Appd, descriptors, eventually, memory
from tests.packages import APP_ID, install_many
from weft_runtime.appd.admission import PLACES_KEPT
from weft_runtime.appd.control import UNREAD_OF_A_USER_MAX
from weft_runtime.framing import frame
from weft_runtime.protocol import (
    AppState,
    Error,
    ErrorCode,
    InstalledApps,
    LaunchAck,
    LaunchApp,
    NavigationGesture,
    PanelGesture,
    QueryInstalledApps,
    QueryRunning,
    RunningApps,
    State,
    Subscribe,
    Subscribed,
    TerminateApp,
)
from weft_runtime.wire import encode_msgpack

MIB = 1024 * 1024
MANY = 2000
"""Apps whose list has a megabyte."""
FRAME_TIMEOUT_S = 10
NO_APPS = RunningApps(())


def fill(connection: Control, request: bytes) -> int:
    """Send a request again and again until the daemon reads no more; how many bytes that took."""
    sent = 0
    connection.socket.setblocking(False)
    while select.select([], [connection.socket], [], 1)[1]:
        sent += connection.socket.send(request * 100)
    connection.socket.settimeout(WAIT_SECONDS)
    return sent


def test_the_socket_is_for_the_owner_and_the_group(appd: Appd) -> None:
    found = appd.socket.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert stat.S_IMODE(appd.socket.parent.stat().st_mode) == 0o700


def test_its_place_can_be_set(make: Make) -> None:
    appd = make()
    appd.socket = appd.runtime / "elsewhere/socket"
    appd.environ["WEFT_APPD_SOCKET"] = str(appd.socket)
    appd.start()
    assert appd.control.ask(QueryRunning()) == NO_APPS
    assert not (appd.runtime / "weft/appd.sock").exists()


def test_a_second_daemon_is_refused_and_harms_nothing(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0")
    session = appd.run_app("ready(); wait()")
    subscribed = appd.connect()
    assert subscribed.ask(Subscribe(None)) == Subscribed(None)
    eventually((appd.runtime / "weft/last-session.json").exists, "the session is saved")
    before = sorted(appd.runtime.rglob("*"))
    port = appd.port
    second = appd.run("--config", str(appd.config))
    assert second.status == 178
    assert f"err: another weft-appd is listening on '{appd.socket}' [stop it first, or set" in second.stderr
    assert sorted(appd.runtime.rglob("*")) == before
    assert appd.port == port
    assert appd.sessions[session].state is State.RUNNING
    assert subscribed.ask(QueryRunning()) == appd.connect().ask(QueryRunning())
    assert '"RUNNING_APPS"' in ask_text(appd)


def ask_text(appd: Appd) -> str:
    websocket = appd.websocket()
    websocket.send('{"type":"QUERY_RUNNING"}')
    return str(websocket.recv(WAIT_SECONDS))


def test_a_second_daemon_is_refused_even_by_one_that_is_busy(start: Make) -> None:
    appd = start(WEFT_MAX_CONNECTIONS="1")
    assert appd.control.ask(QueryRunning()) == NO_APPS
    assert appd.run("--config", str(appd.config)).status == 178
    assert appd.control.ask(QueryRunning()) == NO_APPS


def test_a_socket_that_nobody_listens_on_is_replaced(appd: Appd) -> None:
    inode = appd.socket.stat().st_ino
    appd.kill()
    assert appd.socket.stat().st_ino == inode
    appd.start()
    assert appd.control.ask(QueryRunning()) == NO_APPS


def test_a_file_in_the_place_of_the_socket_is_left_alone(make: Make) -> None:
    appd = make()
    appd.socket.parent.mkdir()
    appd.socket.write_text("precious")
    done = appd.run("--config", str(appd.config))
    assert done.status == 171
    assert f"err: cannot listen on '{appd.socket}': Address already in use" in done.stderr
    assert appd.socket.read_text() == "precious"


def test_connections_beyond_the_limit_are_refused_with_a_reason(start: Make) -> None:
    appd = start(WEFT_MAX_CONNECTIONS="3")
    inside = [appd.connect() for _ in range(PLACES_KEPT)]
    assert [connection.ask(QueryRunning()) for connection in inside] == [NO_APPS] * PLACES_KEPT
    outside = appd.connect()
    why = f"there are {PLACES_KEPT}, the setting max_connections allows no more"
    assert outside.receive() == Error(ErrorCode.TOO_MANY_CONNECTIONS, f"too many connections: {why}")
    assert outside.read_to_end() == b""
    appd.find(f"notice: refusing connections of {CALLER.partition(' pid ')[0]} on the control socket: {why}")
    inside[1].close()
    assert inside[0].ask(QueryRunning()) == NO_APPS
    assert appd.connect().ask(QueryRunning()) == NO_APPS


def test_there_is_room_for_256_connections(appd: Appd) -> None:
    inside = [appd.connect() for _ in range(256)]
    assert [connection.ask(QueryRunning()) for connection in inside] == [NO_APPS] * 256
    outside = appd.connect()
    assert error_code(outside) == ErrorCode.TOO_MANY_CONNECTIONS
    assert outside.read_to_end() == b""
    assert inside[0].ask(QueryRunning()) == NO_APPS


def error_code(connection: Control) -> int:
    answer = connection.receive()
    assert isinstance(answer, Error), answer
    return answer.code


def test_a_silent_connection_is_closed_unless_it_waits_for_something(start: Make) -> None:
    appd = start(WEFT_IDLE_TIMEOUT="2", WEFT_STOP_GRACE="4")
    session = appd.run_app("ignore_sigterm(); ready(); wait()")
    idle, asking, waiting, subscribed = (appd.connect() for _ in range(4))
    assert subscribed.ask(Subscribe(None)) == Subscribed(None)
    begun = time.monotonic()
    waiting.send(TerminateApp(session))
    assert idle.ask(QueryRunning()) == asking.ask(QueryRunning())
    while idle.is_quiet:
        assert isinstance(asking.ask(QueryRunning()), RunningApps)
        assert time.monotonic() - begun < 2 + SLACK_SECONDS
    assert time.monotonic() - begun > 1.9
    assert idle.read_to_end() == b""
    assert waiting.receive() == AppState(session, State.STOPPED)
    assert time.monotonic() - begun > 3.9
    assert subscribed.receive() == AppState(session, State.STOPPED)
    assert waiting.read_to_end() == b""


def test_who_does_not_read_answers_is_dropped_at_nobodys_cost(appd: Appd) -> None:
    appd.install("ready(); wait()")
    before = memory(appd.process.pid)
    slow, other = appd.connect(), appd.connect()
    sent = fill(slow, frame(encode_msgpack(QueryInstalledApps())))
    assert sent > 1000  # or it would not have been slow
    begun = time.monotonic()
    assert other.ask(LaunchApp(APP_ID, 0)) == LaunchAck(1, APP_ID)
    assert other.ask(TerminateApp(1)) == AppState(1, State.STOPPED)
    assert memory(appd.process.pid) - before < 8 * MIB
    idle = select.poll()
    idle.register(slow.socket, select.POLLHUP)
    assert idle.poll((FRAME_TIMEOUT_S + 2 * SLACK_SECONDS) * 1000)
    assert time.monotonic() - begun > FRAME_TIMEOUT_S / 2
    assert other.ask(QueryRunning()) == NO_APPS


def test_who_is_slow_but_reads_gets_every_answer(appd: Appd) -> None:
    slow = appd.connect()
    count = 20_000
    request = frame(encode_msgpack(TerminateApp(2**63)))
    answer = frame(encode_msgpack(Error(ErrorCode.UNKNOWN_SESSION, f"session {2**63} not found")))
    slow.socket.setblocking(False)
    unsent, received = request * count, b""
    deadline = time.monotonic() + 4 * WAIT_SECONDS
    while len(received) < count * len(answer):
        assert time.monotonic() < deadline
        readable, writable, _ = select.select([slow.socket], [slow.socket] if unsent else [], [], 1)
        if writable:
            unsent = unsent[slow.socket.send(unsent) :]
        elif readable:  # only when it can send no more
            received += slow.socket.recv(1000_000)
    assert received == answer * count


def test_a_subscriber_that_does_not_read_is_dropped_at_nobodys_cost(appd: Appd) -> None:
    deaf, other, hearing = appd.connect(), appd.connect(), appd.connect()
    assert deaf.ask(Subscribe(None)) == Subscribed(None)
    before = memory(appd.process.pid)
    gesture = frame(encode_msgpack(PanelGesture(2**31, 2**31, 0.5, 0.5)))
    gone = select.poll()
    gone.register(deaf.socket, select.POLLHUP)
    for _ in range(400):
        other.send_bytes(gesture * 500)
        for _ in range(500):
            assert isinstance(other.receive(), NavigationGesture)
        if gone.poll(0):
            break
    else:
        raise AssertionError("it is still there")
    # 4 MiB are kept for it; a copy of that may be under way.
    assert memory(appd.process.pid) - before < 16 * MIB
    assert appd.find("notice: dropping the control connection of ").endswith(": it does not read")
    assert hearing.ask(QueryRunning()) == NO_APPS


def test_what_a_subscriber_has_asked_for_does_not_count_against_it(appd: Appd) -> None:
    """An answer may be longer than all that may wait otherwise; pushes come behind it meanwhile."""
    install_many(appd.store, MANY)
    asking, other = appd.connect(), appd.connect()
    assert asking.ask(Subscribe(None)) == Subscribed(None)
    asking.send(QueryInstalledApps())
    assert select.select([asking.socket], [], [], WAIT_SECONDS)[0]
    gestures = [NavigationGesture(number, 1, 0.5, 0.5) for number in range(100)]
    for gesture in gestures:
        assert other.ask(PanelGesture(*gesture)) == gesture
    answer = asking.receive()
    assert isinstance(answer, InstalledApps)
    assert len(answer.apps) == MANY
    assert [asking.receive() for _ in gestures] == gestures
    assert asking.ask(QueryRunning()) == NO_APPS


def test_all_that_waits_for_one_user_has_a_bound(appd: Appd) -> None:
    """A client that does not read may have its longest answer waiting: but not all clients of a user theirs."""
    install_many(appd.store, MANY)
    assert appd.control.ask(QueryInstalledApps())
    before = memory(appd.process.pid)
    deaf = [appd.connect() for _ in range(50)]
    for connection in deaf:
        # Without it ten seconds would be all that they have.
        connection.send(Subscribe(None), QueryInstalledApps())
    eventually(
        lambda: appd.log_text.count("it does not read") > 2, "some of them are dropped", 4 * WAIT_SECONDS
    )
    assert appd.control.ask(QueryRunning()) == NO_APPS
    assert memory(appd.process.pid) - before < UNREAD_OF_A_USER_MAX + 16 * MIB


def limit_descriptors(appd: Appd, extra: int | None) -> None:
    """Let the daemon open `extra` more descriptors than it has; None for many."""
    hard = resource.prlimit(appd.process.pid, resource.RLIMIT_NOFILE)[1]
    soft = hard
    if extra is not None:
        used = descriptors(appd.process.pid)
        free = [number for number in range(len(used) + extra + 1) if number not in used]
        soft = free[extra]
    resource.prlimit(appd.process.pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("capabilities", [[], ["fs:rw:app-data"]])
def test_launches_fail_while_there_are_no_descriptors(make: Make, capabilities: list[str]) -> None:
    appd = make()
    appd.environ["WEFT_DATA_ROOT"] = str(appd.directory / "data")
    appd.start()
    appd.install("ready(); wait()", capabilities=capabilities)
    control = appd.control
    assert control.ask(QueryRunning()) == NO_APPS
    refused = 0
    for extra in range(16):  # wherever in a launch they run out
        limit_descriptors(appd, extra)
        answer = control.ask(LaunchApp(APP_ID, 0))
        limit_descriptors(appd, None)
        if isinstance(answer, Error):
            refused += 1
            assert answer.code in (
                ErrorCode.SPAWN_FAILED,
                ErrorCode.PACKAGE_INVALID,
                ErrorCode.CAPABILITY_REFUSED,
            )
            assert "Too many open files" in answer.message
        else:
            assert isinstance(answer, LaunchAck)
            assert control.ask(TerminateApp(answer.session_id)) == AppState(answer.session_id, State.STOPPED)
    assert 6 <= refused < 16
    appd.disconnect()
    appd.check_descriptors()
    assert appd.launch()


def test_connections_wait_while_there_are_no_descriptors(appd: Appd) -> None:
    appd.control.ask(QueryRunning())
    limit_descriptors(appd, 0)
    waiting = appd.connect()
    waiting.send(QueryRunning())
    assert appd.find("cannot accept").endswith("a connection, trying again: Too many open files")
    assert appd.control.ask(QueryRunning()) == NO_APPS
    assert waiting.is_quiet
    limit_descriptors(appd, None)
    assert waiting.receive() == NO_APPS


def test_a_session_that_ends_while_there_are_no_descriptors_is_told_of(appd: Appd) -> None:
    session = appd.run_app("ready(); wait()")
    limit_descriptors(appd, 0)
    assert appd.control.ask(TerminateApp(session)) == AppState(session, State.STOPPED)
    limit_descriptors(appd, None)
    assert appd.launch()


def test_clients_come_and_go_without_a_trace(appd: Appd) -> None:
    for round_ in range(300):
        connection = Control(appd.socket, WAIT_SECONDS)
        if round_ % 3:
            connection.send(QueryRunning(), Subscribe(None))
        if round_ % 3 == 1:
            connection.receive()
        connection.close()
    appd.disconnect()
    appd.check_descriptors()
