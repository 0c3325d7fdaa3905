# SPDX-License-Identifier: Apache-2.0
"""What the daemon has to do with a service manager: notifications, watchdog, passed sockets."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.appd.conftest import Make
from tests.appd.harness import WAIT_SECONDS, Appd, eventually
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.protocol import AppState, QueryRunning, Reload, Reloaded, RunningApps, State, TerminateApp

NO_APPS = RunningApps(())

# Hands descriptors on as systemd does: from number 3, to the process that it becomes.
PASSING = """
names=$1 count=$2; shift 2; next=3
for fd in $FDS; do eval "exec $next<&$fd $fd<&-"; next=$((next + 1)); done
unset FDS
export LISTEN_FDNAMES=$names LISTEN_FDS=$count
export LISTEN_PID=$$
exec "$@"
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end of $NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(os.fspath(tmp_path / "notify"))
        listener.settimeout(WAIT_SECONDS)
        yield listener


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def hear_until(manager: socket.socket, assignment: str) -> list[list[str]]:
    """All messages up to the one that has `assignment`."""
    messages = [heard(manager)]
    while assignment not in messages[-1]:
        messages.append(heard(manager))
    return messages


@pytest.fixture
def notifying(make: Make, tmp_path: Path, manager: socket.socket) -> Appd:
    """A daemon that runs and has said so."""
    appd = make(NOTIFY_SOCKET=str(tmp_path / "notify"), WEFT_APPD_WS_PORT="0")
    appd.start()
    return appd


def test_it_is_ready_when_its_sockets_serve(notifying: Appd, manager: socket.socket) -> None:
    assert heard(manager) == ["READY=1", "STATUS=0 sessions, 0 of them starting, 0 clients"]
    assert notifying.control.ask(QueryRunning()) == NO_APPS
    notifying.websocket()


def test_it_is_not_ready_when_it_cannot_serve(make: Make, tmp_path: Path, manager: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        appd = make(NOTIFY_SOCKET=str(tmp_path / "notify"), WEFT_APPD_WS_PORT=str(taken.getsockname()[1]))
        assert appd.run("--config", str(appd.config)).status == 171
    manager.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.recv(1)


def test_its_status_counts_sessions_and_clients(notifying: Appd, manager: socket.socket) -> None:
    notifying.install("until('go'); ready(); wait()")
    control = notifying.control
    sessions = [notifying.launch(), notifying.launch()]
    hear_until(manager, "STATUS=2 sessions, 2 of them starting, 1 client")
    (notifying.store / APP_ID / "go").touch()
    hear_until(manager, "STATUS=2 sessions, 0 of them starting, 1 client")
    assert control.ask(TerminateApp(sessions[0])) == AppState(sessions[0], State.STOPPED)
    hear_until(manager, "STATUS=1 session, 0 of them starting, 1 client")


def test_it_says_when_it_stops(notifying: Appd, manager: socket.socket) -> None:
    notifying.run_app("ready(); wait()")
    notifying.stop()
    messages = hear_until(manager, "STOPPING=1")
    assert sum("READY=1" in message for message in messages) == 1


def test_it_says_when_it_reloads_and_when_it_is_ready_again(notifying: Appd, manager: socket.socket) -> None:
    hear_until(manager, "READY=1")
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    assert notifying.control.ask(Reload()) == Reloaded(__version__)
    (reloading, ready) = [message for message in hear_until(manager, "READY=1") if message[0].endswith("=1")]
    assert reloading[0] == "RELOADING=1"
    name, _, microseconds = reloading[1].partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) / 1e6 <= time.clock_gettime(time.CLOCK_MONOTONIC)
    assert ready[0] == "READY=1"


def test_a_refused_reload_is_ready_again_too(notifying: Appd, manager: socket.socket) -> None:
    hear_until(manager, "READY=1")
    notifying.config.write_text("nonsense")
    notifying.expected_errors = ["reload refused"]
    notifying.process.send_signal(1)
    hear_until(manager, "READY=1")
    notifying.config.write_text("")


def test_the_watchdog_is_pinged_twice_as_often_as_asked_and_after_a_reload_too(
    make: Make, tmp_path: Path, manager: socket.socket
) -> None:
    appd = make(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000000")

    def pings(count: int) -> float:
        """How many seconds it takes until so many more have come."""
        begun = time.monotonic()
        for _ in range(count):
            hear_until(manager, "WATCHDOG=1")
        return time.monotonic() - begun

    for begin in (appd.start, lambda: appd.control.ask(Reload())):
        begun = time.monotonic()
        begin()
        hear_until(manager, "READY=1")
        pings(5)
        # Not more often, from a moment on that was before the first of them.
        assert time.monotonic() - begun > 1.9
        # Nor more seldom: 4 times within 2 s, whenever the machine lets it.
        eventually(lambda: pings(4) < 3, "it is pinged that often")


def test_somebody_elses_watchdog_is_not_pinged(make: Make, tmp_path: Path, manager: socket.socket) -> None:
    appd = make(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="100000", WATCHDOG_PID="1")
    appd.start()
    appd.run_app("ready(); wait()")
    appd.stop()
    assert ["WATCHDOG=1"] not in hear_until(manager, "STOPPING=1")


def test_a_manager_that_has_gone_is_only_a_warning(notifying: Appd, manager: socket.socket) -> None:
    hear_until(manager, "READY=1")
    manager.close()
    notifying.run_app("ready(); wait()")
    eventually(lambda: notifying.has("cannot notify the service manager, ignoring: "), "it is warned")
    # Under a manager the daemon says if it may not give sessions control groups, which depends on the machine.
    levels = {line.level for line in notifying.log if "control group" not in line.message}
    assert levels == {"info", "warning"}


def pass_sockets(appd: Appd, names: str, sockets: Sequence[socket.socket]) -> None:
    """Start a daemon to which a manager passes sockets."""
    for passed in sockets:
        passed.listen()
        passed.set_inheritable(True)
    appd.environ["FDS"] = " ".join(str(passed.fileno()) for passed in sockets)
    appd.start(
        wrapper=["bash", "-ec", PASSING, "bash", names, str(len(sockets))],
        pass_fds=[passed.fileno() for passed in sockets],
    )


def test_passed_sockets_are_used_and_no_other_is_made(make: Make, tmp_path: Path) -> None:
    appd = make(WEFT_APPD_WS_PORT="7410")
    path = tmp_path / "passed"
    with socket.socket(socket.AF_UNIX) as control, socket.socket() as ws:
        control.bind(os.fspath(path))
        ws.bind(("127.0.0.1", 0))
        port = ws.getsockname()[1]
        pass_sockets(appd, "ws:control", [ws, control])
    assert not appd.socket.exists()
    assert appd.port == port
    appd.socket = path
    session = appd.run_app("ready(); wait()")
    appd.websocket().send('{"type":"QUERY_RUNNING"}')
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    assert appd.sessions[session].state is State.RUNNING
    assert appd.port == port
    appd.websocket()
    appd.stop()
    assert path.exists()  # it is not ours to remove


def test_where_only_the_control_socket_is_passed_there_is_no_websocket(make: Make, tmp_path: Path) -> None:
    appd = make(WEFT_APPD_WS_PORT="0")
    appd.socket = tmp_path / "passed"
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(os.fspath(appd.socket))
        pass_sockets(appd, "control", [control])
        assert appd.control.ask(QueryRunning()) == NO_APPS
        appd.stop()
        # Who comes while there is no daemon is served by the next.
        early = appd.connect()
        early.send(QueryRunning())
        pass_sockets(appd, "control", [control])
    assert early.receive() == NO_APPS
    assert not (appd.runtime / "weft/appd.wsport").exists()
    assert not (appd.runtime / "weft/appd.sock").exists()
    assert appd.control.ask(QueryRunning()) == NO_APPS


def test_every_passed_socket_is_served_also_by_the_program_that_takes_over(
    make: Make, tmp_path: Path
) -> None:
    """A socket unit may listen at several places, all of one name."""
    appd = make(WEFT_APPD_WS_PORT="off")
    paths = [tmp_path / name for name in ("first", "second", "third")]
    with ExitStack() as stack:
        controls = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in paths]
        for control, path in zip(controls, paths, strict=True):
            control.bind(os.fspath(path))
        pages = [stack.enter_context(socket.socket()) for _ in range(2)]
        for page in pages:
            page.bind(("127.0.0.1", 0))
        ports = [page.getsockname()[1] for page in pages]
        pass_sockets(
            appd,
            "control:ws:control:ws:control",
            [controls[0], pages[0], controls[1], pages[1], controls[2]],
        )

    def all_are_served() -> None:
        for path in paths:
            appd.socket = path
            assert appd.connect().ask(QueryRunning()) == NO_APPS
        for port in ports:
            with connect(f"ws://127.0.0.1:{port}/", open_timeout=WAIT_SECONDS) as page:
                page.send('{"type":"QUERY_RUNNING"}')
                assert page.recv(WAIT_SECONDS) == '{"type":"RUNNING_APPS","sessions":[]}'

    all_are_served()
    assert appd.port == ports[0]
    doors = [*map(str, paths), *(f"127.0.0.1:{port}" for port in ports)]
    assert f" serves {' and '.join(doors)}, " in appd.find(" serves ")
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    all_are_served()
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    all_are_served()


def test_a_passed_socket_of_a_name_that_means_nothing_is_told_and_closed(make: Make, tmp_path: Path) -> None:
    appd = make()
    appd.socket = tmp_path / "passed"
    with socket.socket(socket.AF_UNIX) as control, socket.socket(socket.AF_UNIX) as other:
        control.bind(os.fspath(appd.socket))
        other.bind(os.fspath(tmp_path / "other"))
        pass_sockets(appd, "control:weft-other.socket", [control, other])
    told = f"warning: systemd passes a socket at {tmp_path}/other named 'weft-other.socket', which nobody serves: "
    assert appd.find("nobody serves").startswith(told)
    assert appd.control.ask(QueryRunning()) == NO_APPS
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(os.fspath(tmp_path / "other"))


@pytest.mark.parametrize(
    ("name", "family", "kind"),
    [
        ("control", socket.AF_INET, socket.SOCK_STREAM),
        ("control", socket.AF_UNIX, socket.SOCK_DGRAM),
        ("control", socket.AF_UNIX, socket.SOCK_SEQPACKET),
        ("ws", socket.AF_UNIX, socket.SOCK_STREAM),
        ("ws", socket.AF_INET, socket.SOCK_DGRAM),
    ],
)
def test_a_passed_socket_that_cannot_be_served_keeps_the_daemon_from_starting(
    make: Make, tmp_path: Path, name: str, family: socket.AddressFamily, kind: socket.SocketKind
) -> None:
    appd = make()
    with socket.socket(socket.AF_UNIX) as control, socket.socket(family, kind) as wrong:
        control.bind(os.fspath(tmp_path / "passed"))
        control.listen()
        wrong.bind(os.fspath(tmp_path / "wrong") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        if kind != socket.SOCK_DGRAM:
            wrong.listen()
        where = wrong.getsockname() if family == socket.AF_UNIX else "{}:{}".format(*wrong.getsockname())
        done = subprocess.run(
            ["bash", "-ec", PASSING, "bash", f"control:{name}", "2", *appd.program, "--config", appd.config],
            env={**appd.environ, "FDS": f"{control.fileno()} {wrong.fileno()}"}, capture_output=True, text=True,
            pass_fds=[control.fileno(), wrong.fileno()], timeout=WAIT_SECONDS, cwd=appd.directory, check=False,
        )  # fmt: skip
    assert done.returncode == 178
    assert f"err: the socket named '{name}' at {where} cannot be served [in its socket unit: " in done.stderr


def test_a_passed_descriptor_that_is_no_socket_keeps_the_daemon_from_starting(make: Make) -> None:
    appd = make()
    with open("/dev/null") as null:
        done = subprocess.run(
            ["bash", "-ec", PASSING, "bash", "control", "1", *appd.program, "--config", appd.config],
            env={**appd.environ, "FDS": str(null.fileno())}, capture_output=True, text=True,
            pass_fds=[null.fileno()], timeout=WAIT_SECONDS, cwd=appd.directory, check=False,
        )  # fmt: skip
    assert done.returncode == 178
    assert "err: the descriptor named 'control' is no socket: " in done.stderr
