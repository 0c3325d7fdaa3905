# SPDX-License-Identifier: Apache-2.0
"""One client cannot keep another one waiting, whatever it sends: the order in which the daemon does what it is asked for.

Each daemon here watches its own event loop (WEFT_LOOP_WATCH): a callback that takes long is an error in its log.
"""

import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.appd.client import Control
from tests.appd.conftest import Make
from tests.appd.harness import PROGRAMS, WAIT_SECONDS, Appd, descriptors, eventually
from tests.packages import APP_ID, install, install_many, manifest
from weft_runtime.appd.admission import DESCRIPTORS_KEPT, PLACES_KEPT
from weft_runtime.appd.answers import AT_ONCE
from weft_runtime.appd.output import LINES_A_TURN
from weft_runtime.framing import FRAME_MAX, frame
from weft_runtime.limits import MANIFEST
from weft_runtime.protocol import (
    AppState,
    Error,
    ErrorCode,
    InstalledApps,
    IpcForward,
    LaunchAck,
    LaunchApp,
    NavigationGesture,
    PanelGesture,
    QueryAppState,
    QueryDetails,
    QueryInstalledApps,
    QueryRunning,
    QuerySessions,
    QueryStatus,
    Request,
    Response,
    RunningApp,
    RunningApps,
    Sessions,
    State,
    Subscribe,
    Subscribed,
    TerminateApp,
)
from weft_runtime.wire import encode_msgpack

SAME = 30  # looks, some 10 ms apart each

SENT = 64 * 1024
VICTIM = 999_999
NO_APPS = RunningApps(())

LONG_SNAPSHOTS = """
import sys
import weft_runtime.appd.main
weft_runtime.appd.dispatch.INFO_BYTES = 7 << 20
sys.argv[0] = "weft-appd"
sys.exit(weft_runtime.appd.main.main())
"""


def gesture(number: int) -> PanelGesture:
    """A request that everybody hears of: it says when it is the sender's turn."""
    return PanelGesture(number, 0, 0.0, 0.0)


def turns_before(appd: Appd, victims: Sequence[Control], floods: Sequence[tuple[Control, bytes]]) -> int:
    """How many requests of floods, each followed by a gesture, are done before the last victim has its answer."""
    observer = appd.connect()
    assert observer.ask(Subscribe(None)) == Subscribed(None)
    with appd.stopped():
        for flood, data in floods:
            flood.socket.setblocking(False)
            flood.socket.send(data)
        for victim in victims:
            victim.send(gesture(VICTIM))
    heard = served = 0
    while served < len(victims):
        push = observer.receive()
        if isinstance(push, NavigationGesture):
            if push.gesture_type == VICTIM:
                served += 1
            else:
                heard += 1
    for victim in victims:
        assert victim.receive() == NavigationGesture(*gesture(VICTIM))
    return heard


REQUESTS: dict[str, Request] = {
    "launch of an unknown app": LaunchApp("org.example.unknown", 0),
    "launch without an id": LaunchApp("../../x" * 100, 0),
    "terminate": TerminateApp(2**40),
    "running": QueryRunning(),
    "state": QueryAppState(7),
    "installed": QueryInstalledApps(),
    "forward": IpcForward(7, "x" * 40),
    "gesture": gesture(8),
    "subscribe": Subscribe(2**50),
    "sessions": QuerySessions(),
    "details": QueryDetails(),
    "status": QueryStatus(),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_who_pipelines_a_thousand_requests_is_not_served_first(appd: Appd, request_: Request) -> None:
    install_many(appd.store, 60)
    assert isinstance(appd.control.ask(QueryInstalledApps()), InstalledApps)
    pair = frame(encode_msgpack(request_)) + frame(encode_msgpack(gesture(1)))
    flood = appd.connect()
    victims = [appd.connect() for _ in range(3)]
    # Without a bound the flood would be answered first: all of it.
    assert turns_before(appd, victims, [(flood, pair * (SENT // len(pair)))]) <= len(victims) + 1


def test_a_flood_of_launches_that_work_keeps_nobody_waiting(appd: Appd) -> None:
    appd.install("ready(); wait()")
    one = frame(encode_msgpack(LaunchApp(APP_ID, 0))) + frame(encode_msgpack(gesture(1)))
    assert turns_before(appd, [appd.connect()], [(appd.connect(), one * 20)]) <= 2
    eventually(lambda: len(appd.sessions) == 20, "all are launched")


U32 = struct.Struct(">I").pack
WORST = {
    "nested arrays": b"\x91" * FRAME_MAX,
    "nested maps": b"\x81\x01" * (FRAME_MAX // 2),
    "a map of pairs": b"\xdf" + U32(FRAME_MAX // 2 - 3) + b"\x00\x00" * (FRAME_MAX // 2 - 3),
    "an array of arrays": b"\xdd\xff\xff\xff\xff" + b"\x90" * (FRAME_MAX - 5),
    "an array for a field": b"\x92\xaaLAUNCH_APP\xdd" + U32(FRAME_MAX - 17) + b"\xc0" * (FRAME_MAX - 17),
    "a long id": b"\x93\xaaLAUNCH_APP\xdb" + U32(FRAME_MAX - 18) + b"a" * (FRAME_MAX - 18) + b"\0",
    "an id that does not print": b"\x93\xaaLAUNCH_APP\xdb" + U32(FRAME_MAX - 18) + b"\x01" * (FRAME_MAX - 18) + b"\0",
    "labels": b"\x93\xaaLAUNCH_APP\xdb" + U32(FRAME_MAX - 18) + b"a." * (FRAME_MAX // 2 - 9) + b"\0",
    "a long tag": b"\x91\xdb" + U32(FRAME_MAX - 6) + "ü".encode() * (FRAME_MAX // 2 - 3),
    "long keys": b"\xde\x01\xf0" + (b"\xda\x00\x7eaa" + bytes(124) + b"\xc0") * 496,
}  # fmt: skip


@pytest.mark.parametrize("body", WORST.values(), ids=WORST.keys())
def test_no_frame_takes_long_to_decode(appd: Appd, body: bytes) -> None:
    assert len(body) > FRAME_MAX * 0.95
    floods = [appd.connect() for _ in range(8)]
    whole = (frame(body) + frame(encode_msgpack(gesture(1)))) * 2
    assert turns_before(appd, [appd.connect()], [(flood, whole) for flood in floods]) <= len(floods)
    for flood in floods:
        flood.socket.settimeout(WAIT_SECONDS)
        answer = flood.receive()
        assert isinstance(answer, Error)
        assert answer.code in (ErrorCode.BAD_REQUEST, ErrorCode.INVALID_APP_ID, ErrorCode.PACKAGE_NOT_FOUND)


def big_manifest(app_id: str) -> str:
    """As large as it may be, and of what takes the parser longest."""
    text = manifest(app_id, extra="[z]\ni = [")
    text = text.rstrip() + "1," * ((MANIFEST.value - len(text) - 2) // 2) + "]\n"
    assert len(text) > MANIFEST.value * 0.99
    return text


def install_big(store: Path, count: int) -> None:
    for number in range(count):
        app_id = f"org.example.big{number}"
        package = install(store, b"\0asm\1\0\0\0", app_id=app_id, toml=big_manifest(app_id))
        (package / "behaviour").write_text("ready(); wait()")


def cpu_seconds(appd: Appd) -> float:
    """What the daemon has used so far."""
    fields = Path(f"/proc/{appd.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_large_manifests_hold_nobody_up_and_are_parsed_once(appd: Appd) -> None:
    install_big(appd.store, 30)
    asking, other = appd.connect(), appd.connect()
    before = cpu_seconds(appd)
    asking.send(QueryInstalledApps(), QueryRunning())
    for _ in range(5):
        assert other.ask(QueryRunning()) == NO_APPS
    assert asking.is_quiet  # it takes seconds
    answer = asking.receive()
    assert isinstance(answer, InstalledApps)
    assert len(answer.apps) == 30
    assert asking.receive() == NO_APPS
    first = cpu_seconds(appd) - before
    for _ in range(10):
        assert asking.ask(QueryInstalledApps()) == answer
    assert cpu_seconds(appd) - before - first < first / 2


def test_what_answers_that_wait_are_made_from_counts_as_what_waits(make: Make) -> None:
    appd = make()
    # As if a session had as much to tell as thousands of them.
    appd.program = (sys.executable, "-c", LONG_SNAPSHOTS)
    appd.start()
    appd.run_app("ready(); wait()")
    install_big(appd.store, 8)
    busy = [appd.connect() for _ in range(AT_ONCE)]
    waiting = [appd.connect() for _ in range(5)]
    for client in busy:
        client.send(QueryInstalledApps())
        assert appd.control.ask(QueryAppState(1)) == AppState(1, State.RUNNING)  # it has had its turn
    for client in waiting:
        client.send(QuerySessions())
    # The others still wait for a place.
    eventually(lambda: any(not client.is_quiet for client in waiting), "one of those who wait is dropped")
    assert [client.read_to_end() for client in waiting if not client.is_quiet] == [b""]
    assert isinstance(busy[0].receive(), InstalledApps)
    assert appd.log_text.count("it does not read") == 1


def test_a_manifest_that_is_wrong_is_parsed_once_too(appd: Appd) -> None:
    for number in range(10):
        app_id = f"org.example.wrong{number}"
        install(appd.store, b"", app_id=app_id, toml=big_manifest(app_id)[:-2] + "?\n")
    before = cpu_seconds(appd)
    assert appd.control.ask(QueryInstalledApps()) == InstalledApps(())
    first = cpu_seconds(appd) - before
    for _ in range(10):
        assert appd.control.ask(QueryInstalledApps()) == InstalledApps(())
    assert cpu_seconds(appd) - before - first < first / 2


def test_a_launch_waits_for_its_manifest_and_others_do_not(appd: Appd) -> None:
    install_big(appd.store, 20)
    asking, other = appd.connect(), appd.connect()
    assert asking.ask(Subscribe(None)) == Subscribed(None)
    with appd.stopped():
        asking.send(*(LaunchApp(f"org.example.big{number}", 0) for number in range(20)), QueryRunning())
        other.send(QueryRunning())
    answer = other.receive()
    assert isinstance(answer, RunningApps)
    assert len(answer.sessions) < 20
    messages: list[Response] = []
    while not messages or not isinstance(messages[-1], RunningApps):
        messages.append(asking.receive())
    acks = [message for message in messages if isinstance(message, LaunchAck)]
    # First the answer and then the push, each time, in the order of the requests.
    assert acks == [
        LaunchAck(number + 1, f"org.example.big{number}") for number in range(20) for _ in range(2)
    ]
    assert messages[-1] == RunningApps(tuple(RunningApp(*ack) for ack in acks[::2]))


def test_a_manifest_that_cannot_be_read_is_the_launchs_answer(appd: Appd) -> None:
    package = appd.install("ready(); wait()")
    (package / "wapp.toml").unlink()
    (package / "wapp.toml").symlink_to("nothing")
    answer = appd.control.ask(LaunchApp(APP_ID, 0))
    assert isinstance(answer, Error)
    assert (answer.code, "is a link to nothing" in answer.message) == (ErrorCode.PACKAGE_INVALID, True)
    (package / "wapp.toml").unlink()
    (package / "wapp.toml").write_text("nonsense")
    for _ in range(2):
        answer = appd.control.ask(LaunchApp(APP_ID, 0))
        assert isinstance(answer, Error)
        assert (answer.code, "is not TOML" in answer.message) == (ErrorCode.PACKAGE_INVALID, True)
        time.sleep(0.05)  # so that it is remembered
    assert appd.control.ask(QueryInstalledApps()) == InstalledApps(())


def test_no_old_state_overtakes_a_long_answer(appd: Appd) -> None:
    """Who asks for all sessions and hears of changes meanwhile never believes in a state that is over."""
    appd.install("ready(); wait()")
    control = appd.control
    for _ in range(300):
        appd.launch()
        assert isinstance(control.ask(TerminateApp(len(appd.sessions))), AppState)
    session = appd.launch()
    appd.until_ready(session)
    asking, other = appd.connect(), appd.connect()
    assert asking.ask(Subscribe(None)) == Subscribed(None)
    with appd.stopped():
        asking.send(*[QuerySessions()] * 20)
        other.send(TerminateApp(session))
    known: set[State] = set()
    for _ in range(21):
        message = asking.receive()
        if isinstance(message, Sessions):
            assert len(message.sessions) == 301
            state = message.sessions[-1].state
            assert State.STOPPED not in known or state is State.STOPPED
        else:
            assert message == AppState(session, State.STOPPED)
            state = State.STOPPED
        known.add(state)
    assert State.STOPPED in known


# Connections of other users


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="it connects as other users: run it as root")


@contextmanager
def user(uid: int) -> Iterator[None]:
    """Connections that are made inside of this are of `uid`."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_to_all(make: Make) -> Iterator[Appd]:
    """A daemon whose socket every user may connect to."""
    with TemporaryDirectory() as directory:
        appd = make()
        appd.socket = Path(directory, "appd.sock")
        appd.environ["WEFT_APPD_SOCKET"] = str(appd.socket)
        appd.start()
        Path(directory).chmod(0o755)
        appd.socket.chmod(0o666)
        yield appd
        appd.stop()


def hold(appd: Appd, uid: int, count: int) -> list[Control]:
    """So many subscribed connections of `uid`."""
    with user(uid):
        held = [appd.connect() for _ in range(count)]
    for connection in held:
        assert connection.ask(Subscribe(None)) == Subscribed(None)
    return held


def assert_refused(connection: Control, why: str) -> None:
    """It is told why at once; nothing else comes."""
    error = Error(ErrorCode.TOO_MANY_CONNECTIONS, f"too many connections: {why}")
    assert connection.read_to_end() == frame(encode_msgpack(error))


@as_root
def test_a_user_has_a_quarter_of_the_connections(open_to_all: Appd) -> None:
    appd = open_to_all
    held = hold(appd, 1234, 64)
    for _ in range(40):
        with user(1234):
            refused = appd.connect()
        assert_refused(refused, "user 1234 has 64 of them, as many as one user may have")
    # It is said once, and not forty times.
    appd.find("refusing connections of uid 1234 on the control socket: ")
    hold(appd, 1235, 1)
    held.pop().close()

    def is_served() -> bool:
        with user(1234):
            connection = appd.connect()
        with contextlib.suppress(BrokenPipeError):  # it is refused, and has heard why
            connection.send(QueryRunning())
        return connection.receive() == NO_APPS

    eventually(is_served, "a place is free again")


@as_root
def test_root_is_served_and_reloads_while_others_hold_all_connections(open_to_all: Appd) -> None:
    appd = open_to_all
    appd.install("ready(); wait()")
    session = appd.launch()
    appd.until_ready(session)
    held = [*hold(appd, 2000, 63), *(one for uid in (2001, 2002, 2003) for one in hold(appd, uid, 64))]
    eventually(lambda: appd.control.ask(QueryRunning()) != NO_APPS, "the session runs")
    with user(2005):
        refused = appd.connect()
    assert_refused(refused, "there are 256, the setting max_connections allows no more")
    # Many that are refused must not keep root waiting behind them in the backlog.
    with appd.stopped(), user(2000):
        crowd = [appd.connect() for _ in range(300)]
    done = subprocess.run(
        [PROGRAMS / "weftctl", "list"],
        env=appd.environ,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert (done.returncode, APP_ID in done.stdout) == (0, True), done.stderr
    done = subprocess.run(
        [PROGRAMS / "weft-appd", "--reload"], env=appd.environ, capture_output=True, text=True,
        timeout=2 * WAIT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert appd.sessions[session].state is State.RUNNING
    assert held[0].ask(QueryAppState(session)) == AppState(session, State.RUNNING)
    for connection in crowd:
        connection.close()


@as_root
def test_a_flood_of_many_connections_of_a_user_has_the_turns_of_one(open_to_all: Appd) -> None:
    appd = open_to_all
    install_many(appd.store, 60)
    assert isinstance(appd.control.ask(QueryInstalledApps()), InstalledApps)
    with user(1234):
        floods = [appd.connect() for _ in range(60)]
    pair = frame(encode_msgpack(QuerySessions())) + frame(encode_msgpack(gesture(1)))
    victim = appd.connect()
    assert turns_before(appd, [victim], [(flood, pair * 500) for flood in floods]) <= 2


@contextmanager
def read_by_a_thread(connection: Control) -> Iterator[None]:
    """Whatever comes is read and forgotten, so that nothing but its turns holds the client up."""

    def read() -> None:
        with contextlib.suppress(OSError):
            connection.read_to_end()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        connection.socket.shutdown(socket.SHUT_RDWR)
        thread.join()


@as_root
def test_users_share_the_time_and_not_the_requests(open_to_all: Appd) -> None:
    """Who asks for what is cheap has many answers while somebody else has one to what is costly."""
    appd = open_to_all
    install_many(appd.store, 300)
    assert isinstance(appd.control.ask(QueryInstalledApps()), InstalledApps)
    with user(1234):
        flood = appd.connect()
    pair = frame(encode_msgpack(QueryInstalledApps())) + frame(encode_msgpack(gesture(1)))
    cheap = frame(encode_msgpack(gesture(2)))
    observer, victim = appd.connect(), appd.connect()
    assert observer.ask(Subscribe(None)) == Subscribed(None)
    heard = Counter[int]()
    with read_by_a_thread(flood):
        flood.send_bytes(pair * 100)
        for _ in range(3):
            assert observer.receive() == NavigationGesture(*gesture(1))
        victim.send_bytes(cheap * 100)
        while heard[2] < 100:
            push = observer.receive()
            assert isinstance(push, NavigationGesture)
            heard[push.gesture_type] += 1
    # By turns it would be one for each few of them.
    assert heard[1] <= 8


def test_what_many_apps_write_at_once_has_the_turns_of_one_user(start: Make) -> None:
    appd = start(WEFT_LOG_LINES="100000")
    package = appd.install("ready(); until('go'); say(b'a line\\n' * 9000); note('wrote', 0); wait()")
    sessions = [appd.launch() for _ in range(40)]
    appd.until_ready(*sessions)
    victim = appd.connect()
    assert victim.ask(QueryRunning()) != NO_APPS
    requests = 100
    with appd.stopped():
        (package / "go").touch()
        for session in sessions:
            appd.note(session, "wrote")
        victim.send(*[gesture(1)] * requests)
    for _ in range(requests):
        assert victim.receive() == NavigationGesture(*gesture(1))
    logged = appd.log_text.count(": a line\n")
    # The first lines of each come at once; what comes after them is of one session a request, and not of all.
    assert logged <= (len(sessions) + requests) * LINES_A_TURN


def test_a_reload_needs_no_connection(start: Make) -> None:
    appd = start(WEFT_MAX_CONNECTIONS="1")
    appd.install("ready(); wait()")
    held = [appd.control, *(appd.connect() for _ in range(PLACES_KEPT - 1))]
    for connection in held:
        assert connection.ask(QueryRunning()) == NO_APPS
    assert appd.run("--reload").status == 178
    done = appd.run("--reload", settings={"MAINPID": str(appd.process.pid)})
    assert (done.status, done.stdout) == (
        0,
        "there is no place for a connection: asked for a reload by SIGHUP\n",
    )
    assert "reloaded" in appd.find("reloaded, 0 sessions live on")


def settled(appd: Appd) -> dict[int, str]:
    """What it has open once nothing of its start is under way: else what is in use now would be free later."""
    seen: list[dict[int, str]] = []

    def is_settled() -> bool:
        seen.append(descriptors(appd.process.pid))
        return not appd.helpers and len(seen) > SAME and all(each == seen[-1] for each in seen[-SAME:])

    eventually(is_settled, "its descriptors are the same for a while")
    return seen[-1]


def test_the_last_descriptors_are_for_launches(appd: Appd) -> None:
    appd.install("ready(); wait()")
    kept = [appd.control, *(appd.connect() for _ in range(PLACES_KEPT - 1))]
    for connection in kept:
        assert connection.ask(QueryRunning()) == NO_APPS
    used = max(settled(appd))
    hard = resource.prlimit(appd.process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(appd.process.pid, resource.RLIMIT_NOFILE, (used + DESCRIPTORS_KEPT, hard))
    refused = [appd.connect() for _ in range(DESCRIPTORS_KEPT * 2)]
    for connection in refused:
        assert_refused(connection, "the rest of the daemon's descriptors is for launches")
    assert appd.control.ask(LaunchApp(APP_ID, 0)) == LaunchAck(1, APP_ID)
    resource.prlimit(appd.process.pid, resource.RLIMIT_NOFILE, (hard, hard))


def test_what_asks_for_reasons_gets_them_from_weftctl(start: Make) -> None:
    appd = start(WEFT_MAX_CONNECTIONS="1")
    held = [appd.connect() for _ in range(PLACES_KEPT)]
    for connection in held:
        assert connection.ask(QueryRunning()) == NO_APPS
    done = subprocess.run(
        [PROGRAMS / "weftctl", "list"],
        env=appd.environ,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 171
    assert "too many connections: there are 8, the setting max_connections allows no more" in done.stderr


def test_a_push_that_empties_a_clients_queue_leaves_none_of_its_requests_behind(appd: Appd) -> None:
    """A client that has more answers before it than may wait, and reads while pushes come."""
    for number in range(300):
        app_id = f"org.example.app{number}"
        install(
            appd.store, b"\0asm\1\0\0\0", app_id=app_id, toml=manifest(app_id).replace("A test", "x" * 250)
        )
    reading, other = appd.connect(), appd.connect()
    assert reading.ask(Subscribe(None)) == Subscribed(None)
    requests = 40
    reading.send(*[QueryInstalledApps()] * requests)
    answers = 0
    while answers < requests:
        other.ask(PanelGesture(1, 2, 0.0, 0.0))
        answers += isinstance(reading.receive(), InstalledApps)
