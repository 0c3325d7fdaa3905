# SPDX-License-Identifier: Apache-2.0
"""The daemon of the installed package when it is restarted, killed, stopped in its tracks, and stopped for good."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from subprocess import PIPE

import pytest

from tests.command.guests import FOREVER, guest
from tests.system.appd import HELLO, SOCKET, TICKER, UNIT, eventually, show
from tests.system.container import Container
from tests.system.package import CODE, add_app, complaints, launch, processes, until_running

pytestmark = pytest.mark.sessions

BUSY = "org.example.busy"
MANY = 10
RESTARTS = 3
GRACE_S = 5  # stop_grace: whoever needs it has not ended when asked to
SAVED = "/var/lib/weft/appd/last-session.json"

# Connects and asks again and again until its standard input ends; then prints how often what came of it.
CLIENT = f"""
import collections, json, select, sys
from pathlib import Path

sys.path.insert(0, "{CODE}")
from weft_runtime.client import DaemonClient
from weft_runtime.errors import WeftError
from weft_runtime.protocol import QueryRunning

outcomes = collections.Counter()
while not select.select([sys.stdin], [], [], 0)[0]:
    doing = "connect"
    try:
        with DaemonClient(Path("{SOCKET}"), timeout=60) as daemon:
            doing = "ask"
            daemon.ask(QueryRunning())
        outcomes["answered"] += 1
    except WeftError as error:
        outcomes[f"{{doing}}: {{error}}"] += 1
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module", autouse=True)
def busy(device: Container) -> None:
    """An app that uses all the time it can get."""
    add_app(device, BUSY, guest(FOREVER))


@pytest.fixture(autouse=True)
def fresh(device: Container) -> None:
    """A daemon that has never run before, neither for its own guard nor for the start limit of its unit."""
    device.run("systemctl", "stop", UNIT)
    device.run("sh", "-c", "rm -f /var/lib/weft/appd/*")
    device.run("systemctl", "reset-failed", UNIT, check=False)  # fails where nothing is to be reset
    device.run("systemctl", "start", UNIT)


@pytest.fixture
def pair(device: Container, fresh: None) -> Iterator[list[int]]:
    """The processes of two sessions, remembered in case the daemon crashes."""
    pids = [launch(device, TICKER)["pid"] for _ in range(2)]
    expected = json.dumps([TICKER, TICKER], separators=(",", ":"))
    eventually(lambda: device.run("cat", SAVED, check=False).stdout == expected)
    yield pids
    device.run("weftctl", "stop", TICKER)


@pytest.fixture
def short_watchdog(device: Container, fresh: None) -> Iterator[None]:
    """3 seconds instead of 30, so that nobody waits for the whole of them; not under test is their number."""
    path = f"/run/systemd/system/{UNIT}.d/watchdog.conf"
    device.write(path, "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n")
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "restart", UNIT)
    yield
    device.run("rm", path)
    device.run("systemctl", "daemon-reload")


def until_back(container: Container, before: str) -> None:
    eventually(lambda: show(container, "MainPID") not in ("0", before))
    eventually(lambda: show(container, "ActiveState") == "active")


def check_that_all_are_new(container: Container, before: list[int]) -> None:
    """Two sessions run again, and of what ran before there is no process."""
    after = [session["pid"] for session in until_running(container, TICKER, TICKER)]
    assert not {*after} & {*before}
    # While the fork server starts there may be one that is neither yet.
    eventually(lambda: processes(container) == {int(show(container, "MainPID")), *after})


@pytest.mark.once("the sockets are systemd's")
def test_no_client_is_refused_while_the_daemon_restarts(device: Container) -> None:
    with device.popen("python3", "-I", "-c", CLIENT, stdin=PIPE) as client:
        for _ in range(RESTARTS):
            # More starts than its limit in a minute.
            device.run("systemctl", "reset-failed", UNIT, check=False)
            device.run("systemctl", "restart", UNIT)
            device.run("weftctl", "launch", "--wait", HELLO)
        printed, complaint = client.communicate("enough\n", timeout=60)
    assert complaint == ""
    outcomes = Counter(json.loads(printed))
    assert outcomes["answered"] > RESTARTS
    assert not [outcome for outcome in outcomes if outcome.startswith("connect: ")]
    # One that was connected to the daemon that stops may hear so, once each time.
    assert outcomes.total() - outcomes["answered"] <= RESTARTS


def test_after_a_kill_all_is_as_before(device: Container, pair: list[int]) -> None:
    daemon, restarts = show(device, "MainPID"), int(show(device, "NRestarts"))
    device.run("kill", "-KILL", daemon)
    until_back(device, daemon)
    check_that_all_are_new(device, pair)
    assert int(show(device, "NRestarts")) == restarts + 1
    assert device.journal(f"UNIT={UNIT}", f"MESSAGE={UNIT}: Main process exited, code=killed, status=9/KILL")


@pytest.mark.once("systemd ends all processes of the unit, whatever they are")
def test_the_watchdog_catches_a_daemon_that_does_nothing(
    device: Container, short_watchdog: None, pair: list[int]
) -> None:
    daemon = show(device, "MainPID")
    device.run("kill", "-STOP", daemon)
    until_back(device, daemon)
    check_that_all_are_new(device, pair)
    timeouts = [str(entry["MESSAGE"]) for entry in device.journal(f"UNIT={UNIT}", "PRIORITY=3")]
    assert any("Watchdog timeout (limit 3s)" in message for message in timeouts)


@pytest.mark.once("it launches nothing")
def test_the_watchdog_of_the_unit_is_on(device: Container) -> None:
    assert show(device, "WatchdogUSec") == "30s"


def test_ten_busy_sessions_stop_when_they_are_asked_to(device: Container) -> None:
    for _ in range(MANY):
        device.run("weftctl", "launch", "--no-wait", BUSY)
    until_running(device, *[BUSY] * MANY)
    eventually(lambda: len(processes(device)) == 1 + MANY)
    invocation = show(device, "InvocationID")
    begun = time.monotonic()
    device.run("systemctl", "stop", UNIT)
    took = time.monotonic() - begun
    assert show(device, "ActiveState") == "inactive"
    assert show(device, "Result") == "success"
    assert processes(device) == set()
    ended = device.journal(f"_SYSTEMD_INVOCATION_ID={invocation}", "WEFT_EVENT=session-ended")
    assert [entry["WEFT_SIGNAL"] for entry in ended] == ["SIGTERM"] * MANY
    # A second on a device that does nothing else; here it is enough that nobody had to be killed.
    assert took < GRACE_S


def test_nothing_unexpected_was_logged(device: Container) -> None:
    """The last one: of all that the tests above have brought about, only what they meant to."""
    by_systemd = (
        "Watchdog timeout",
        "Killing process ",
        "Failed with result",
        "Main process exited, code=killed",
    )
    assert complaints(device, *by_systemd) == []
