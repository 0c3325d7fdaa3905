# SPDX-License-Identifier: Apache-2.0
"""What the operator has stopped stays stopped, on both releases; what was not stopped keeps its sockets."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.command.guests import guest, sleep
from tests.system.appd import SOCKET, TICKER, UNIT, eventually, show
from tests.system.container import Container
from tests.system.package import add_app, complaints, launch, service, sessions, until_running

# Of these tests only those have the marker `sessions` in which sessions of the daemon are started again: who opens and closes
# the sockets is systemd, and a service has no daemon.
CONTROL, WEBSOCKET = "weft-appd.socket", "weft-appd-ws.socket"
DOORS = (CONTROL, WEBSOCKET)
STOPPED = f"weftctl: weft-appd is not running: nobody listens on '{SOCKET}' [systemctl start weft-appd]\n"
SILENT = "org.example.silent"
SILENT_S = 4
"""TimeoutStartSec= of the service, which has 30: tests/unit/test_units.py compares that with the start limit."""

# Runs the command of its arguments again and again until its standard input ends, but so often at least as the first one
# says, four at a time; then prints how often it ended with which status and said what.
ASKERS = """
import collections, json, select, subprocess, sys, threading

outcomes, enough = collections.Counter(), threading.Event()

def ask():
    while not enough.is_set() or outcomes.total() < int(sys.argv[1]):
        done = subprocess.run(sys.argv[2:], capture_output=True, text=True)
        outcomes[f"{done.returncode} {done.stderr}"] += 1

askers = [threading.Thread(target=ask) for _ in range(4)]
for asker in askers:
    asker.start()
print("asking", flush=True)
sys.stdin.read()
enough.set()
for asker in askers:
    asker.join()
print(json.dumps(outcomes))
"""

# Connects to the socket as often as it can: what came of it, each once, in order.
CONNECT = f"""
import socket
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("{SOCKET}")
"""


@pytest.fixture(autouse=True)
def fresh(device: Container) -> Iterator[None]:
    """A daemon that runs, with both sockets, and remembers nothing."""
    device.run("systemctl", "enable", "--quiet", UNIT, *DOORS)
    device.run("systemctl", "stop", UNIT)
    device.run("sh", "-c", "rm -f /var/lib/weft/appd/*")
    forget_failures(device)
    device.run("systemctl", "start", UNIT)
    yield
    forget_failures(device)


def forget_failures(container: Container) -> None:
    container.run("systemctl", "reset-failed", UNIT, *DOORS, check=False)


def states(container: Container, *units: str) -> set[str]:
    return {show(container, "ActiveState", unit) for unit in units}


def is_listening(container: Container) -> bool:
    """Whether a door is open, as the kernel has it."""
    tcp = container.run("cat", "/proc/net/tcp").stdout.split("\n")
    unix = container.run("cat", "/proc/net/unix").stdout
    return SOCKET in unix or any(":1CF2 " in line and " 0A " in line for line in tcp)


def check_that_all_is_stopped(container: Container) -> None:
    eventually(lambda: not is_listening(container))
    for _ in range(3):
        done = container.run("weftctl", "list", check=False)
        assert (done.returncode, done.stderr) == (171, STOPPED)
    assert container.run("python3", "-c", CONNECT, check=False).returncode
    assert states(container, UNIT, *DOORS) == {"inactive"}


@contextmanager
def asked(container: Container, at_least: int = 0) -> Iterator[Counter[str]]:
    """Four clients ask all the time; afterwards the outcomes are in what is yielded, `at_least` so many."""
    outcomes: Counter[str] = Counter()
    with container.popen("python3", "-c", ASKERS, str(at_least), "weftctl", "list", stdin=-1) as askers:
        assert askers.stdout is not None
        assert askers.stdout.readline() == "asking\n"
        yield outcomes
        printed, complaint = askers.communicate("", timeout=120)
    assert complaint == ""
    outcomes.update(json.loads(printed))


def test_a_stop_holds_though_everybody_asks(device: Container) -> None:
    launch(device, TICKER)
    with asked(device, at_least=25) as outcomes:
        # No word of sockets that could start it again.
        assert device.run("systemctl", "stop", UNIT).stderr == ""
        for _ in range(10):  # beside the four that ask all the time
            assert device.run("weftctl", "list", check=False).returncode == 171
        assert states(device, UNIT, *DOORS) == {"inactive"}
    assert {outcome.split()[0] for outcome in outcomes} <= {"0", "171"}
    assert outcomes[f"171 {STOPPED}"] > 10
    check_that_all_is_stopped(device)
    before = len(device.journal(f"UNIT={UNIT}", "JOB_TYPE=start", "JOB_RESULT=done"))
    # An explicit start restores as a boot does.
    device.run("systemctl", "start", UNIT)
    until_running(device, TICKER)
    assert len(device.journal(f"UNIT={UNIT}", "JOB_TYPE=start", "JOB_RESULT=done")) == before + 1
    assert states(device, UNIT, *DOORS) == {"active"}


@pytest.mark.parametrize("unit", [CONTROL, UNIT])
def test_a_stop_of_the_daemon_or_of_its_socket_closes_all_of_them(device: Container, unit: str) -> None:
    device.run("systemctl", "stop", unit)
    check_that_all_is_stopped(device)


def test_a_stop_holds_while_the_daemon_waits_for_its_next_start(device: Container) -> None:
    drop_in = f"/run/systemd/system/{UNIT}.d/pause.conf"
    device.write(drop_in, "[Service]\nRestartSec=60\n")
    device.run("systemctl", "daemon-reload")
    device.run("kill", "-KILL", show(device, "MainPID"))
    eventually(lambda: show(device, "SubState") == "auto-restart")
    device.run("systemctl", "stop", UNIT)
    device.run("rm", drop_in)
    device.run("systemctl", "daemon-reload")
    check_that_all_is_stopped(device)


def test_a_stop_holds_where_only_the_sockets_were_there(device: Container) -> None:
    device.run("systemctl", "stop", UNIT)
    device.run("systemctl", "start", *DOORS)
    # As after a boot with nothing but them enabled: whoever asks first starts the daemon.
    assert states(device, UNIT) == {"inactive"}
    device.run("systemctl", "stop", UNIT)
    check_that_all_is_stopped(device)
    device.run("systemctl", "start", *DOORS)
    assert sessions(device) == []
    assert states(device, UNIT, *DOORS) == {"active"}


def test_a_stop_holds_after_a_start_that_failed(device: Container) -> None:
    config = device.run("cat", "/etc/weft/appd.toml").stdout
    device.run("systemctl", "stop", UNIT)
    device.write("/etc/weft/appd.toml", 'max_sessions = "many"\n')
    assert device.run("systemctl", "start", UNIT, check=False).returncode
    device.run("systemctl", "stop", UNIT)
    device.write("/etc/weft/appd.toml", config)
    eventually(lambda: not is_listening(device))
    assert device.run("weftctl", "list", check=False).stderr == STOPPED
    assert "active" not in states(device, UNIT, *DOORS)


@pytest.mark.parametrize("way", ["restart", "reload", "crash", "watchdog"])
def test_what_is_no_stop_keeps_the_sockets_and_whoever_waits(device: Container, way: str) -> None:
    before = [show(device, "InvocationID", unit) for unit in DOORS]
    daemon = show(device, "MainPID")
    with asked(device) as outcomes:
        match way:
            case "restart" | "reload":
                device.run("systemctl", way, UNIT)
            case "crash":
                device.run("kill", "-KILL", daemon)
            case _:
                device.run("kill", "-ABRT", daemon)  # as systemd does it, when the time is over
        if way != "reload":
            eventually(lambda: show(device, "MainPID") not in ("0", daemon))
        eventually(lambda: show(device, "ActiveState") == "active")
        device.run("weftctl", "list")
    assert [show(device, "InvocationID", unit) for unit in DOORS] == before
    assert states(device, UNIT, *DOORS) == {"active"}
    # Nobody found a closed door; at most the few whose question the daemon had already taken lost it.
    assert not [outcome for outcome in outcomes if "not running" in outcome]
    assert (
        outcomes["0 "] + outcomes["0 weftctl: no session and no service is running\n"]
        >= outcomes.total() - 4
    )


@pytest.mark.sessions
def test_what_was_ended_by_its_number_is_not_restored_by_a_start(device: Container) -> None:
    ended, kept = launch(device, TICKER), launch(device, TICKER)
    device.run("weftctl", "stop", str(ended["session_id"]))
    device.run("systemctl", "stop", UNIT)
    device.run("systemctl", "start", UNIT)
    (session,) = until_running(device, TICKER)
    assert session["pid"] != kept["pid"]


def test_what_is_disabled_has_no_open_door_after_a_boot(device: Container) -> None:
    device.run("systemctl", "disable", "--quiet", "--now", UNIT)
    check_that_all_is_stopped(device)
    device.reboot()
    check_that_all_is_stopped(device)
    # The socket of the WebSocket is still enabled: with the daemon it is there again.
    device.run("systemctl", "enable", "--quiet", "--now", UNIT)
    assert states(device, UNIT, *DOORS) == {"active"}


@pytest.mark.sessions
def test_what_is_enabled_is_there_after_a_boot(device: Container) -> None:
    launch(device, TICKER)
    device.run("systemctl", "stop", UNIT)
    device.reboot()
    assert states(device, UNIT, *DOORS) == {"active"}
    until_running(device, TICKER)


@pytest.fixture
def silent(device: Container) -> Iterator[str]:
    """The service of an app that never says READY, with a short time for it."""
    add_app(device, SILENT, guest(sleep(3600 * 10**9)), "fs:rw:app-data")
    toml = f"/var/lib/weft/apps/{SILENT}/wapp.toml"
    device.run("sed", "-i", r's/^\[runtime\]/[runtime]\nready = "guest"/', toml)
    unit = service(SILENT)
    drop_in = f"/run/systemd/system/{unit}.d/test.conf"
    device.write(
        "/run/systemd/system/alarm.service", "[Service]\nType=oneshot\nExecStart=touch /run/alarm\n"
    )
    device.write(drop_in, f"[Unit]\nOnFailure=alarm.service\n[Service]\nTimeoutStartSec={SILENT_S}\n")
    device.run("systemctl", "daemon-reload")
    yield unit
    device.run("systemctl", "reset-failed", unit, check=False)
    device.run("rm", "-r", drop_in, f"/var/lib/weft/apps/{SILENT}")
    device.run("systemctl", "daemon-reload")


def test_an_app_that_never_says_ready_has_failed_after_five_rounds(device: Container, silent: str) -> None:
    assert device.run("systemctl", "start", silent, check=False).returncode
    eventually(lambda: show(device, "ActiveState", silent) == "failed")
    assert show(device, "NRestarts", silent) == "5"
    assert show(device, "Result", silent) == "timeout"
    assert "READY" in show(device, "StatusText", silent)
    eventually(lambda: device.run("test", "-e", "/run/alarm", check=False).returncode == 0)
    told = device.journal("WEFT_EVENT=not-ready", "_UID=0", f"WEFT_APP_ID={SILENT}")
    assert len(told) == 5
    for entry in told:
        text = str(entry["MESSAGE"])
        assert text.startswith(f"{SILENT}: it did not say READY within {SILENT_S} s [")
        assert f"'systemctl edit {silent}' with TimeoutStartSec=" in text
    assert "READY within" in device.run("journalctl", "--no-pager", "--unit", silent).stdout


def test_a_time_that_the_start_limit_does_not_fit_is_told(device: Container, silent: str) -> None:
    drop_in = f"/run/systemd/system/{silent}.d/test.conf"
    device.write(drop_in, "[Unit]\nStartLimitIntervalSec=20\n[Service]\nTimeoutStartSec=2\n")
    device.run("systemctl", "daemon-reload")
    since = len(device.journal("WEFT_EVENT=not-ready", "_UID=0"))
    assert device.run("systemctl", "start", silent, check=False).returncode
    device.run("systemctl", "stop", silent)
    text = str(device.journal("WEFT_EVENT=not-ready", "_UID=0")[since]["MESSAGE"])
    assert (
        ", and is tried again for ever: StartLimitIntervalSec= in [Unit] is 20 s, and has to be 41 s ["
        in text
    )


@pytest.mark.parametrize("instance", ["Nonsense", "org.example.nowhere"])
def test_a_start_of_no_app_leaves_nothing(device: Container, instance: str) -> None:
    unit = service(instance)
    assert device.run("systemctl", "start", unit, check=False).returncode
    device.run("systemctl", "reset-failed", unit)
    assert device.run("find", "/var/lib", "/var/cache", "-name", instance).stdout == ""


def test_a_start_without_the_app_keeps_its_data(device: Container) -> None:
    unit = service("org.example.gone")
    directory = "/var/lib/private/weft-apps/org.example.gone"
    device.run("systemctl", "start", unit, check=False)
    device.run("sh", "-c", f"mkdir -p {directory} && echo mine >{directory}/file")
    device.run("systemctl", "start", unit, check=False)
    device.run("systemctl", "reset-failed", unit)
    assert device.run("cat", f"{directory}/file").stdout == "mine\n"


@pytest.mark.sessions
def test_nothing_unexpected_was_logged(device: Container) -> None:
    """The last one: of all that the tests above have brought about, only what they meant to."""
    by_systemd = (
        "Failed with result", "Main process exited", "Killing process ", "Failed to start ", "start operation timed out",
        "Start request repeated", "State 'stop-",
    )  # fmt: skip
    meant = (
        "is not an app id",
        "not found in any package store",
        "did not say READY",
        "before READY",
        "max_sessions is 'many'",
    )
    assert complaints(device, *by_systemd, *meant) == []
