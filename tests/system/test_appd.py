# SPDX-License-Identifier: Apache-2.0
"""weft-appd under a real systemd: notification, watchdog, restart, reload, passed sockets, and the journal."""

import json
import os
import time

import pytest

from tests.system.appd import (
    CONFIG,
    CRASH,
    DEADLINE_S,
    HELLO,
    SOCKET,
    STOP_GRACE_S,
    TICKER,
    UNIT,
    ask,
    entries,
    events,
    eventually,
    launch,
    sessions,
    show,
    until_state,
)
from tests.system.container import Container, Suite
from weft_runtime.journal import UNASKED_END

PROMISE_S = STOP_GRACE_S + 1
SLACK_S = 2  # of a busy machine, systemctl included
CRASHES, AT_ONCE = 100, 20

pytestmark = [pytest.mark.sessions, pytest.mark.usefixtures("installed")]

SECOND = "/run/weft/second.sock"

# Prints a word for each place. A gesture has two messages for who makes it, the answer and the push.
DOORS = f"""
import json, socket, statistics, time

def connected(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    connection = socket.socket(family)
    connection.settimeout({DEADLINE_S})
    connection.connect(address)
    return connection.makefile("rwb", buffering=0)

def exactly(file, size):
    data = b""
    while len(data) < size:
        data += file.read(size - len(data))
    return data

for path in ("{SOCKET}", "{SECOND}"):
    file = connected(path)
    file.write(bytes([15, 0, 0, 0, 0x91, 0xAD]) + b"QUERY_RUNNING")
    assert b"RUNNING_APPS" in exactly(file, int.from_bytes(exactly(file, 4), "little"))
    print("served")

for port in (7410, 7411):
    file = connected(("127.0.0.1", port))
    file.write(
        b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n"
    )
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += exactly(file, 1)
    assert b" 101 " in head
    gesture = json.dumps(dict(type="PANEL_GESTURE", gesture_type=1, fingers=2, dx=0, dy=0)).encode()
    first, apart = [], []
    for _ in range(40):
        begun = time.monotonic()
        file.write(bytes([0x81, 0x80 | len(gesture), 0, 0, 0, 0]) + gesture)
        came = []
        for _ in range(2):
            assert b"NAVIGATION_GESTURE" in exactly(file, exactly(file, 2)[1])
            came.append(time.monotonic())
        first.append(came[0] - begun)
        apart.append(came[1] - came[0])
    assert statistics.median(apart) < 5 * statistics.median(first), (first, apart)
    print("served")
"""


@pytest.mark.once("it launches nothing")
def test_it_is_started_when_it_serves(service: Container) -> None:
    # systemctl start has returned: READY=1 has come.
    assert ask(service, {"type": "QUERY_RUNNING"}) == [{"type": "RUNNING_APPS", "sessions": []}]
    assert show(service, "ActiveState") == "active"
    assert show(service, "StatusText").startswith("0 sessions, 0 of them starting, ")
    (entry,) = entries(service, "WEFT_EVENT=daemon-ready", at_least=1)
    assert entry["SYSLOG_IDENTIFIER"] == "weft-appd"
    assert entry["_TRANSPORT"] == "journal"
    assert str(entry["MESSAGE"]).endswith(f" serves {SOCKET}, runtime /usr/local/bin/weft-runtime-wasmtime")


@pytest.mark.once("it launches nothing")
def test_it_is_not_started_when_it_cannot_serve(container: Container) -> None:
    container.write(CONFIG, "max_sessions = 0\nready_timeout = 0\n")
    assert container.run("systemctl", "start", UNIT, check=False).returncode
    container.run("systemctl", "stop", UNIT)
    (failure, *_) = container.journal(
        "WEFT_EVENT=settings-invalid", "SYSLOG_IDENTIFIER=weft-appd", at_least=1
    )
    assert failure["PRIORITY"] == "3"
    assert "max_sessions is '0'" in str(failure["MESSAGE"])
    assert "ready_timeout is '0'" in str(failure["MESSAGE"])
    container.write(CONFIG, "")


@pytest.mark.once("the daemon counts, however they were started")
def test_its_status_counts_sessions(service: Container) -> None:
    first, second = launch(service, TICKER, TICKER)
    until_state(service, "running", first, second)
    eventually(lambda: show(service, "StatusText").startswith("2 sessions, 0 of them starting, "))
    ask(service, {"type": "TERMINATE_APP", "session_id": first})
    eventually(lambda: show(service, "StatusText").startswith("1 session, 0 of them starting, "))


def test_the_story_of_a_session_is_in_the_journal(service: Container) -> None:
    (session,) = launch(service, HELLO)
    until_state(service, "stopped", session)
    found = events(service, session)
    # The daemon tells the course; the runtime says only that it has compiled, where it had to.
    assert [event for identifier, event in found if identifier == "weft-runtime"] in ([], ["loaded"])
    own = [event for identifier, event in found if identifier == "weft-appd"]
    assert own == ["session-launched", "session-ready", "session-ended"]
    assert (f"{HELLO}/{session}", "output") in found
    assert found[-1] == ("weft-appd", "session-ended")


def test_a_line_of_an_app_is_an_entry_with_its_fields(service: Container) -> None:
    (session,) = launch(service, CRASH)
    until_state(service, "stopped", session)
    out, err = (
        entries(
            service, f"WEFT_SESSION_ID={session}", "WEFT_EVENT=output", f"WEFT_STREAM={stream}", at_least=1
        )
        for stream in ("stdout", "stderr")
    )
    assert out
    assert err
    for found, priority in ((out, "6"), (err, "4")):
        for entry in found:
            assert entry["SYSLOG_IDENTIFIER"] == f"{CRASH}/{session}"
            assert entry["WEFT_APP_ID"] == CRASH
            assert entry["PRIORITY"] == priority
            assert entry["_SYSTEMD_UNIT"] == UNIT
            assert entry["_TRANSPORT"] == "journal"


def reasons(service: Container) -> int:
    """How many crashes `journalctl -u weft-appd` explains."""
    service.run("journalctl", "--sync")
    command = ("journalctl", "--no-pager", "--output=cat", "-u", "weft-appd", "WEFT_EVENT=session-ended")
    lines = service.run(*command).stdout.splitlines()
    return sum("ended with status 134" in line and "unreachable" in line for line in lines)


def test_a_hundred_crashes_have_a_hundred_reasons(service: Container) -> None:
    # That none is lost among many is no matter of the release, nor of how they were started: one run is enough for that.
    is_one = service.suite is Suite.TRIXIE and "WEFT_FORK_SERVER" not in os.environ
    count = CRASHES if is_one else AT_ONCE
    before = reasons(service)
    numbers: list[int] = []
    while len(numbers) < count:  # not all at once: a machine with one core has 30 s until READY, too
        numbers += launch(service, *[CRASH] * AT_ONCE)
        until_state(service, "stopped", *numbers)
    eventually(lambda: reasons(service) - before == count)
    found = {entry["WEFT_SESSION_ID"]: entry for entry in entries(service, "WEFT_EVENT=session-ended")}
    assert set(found) == set(map(str, numbers))
    for entry in found.values():
        assert entry["PRIORITY"] == "4"
        assert entry["WEFT_EXIT_STATUS"] == "134"
        assert "unreachable" in str(entry["WEFT_REASON"])
        assert entry["MESSAGE_ID"] == UNASKED_END
        assert int(str(entry["WEFT_RUN_USEC"])) > 0
    explained = service.run("journalctl", "--no-pager", "-x", "WEFT_EVENT=session-ended", "--lines=1").stdout
    assert f"App {CRASH} has failed" in explained


@pytest.mark.once("who asks is known before anything is started")
def test_who_asked_is_in_the_journal(service: Container) -> None:
    (session,) = launch(service, TICKER)
    until_state(service, "running", session)
    ask(service, {"type": "TERMINATE_APP", "session_id": session})
    launched, ended = (
        entries(service, f"WEFT_SESSION_ID={session}", f"WEFT_EVENT={event}", at_least=1)
        for event in ("session-launched", "session-ended")
    )
    assert str(launched[0]["MESSAGE"]).startswith(f"{TICKER}[{session}]: launched by root (uid 0) pid ")
    assert str(ended[0]["WEFT_REASON"]).startswith("terminated by root (uid 0) pid ")
    assert ended[0]["PRIORITY"] == "6"


def test_a_session_knows_nothing_of_the_service(service: Container) -> None:
    (session,) = launch(service, TICKER)
    pid = until_state(service, "running", session)[session]["pid"]
    environ = service.run("cat", f"/proc/{pid}/environ").stdout.split("\0")
    names = {variable.partition("=")[0] for variable in environ if variable}
    assert not {
        name for name in names if name.startswith(("NOTIFY_", "LISTEN_", "WATCHDOG_", "STATE_", "RUNTIME_"))
    }
    assert not names & {"JOURNAL_STREAM", "INVOCATION_ID", "SECRET", "SYSTEMD_EXEC_PID"}
    assert "WEFT_LOG=journal" in environ
    daemon = show(service, "MainPID")
    scores = [int(service.run("cat", f"/proc/{number}/oom_score_adj").stdout) for number in (pid, daemon)]
    assert scores[0] > scores[1]


def test_after_a_kill_the_sessions_are_started_again(service: Container) -> None:
    numbers = launch(service, TICKER, TICKER)
    before = until_state(service, "running", *numbers)
    saved = json.dumps([TICKER, TICKER], separators=(",", ":"))
    eventually(
        lambda: service.run("cat", "/var/lib/weft/appd/last-session.json", check=False).stdout == saved
    )
    daemon = show(service, "MainPID")
    service.run("kill", "-KILL", daemon)
    eventually(
        lambda: show(service, "MainPID") not in ("0", daemon) and show(service, "ActiveState") == "active"
    )
    assert show(service, "NRestarts") == "1"
    eventually(
        lambda: (
            [session["state"] for session in sessions(service).values() if session["pid"]] == ["running"] * 2
        )
    )
    after = {number: session for number, session in sessions(service).items() if session["pid"]}
    # No number is given twice.
    assert not {*after} & {*before}
    assert [session["app_id"] for session in after.values()] == [TICKER, TICKER]
    assert not {session["pid"] for session in after.values()} & {
        session["pid"] for session in before.values()
    }
    # systemd has ended the old ones.
    for session in before.values():
        assert service.run("test", "-d", f"/proc/{session['pid']}", check=False).returncode
    (entry,) = [entry for entry in entries(service) if "that ran before" in str(entry["MESSAGE"])]
    assert entry["MESSAGE"] == "starting the 2 apps that ran before"


def apps_that_run(container: Container) -> list[str]:
    return [each["app_id"] for each in sessions(container).values() if each["state"] == "running"]


@pytest.mark.once("systemd ends all processes of the unit, whatever they are")
def test_a_daemon_that_hangs_is_caught_by_the_watchdog(service: Container) -> None:
    (session,) = launch(service, TICKER)
    until_state(service, "running", session)
    eventually(
        lambda: TICKER in service.run("cat", "/var/lib/weft/appd/last-session.json", check=False).stdout
    )
    daemon = show(service, "MainPID")
    service.run("kill", "-STOP", daemon)
    eventually(
        lambda: show(service, "MainPID") not in ("0", daemon) and show(service, "ActiveState") == "active"
    )
    timeouts = service.journal(f"UNIT={UNIT}", "PRIORITY=3", at_least=1)
    assert any("Watchdog timeout" in str(entry["MESSAGE"]) for entry in timeouts)
    eventually(lambda: apps_that_run(service) == [TICKER])


@pytest.mark.once("it launches nothing")
def test_the_watchdog_leaves_a_daemon_alone_that_works(service: Container) -> None:
    """Longer than its 5 seconds, with a reload in between."""
    daemon = show(service, "MainPID")
    begun = time.monotonic()
    service.run("systemctl", "reload", UNIT)
    eventually(lambda: time.monotonic() - begun > 7)
    assert show(service, "MainPID") == daemon
    assert show(service, "NRestarts") == "0"


def test_reload_goes_on_with_the_same_process_and_sessions(service: Container) -> None:
    (session,) = launch(service, TICKER)
    before = until_state(service, "running", session)
    daemon = show(service, "MainPID")
    service.write(CONFIG, "max_sessions = 1\n")
    service.run("systemctl", "reload", UNIT)
    assert show(service, "MainPID") == daemon
    assert show(service, "ActiveState") == "active"
    assert sessions(service) == before
    (refused,) = ask(service, {"type": "LAUNCH_APP", "app_id": TICKER, "surface_id": 0})
    assert (refused["type"], refused["code"]) == ("ERROR", 10)
    assert [entry["MESSAGE"] for entry in entries(service, "WEFT_EVENT=reloaded", at_least=1)] == [
        "reloaded, 1 session lives on"
    ]
    # What it says afterwards is heard as before.
    count = len(entries(service, f"WEFT_SESSION_ID={session}", "WEFT_EVENT=output"))
    eventually(lambda: len(entries(service, f"WEFT_SESSION_ID={session}", "WEFT_EVENT=output")) > count)


@pytest.mark.once("without a fork server there is less that could change")
def test_a_reload_that_is_refused_fails_and_changes_nothing(service: Container) -> None:
    (session,) = launch(service, TICKER)
    before = until_state(service, "running", session)
    daemon = show(service, "MainPID")
    service.write(CONFIG, "max_sessions = 'many'\n")
    done = service.run("systemctl", "reload", UNIT, check=False)
    assert done.returncode == 1
    assert show(service, "MainPID") == daemon
    assert show(service, "ActiveState") == "active"
    assert sessions(service) == before
    (entry,) = entries(service, "WEFT_EVENT=reload-failed", at_least=1)
    assert entry["PRIORITY"] == "3"
    assert "max_sessions is 'many'" in str(entry["MESSAGE"])
    assert "weft-appd" in service.run("journalctl", "--no-pager", "-x", "WEFT_EVENT=reload-failed").stdout


@pytest.mark.once("the runtime is a script, which offers no fork server")
def test_stop_keeps_its_promise_and_leaves_no_process(container: Container) -> None:
    container.write(CONFIG, 'runtime_bin = "/usr/local/bin/stubborn"\n')
    container.run("systemctl", "start", UNIT)
    numbers = launch(container, *[TICKER] * 5)
    pids = [session["pid"] for session in until_state(container, "running", *numbers).values()]
    begun = time.monotonic()
    container.run("systemctl", "stop", UNIT)
    took = time.monotonic() - begun
    assert STOP_GRACE_S <= took < PROMISE_S + SLACK_S
    assert show(container, "Result") == "success"
    assert show(container, "ExecMainStatus") == "0"
    for pid in pids:
        assert container.run("test", "-d", f"/proc/{pid}", check=False).returncode
    saved = container.run("cat", "/var/lib/weft/appd/last-session.json").stdout
    assert json.loads(saved) == [TICKER] * 5
    container.run("rm", "-rf", "/var/lib/weft/appd")
    container.write(CONFIG, "")


def check_doors(container: Container) -> None:
    """Somebody answers at each place, and no answer waits until the one before it is acknowledged, which takes 40 ms."""
    done = container.run("python3", "-I", "-c", DOORS)
    assert done.stdout.splitlines() == ["served"] * 4


@pytest.mark.once("the sockets are the daemon's")
def test_sockets_of_systemd_are_used_and_outlive_the_daemon(container: Container) -> None:
    units = {
        "weft-appd.socket": ((SOCKET, SECOND), "control"),
        "weft-appd-ws.socket": (("127.0.0.1:7410", "127.0.0.1:7411"), "ws"),
    }
    for unit, (addresses, name) in units.items():
        places = "".join(f"ListenStream={address}\n" for address in addresses)
        container.write(
            f"/run/systemd/system/{unit}",
            f"[Socket]\n{places}FileDescriptorName={name}\nSocketMode=0660\nService={UNIT}\n",
        )
    container.write(
        f"/run/systemd/system/{UNIT}.d/sockets.conf",
        f"[Unit]\nRequires={' '.join(units)}\n[Service]\nRuntimeDirectory=\nRuntimeDirectory=weft-appd\n",
    )
    container.run("systemctl", "daemon-reload")
    try:
        container.run("systemctl", "start", *units)
        assert show(container, "ActiveState") == "inactive"
        assert container.run("stat", "--format=%a", SOCKET).stdout == "660\n"
        # The first who asks starts it and is answered.
        assert ask(container, {"type": "QUERY_RUNNING"}) == [{"type": "RUNNING_APPS", "sessions": []}]
        assert show(container, "ActiveState") == "active"
        (entry,) = entries(container, "WEFT_EVENT=daemon-ready", at_least=1)
        doors = f"{SOCKET} and {SECOND} and 127.0.0.1:7410 and 127.0.0.1:7411"
        assert f" serves {doors}, runtime " in str(entry["MESSAGE"])
        check_doors(container)
        assert container.run("cat", "/run/weft-appd/appd.wsport").stdout == "7410"
        (session,) = launch(container, TICKER)
        until_state(container, "running", session)
        daemon = show(container, "MainPID")
        container.run("systemctl", "reload", UNIT)
        assert show(container, "MainPID") == daemon
        assert sessions(container)[session]["state"] == "running"
        check_doors(container)
        container.run("systemctl", "stop", UNIT)
        assert container.run("test", "-S", SOCKET, check=False).returncode == 0
        # The apps that ran are there again with the next client.
        eventually(lambda: apps_that_run(container) == [TICKER])
    finally:
        container.run("systemctl", "stop", UNIT, *units)
        container.run("rm", "-rf", f"/run/systemd/system/{UNIT}.d", "/var/lib/weft/appd")
        container.run("systemctl", "daemon-reload")


def test_nothing_unexpected_was_logged(container: Container) -> None:
    """The last one: of all that the tests above have brought about, only what they meant to."""
    found = container.journal("SYSLOG_IDENTIFIER=weft-appd")
    assert found
    messages = [str(entry["MESSAGE"]) for entry in found]
    assert not [message for message in messages if "Traceback" in message or "internal error" in message]
    meant = ("max_sessions is ", "reload refused", "the app trapped in _start")
    serious = [str(entry["MESSAGE"]) for entry in found if str(entry["PRIORITY"]) in "0123"]
    assert [message for message in serious if not any(part in message for part in meant)] == []
