# SPDX-License-Identifier: Apache-2.0
"""Sessions and services of the installed package in one view: what runs, which version, what became of it, who did it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.command.guests import guest, sleep
from tests.packages import manifest
from tests.system.appd import HELLO, SOCKET, TICKER, UNIT, eventually, show
from tests.system.container import Container
from tests.system.package import OPERATOR_STORE, SYSTEM_STORE, add_app, add_crash, launch, service
from tests.system.test_installed_journal import FORGE

CRASH, SILENT = "org.weft.examples.crash", "org.example.silent"
OPERATOR, STRANGER = "alice", "mallory"


@pytest.fixture(scope="module", autouse=True)
def users(device: Container) -> None:
    device.run("useradd", "--shell", "/bin/sh", "--groups", "weft,systemd-journal", OPERATOR)
    device.run("useradd", "--shell", "/bin/sh", STRANGER)


@pytest.fixture(autouse=True)
def quiet(device: Container) -> Iterator[None]:
    """Nothing runs before a test, and nothing of it after."""
    yield
    device.run("systemctl", "start", UNIT)
    device.run("systemctl", "stop", "weft-app@*.service", check=False)
    device.run("systemctl", "reset-failed", check=False)
    for app_id in (TICKER, HELLO):
        device.run("weftctl", "stop", app_id, check=False)
    device.run("rm", "-rf", f"{OPERATOR_STORE}/{TICKER}")


@pytest.fixture
def both(device: Container) -> dict[str, Any]:
    """The ticker as a session, and as a service; the session."""
    device.run("systemctl", "start", service(TICKER))
    return launch(device, TICKER)


def upgrade(device: Container) -> None:
    """A newer version of the ticker in the operator's store."""
    device.run("cp", "-R", f"{SYSTEM_STORE}/{TICKER}", f"{OPERATOR_STORE}/{TICKER}")
    device.run("sed", "-i", 's/^version = .*/version = "2.0.0"/', f"{OPERATOR_STORE}/{TICKER}/wapp.toml")


def listed(device: Container, *options: str, user: str | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        device.run("weftctl", "list", "--json", *options, user=user).stdout
    )
    return found


def versions(device: Container) -> list[tuple[str, str, str]]:
    return [(item["kind"], item["version"], item["state"]) for item in listed(device)]


@pytest.mark.parametrize("user", [None, OPERATOR])
def test_one_table_has_both(device: Container, both: dict[str, Any], user: str | None) -> None:
    number = str(both["session_id"])
    done = device.run("weftctl", "list", user=user)
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["ID", "KIND", "APP", "VERSION", "STATE", "SINCE", "REASON"]
    assert [row.split()[:5] for row in rows] == [
        [number, "session", TICKER, "1.0.0", "running"], ["-", "service", TICKER, "1.0.0", "running"]
    ]  # fmt: skip
    assert done.stderr == ""
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    session, unit = listed(device, user=user)
    assert {**both}.items() <= session.items()
    assert set(session) == set(unit)
    assert (unit["session_id"], unit["unit"], unit["enabled"]) == (None, service(TICKER), False)
    assert unit["pid"] == int(show(device, "MainPID", service(TICKER)))
    now = float(device.run("date", "+%s.%N").stdout)
    assert 0 <= now - unit["ready"] < 60
    assert unit["launched"] <= unit["ready"] == unit["since"]
    wide = device.run("weftctl", "list", "--wide").stdout.splitlines()
    assert wide[0].split()[4:] == [
        "INSTALLED", "STATE", "SINCE", "PID", "RESTARTS", "MEMORY", "CPU", "RESULT", "REASON"
    ]  # fmt: skip


def test_an_upgrade_is_seen_and_taken_into_use(device: Container, both: dict[str, Any]) -> None:
    upgrade(device)
    done = device.run("weftctl", "list")
    assert [row.split()[3:5] for row in done.stdout.splitlines()[1:]] == [["1.0.0", "*"], ["1.0.0", "*"]]
    command = re.findall(r"'(weftctl restart \S+)'", done.stderr)
    assert command == [f"weftctl restart {TICKER}"]
    assert versions(device) == [("session", "1.0.0", "running"), ("service", "1.0.0", "running")]
    done = device.run(*command[0].split())
    assert done.stdout == (
        f"{service(TICKER)} is restarted\n"
        f"session {both['session_id'] + 1} of {TICKER} replaces session {both['session_id']}\n"
    )
    assert versions(device) == [("session", "2.0.0", "running"), ("service", "2.0.0", "running")]
    assert device.run("weftctl", "list").stderr == ""


def test_status_tells_all_of_both(device: Container, both: dict[str, Any]) -> None:
    eventually(lambda: "tick 1" in device.run("weftctl", "status", TICKER).stdout.partition("Service:")[2])
    text = device.run("weftctl", "status", TICKER).stdout
    session, unit = text.split("\nService:")
    for part in (session, unit):
        for row in ("App: ", "Version: ", "State: ", "PID: ", "Launched: ", "Ready: ", "CPU: ", "Package: "):
            assert row in part, part
        assert f"{SYSTEM_STORE}/{TICKER}\n" in part
        assert "Signature: " in part
        assert "tick" in part
    assert ", by " in session
    assert f"At boot:    not started [systemctl enable {service(TICKER)}]\n" in unit
    assert f"Data:       /var/lib/private/weft-apps/{TICKER}\n" in unit
    found = json.loads(device.run("weftctl", "status", TICKER, "--json").stdout)
    live = [item for item in found if item["state"] == "running"]
    assert [item["kind"] for item in live] == ["session", "service"]
    assert all(item["log"] for item in live)
    one = json.loads(device.run("weftctl", "status", str(both["session_id"]), "--json").stdout)
    assert one["session_id"] == both["session_id"]
    # Whoever may not read the journal is told so.
    done = device.run("weftctl", "status", TICKER, user="weft")
    assert "weftctl: without the log: permission denied on the journal" in done.stderr


def test_stop_names_the_unit_that_goes_on(device: Container, both: dict[str, Any]) -> None:
    done = device.run("weftctl", "stop", TICKER)
    assert f"session {both['session_id']} of {TICKER} stopped" in done.stdout
    assert done.stderr == (
        f"weftctl: its service {service(TICKER)} is running and goes on"
        f" ['systemctl stop weft-app@{TICKER}' ends it]\n"
    )
    done = device.run("weftctl", "stop", TICKER, check=False)
    assert (done.returncode, done.stdout) == (166, "")
    (command,) = re.findall(r"'(systemctl stop \S+)'", done.stderr)
    device.run(*command.split())
    assert show(device, "ActiveState", service(TICKER)) == "inactive"
    # What was stopped stays so.
    done = device.run("weftctl", "restart", TICKER, check=False)
    assert (done.returncode, show(device, "ActiveState", service(TICKER))) == (166, "inactive")


def test_who_is_not_root_restarts_what_he_may(device: Container, both: dict[str, Any]) -> None:
    pid = show(device, "MainPID", service(TICKER))
    done = device.run("weftctl", "restart", TICKER, user=OPERATOR, check=False)
    assert done.returncode == 177
    assert f"replaces session {both['session_id']}" in done.stdout
    assert done.stderr == (
        f"weftctl: only root may restart {service(TICKER)} [as root: 'systemctl restart {service(TICKER)}']\n"
    )
    assert show(device, "MainPID", service(TICKER)) == pid


def test_a_service_that_has_failed_is_listed_with_the_reason_and_revived(device: Container) -> None:
    add_crash(device)
    unit = service(CRASH)
    device.run("systemctl", "start", unit)
    eventually(lambda: show(device, "ActiveState", unit) == "failed")
    row = device.run("weftctl", "list").stdout.splitlines()[1]
    assert row.split()[:5] == ["-", "service", CRASH, "-", "failed"]
    assert "the app trapped in _start: unreachable" in row
    assert row.endswith("; systemd has given up")
    (item,) = listed(device)
    assert (item["exit_status"], item["pid"]) == (134, None)
    assert item["restarts"] >= 4
    assert "the app trapped in _start" in device.run("weftctl", "status", CRASH).stdout
    # Mended, the command starts it although systemd has given up.
    store = f"{OPERATOR_STORE}/{CRASH}"
    device.run("cp", f"{SYSTEM_STORE}/{TICKER}/app.wasm", f"{store}/{crash_module(device, store)}")
    assert device.run("weftctl", "restart", CRASH).stdout == f"{unit} is restarted\n"
    assert [(item["kind"], item["state"]) for item in listed(device)] == [("service", "running")]
    device.run("rm", "-rf", store)


def crash_module(device: Container, store: str) -> str:
    found = re.search(r'^module = "(.*)"', device.run("cat", f"{store}/wapp.toml").stdout, re.MULTILINE)
    assert found
    return found[1]


def test_a_service_that_is_killed_or_never_ready_says_so(device: Container) -> None:
    device.run("systemctl", "start", service(TICKER))
    device.write(f"/run/systemd/system/{service(TICKER)}.d/never.conf", "[Service]\nRestart=no\n")
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "kill", "--signal=KILL", service(TICKER))
    eventually(lambda: show(device, "ActiveState", service(TICKER)) == "failed")
    (item,) = listed(device)
    assert (item["state"], item["signal"], item["reason"]) == ("failed", "SIGKILL", "killed by SIGKILL")
    device.run("systemctl", "reset-failed")
    # An app that is to say READY itself, and does not.
    add_app(device, SILENT, guest(sleep(3600 * 10**9)))
    toml = manifest(SILENT, runtime='ready = "guest"')
    device.write(f"{OPERATOR_STORE}/{SILENT}/wapp.toml", toml)
    device.write(
        f"/run/systemd/system/{service(SILENT)}.d/never.conf", "[Service]\nRestart=no\nTimeoutStartSec=2\n"
    )
    device.run("systemctl", "daemon-reload")
    assert device.run("systemctl", "start", service(SILENT), check=False).returncode
    (item,) = listed(device)
    assert (item["state"], item["reason"]) == ("failed", "it did not say READY in time")
    for app_id in (TICKER, SILENT):
        device.run("rm", "-r", f"/run/systemd/system/{service(app_id)}.d")
    device.run("rm", "-r", f"{OPERATOR_STORE}/{SILENT}")
    device.run("systemctl", "daemon-reload")


def test_services_are_shown_without_a_daemon(device: Container, both: dict[str, Any]) -> None:
    device.run("systemctl", "stop", UNIT, "weft-appd.socket")
    done = device.run("weftctl", "list", check=False)
    assert done.returncode == 171
    assert [row.split()[:5] for row in done.stdout.splitlines()[1:]] == [
        ["-", "service", TICKER, "1.0.0", "running"]
    ]
    assert f"weftctl: weft-appd is not running: nobody listens on '{SOCKET}'" in done.stderr
    done = device.run("weftctl", "top", "--once", check=False)
    assert (done.returncode, service(TICKER) in done.stderr, TICKER in done.stdout) == (171, False, True)
    done = device.run("weftctl", "status", TICKER, check=False)
    assert (done.returncode, done.stdout.splitlines()[0].split()) == (171, ["Service:", service(TICKER)])
    done = device.run("weftctl", "stop", TICKER, check=False)
    assert (done.returncode, f"'systemctl stop weft-app@{TICKER}' ends it" in done.stderr) == (171, True)
    assert service(TICKER) in device.run("weftctl", "restart", TICKER, check=False).stdout
    device.run("systemctl", "start", "weft-appd.socket", UNIT)


def test_sessions_are_shown_where_the_bus_cannot_be_reached(device: Container, both: dict[str, Any]) -> None:
    environment = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"}
    done = device.run("weftctl", "list", user=OPERATOR, env=environment)
    assert [row.split()[1] for row in done.stdout.splitlines()[1:]] == ["session"]
    assert done.stderr.startswith("weftctl: services are not shown: Failed to connect to ")


def test_top_shows_both(device: Container, both: dict[str, Any]) -> None:
    done = device.run("weftctl", "top", "--once", "--sort", "id")
    assert [row.split()[1:5] for row in done.stdout.splitlines()[1:]] == [
        ["session", TICKER, "1.0.0", "running"], ["service", TICKER, "1.0.0", "running"]
    ]  # fmt: skip
    found = json.loads(device.run("weftctl", "top", "--once", "--json").stdout)
    assert all(item["cpu_percent"] is not None for item in found)


def told(device: Container, *args: str, user: str | None = None) -> list[tuple[Any, ...]]:
    device.run("journalctl", "--sync")
    found = json.loads(device.run("weftctl", "history", "--json", *args, user=user).stdout)
    return [
        (item["event"], item["kind"], item["app_id"], item["version"], item["session_id"]) for item in found
    ]


def test_history_tells_who_did_what(device: Container) -> None:
    before = len(told(device, "-n", "10000"))
    number = launch(device, TICKER)["session_id"]
    device.run("weftctl", "stop", str(number), user=OPERATOR)
    device.run("systemctl", "start", service(TICKER))
    device.run("systemctl", "stop", service(TICKER))
    device.run("weftctl", "launch", "org.example.nowhere", check=False)
    expected = [
        ("launched", "session", TICKER, "1.0.0", number),
        ("ended", "session", TICKER, None, number),
        ("launched", "service", TICKER, "1.0.0", None),
        ("ended", "service", TICKER, None, None),
        ("refused", "session", "org.example.nowhere", None, None),
    ]
    # The daemon waits for no entry.
    eventually(lambda: len(told(device, "-n", "10000")) >= before + len(expected))
    assert told(device, "-n", "10000")[before:] == expected
    assert told(device, TICKER)[-4:] == expected[:-1]
    assert told(device, "-n", "1", TICKER) == expected[3:4]
    assert told(device, TICKER, user=OPERATOR)[-4:] == expected[:-1]
    text = device.run("weftctl", "history", TICKER).stdout
    assert "terminated by" in text
    assert text.splitlines()[0].split() == ["TIME", "EVENT", "APP", "VERSION", "ID", "BY", "WHY"]
    assert device.run("weftctl", "history", user=STRANGER, check=False).returncode == 177


def test_history_tells_who_ended_what(device: Container) -> None:
    number = launch(device, TICKER)["session_id"]
    device.run("weftctl", "stop", str(number), user=OPERATOR)
    device.run("systemctl", "start", service(TICKER))
    device.run("systemctl", "stop", service(TICKER))
    add_crash(device)
    device.run("systemctl", "start", service(CRASH))
    device.run("weftctl", "launch", "--wait", CRASH, check=False)
    device.run("systemctl", "stop", service(CRASH))
    device.run("rm", "-rf", f"{OPERATOR_STORE}/{CRASH}")
    device.run("journalctl", "--sync")
    found = json.loads(device.run("weftctl", "history", "--json", "-n", "10000").stdout)
    by = {
        (item["event"], item["kind"], item["app_id"]): item["by"]
        for item in found
        if item["kind"] == "service" or (item["session_id"] or 0) >= number
    }
    uid = device.run("id", "-u", OPERATOR).stdout.strip()
    assert re.fullmatch(rf"{OPERATOR} \(uid {uid}\) pid \d+", by["ended", "session", TICKER])
    assert by["launched", "service", TICKER] == by["ended", "service", TICKER] == "systemd"
    assert by["ended", "session", CRASH] == by["ended", "service", CRASH] == "itself"


def test_commands_take_the_app_of_a_service_that_has_ended(device: Container) -> None:
    device.run("systemctl", "start", service(TICKER))
    eventually(lambda: "tick 1" in device.run("weftctl", "logs", TICKER).stdout)
    device.run("systemctl", "stop", service(TICKER))
    assert "tick 1" in device.run("weftctl", "logs", TICKER).stdout
    done = device.run("weftctl", "status", TICKER)
    # Sessions of it that have ended are told of as well, where there were any.
    assert TICKER in done.stdout + done.stderr
    assert "running" not in re.findall(r"State: +(\S+)", done.stdout)
    for command in ("stop", "restart"):
        done = device.run("weftctl", command, TICKER, check=False)
        assert (done.returncode, done.stdout) == (166, "")
        assert TICKER in done.stderr
    for command in ("logs", "status", "stop", "restart"):
        for target in ("org.example.nobody.asked", "987654"):
            done = device.run("weftctl", command, target, check=False)
            assert (done.returncode, done.stdout) == (166, ""), (command, target, done.stdout)
            assert target in done.stderr


def test_history_tells_what_killed_a_service(device: Container) -> None:
    device.run("systemctl", "start", service(TICKER))
    device.run("systemctl", "kill", "--signal=KILL", service(TICKER))
    eventually(lambda: show(device, "NRestarts", service(TICKER)) == "1")
    found = json.loads(device.run("weftctl", "history", TICKER, "--json").stdout)
    assert ("ended", "killed by a signal", True) in [(i["event"], i["text"], i["is_bad"]) for i in found]


def test_history_tells_what_was_done_with_a_package(device: Container) -> None:
    for version in ("2.0.0", "3.0.0"):
        device.run("rm", "-rf", "/tmp/newer")
        device.run("cp", "-R", f"{SYSTEM_STORE}/{TICKER}", "/tmp/newer")
        device.run("sed", "-i", f's/^version = .*/version = "{version}"/', "/tmp/newer/wapp.toml")
        device.run("weft-pack", "install", "/tmp/newer")
    device.run("weft-pack", "install", "--rollback", TICKER)
    device.run("weft-pack", "uninstall", TICKER)
    assert told(device, "-n", "4", TICKER) == [
        ("installed", None, TICKER, "2.0.0", None),
        ("upgraded", None, TICKER, "3.0.0", None),
        ("rolled back", None, TICKER, "2.0.0", None),
        ("removed", None, TICKER, "2.0.0", None),
    ]
    found = json.loads(device.run("weftctl", "history", "--json", "-n", "4", TICKER).stdout)
    assert {item["by"] for item in found} == {"root (uid 0)"}
    assert found[1]["text"].startswith("in place of 2.0.0, from /tmp/newer, signed by ")


def test_nobody_makes_up_a_history(device: Container) -> None:
    lies = [
        {
            "MESSAGE": "x", "WEFT_APP_ID": TICKER, "WEFT_EVENT": event, "WEFT_SESSION_ID": "77", "_UID": "0",
            "_SYSTEMD_UNIT": service(TICKER), "UNIT": service(TICKER), "_PID": "1", "UNIT_RESULT": "oom-kill",
            "MESSAGE_ID": "d9b373ed55a64feb8242e02dbe79a49c", "WEFT_REASON": "made up",
        }
        for event in ("session-launched", "session-ended", "starting", "exited", "launch-refused", "package-removed")
    ]  # fmt: skip
    text = "".join(f"{json.dumps(lie)}\n" for lie in lies)
    before = told(device, "-n", "10000")
    device.run("python3", "-c", FORGE, input=text, user=STRANGER)
    assert told(device, "-n", "10000") == before
    assert "made up" not in device.run("weftctl", "status", TICKER, check=False).stdout


def test_both_are_there_after_the_daemon_was_reloaded(device: Container, both: dict[str, Any]) -> None:
    before = [(item["session_id"], item["version"], item["launched_by"]) for item in listed(device)]
    device.run("systemctl", "reload", UNIT)
    assert [(item["session_id"], item["version"], item["launched_by"]) for item in listed(device)] == before
    until_running_both(device)


def until_running_both(device: Container) -> None:
    eventually(lambda: [item["state"] for item in listed(device)] == ["running", "running"])
