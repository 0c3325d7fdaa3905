# SPDX-License-Identifier: Apache-2.0
"""The installed package: an app as a service of its own, from enable to a clean stop."""

import json
from collections.abc import Iterator

import pytest

from tests.command.guests import CREATE, FOREVER, OPENED, TEXT, guest, leave_on_error, path_open, put
from tests.system.appd import CRASH, HELLO, TICKER, UNIT, eventually, show
from tests.system.container import Container
from tests.system.package import (
    OPERATOR_STORE,
    SERVICE_DATA,
    SYSTEM_STORE,
    add_app,
    add_crash,
    complaints,
    processes,
    service,
)

WRITER = "org.example.writer"
POLICY = "/etc/weft/pack.toml"
WANTS = "/etc/systemd/system/multi-user.target.wants"

# Writes "by the app" to a file in its data, then goes on for ever.
WRITES = guest(
    leave_on_error(path_open("file", write=True, flags=CREATE))
    + put("by the app")
    + leave_on_error(f"(call $write {OPENED} (i32.const {TEXT}) (i32.const 10))")
    + FOREVER
)


@pytest.fixture
def ticker(device: Container) -> Iterator[str]:
    """The service of an app that stays up, enabled and started."""
    unit = service(TICKER)
    device.run("systemctl", "enable", "--now", "--quiet", unit)
    yield unit
    device.run("systemctl", "disable", "--now", "--quiet", unit)


def story(container: Container, app_id: str) -> list[str]:
    """What `journalctl WEFT_APP_ID=` shows, with who says it."""
    return told(container.journal(f"WEFT_APP_ID={app_id}"))


def told(entries: list[dict[str, object]]) -> list[str]:
    return [f"{entry['SYSLOG_IDENTIFIER']}: {entry['MESSAGE']}" for entry in entries]


def in_order(lines: list[str], *parts: str) -> bool:
    """Whether there is a line with each of `parts`, one after the other."""
    rest = iter(lines)
    return all(any(part in line for line in rest) for part in parts)


def test_an_enabled_app_runs_as_a_service(device: Container, ticker: str) -> None:
    # systemctl has returned: the app is ready.
    assert show(device, "ActiveState", ticker) == "active"
    assert show(device, "StatusText", ticker) == "the app is running (version 1.0.0)"
    assert device.run("ls", WANTS).stdout.split().count(ticker) == 1
    user = device.run("stat", "--format=%U", f"/proc/{show(device, 'MainPID', ticker)}").stdout.strip()
    assert user not in ("root", "weft")
    assert show(device, "ControlGroup", ticker).endswith(f"/weft-apps.slice/{ticker}")


def test_the_journal_tells_the_story_of_a_service(device: Container, ticker: str) -> None:
    eventually(lambda: "tick 2" in "".join(story(device, TICKER)))
    device.run("systemctl", "stop", ticker)
    own = story(device, TICKER)
    assert in_order(
        own, f"weft-runtime: {TICKER}: starting 1.0.0 from /usr/share/weft/apps/", f"{TICKER}: tick 1",
        f"{TICKER}: tick 2", f"weft-runtime: {TICKER}: stopped by SIGTERM while running _start",
    )  # fmt: skip
    assert f"{TICKER}: READY" in own
    # The unit's has what systemd does as well, in Debian 12 there only.
    assert in_order(
        told(device.journal("--unit", ticker)), "systemd: Starting ", f"weft-runtime: {TICKER}: starting ",
        f"systemd: Started {ticker} - WebAssembly App {TICKER}.", "systemd: Stopping ", f"weft-runtime: {TICKER}: stopped ",
        "Deactivated successfully",
    )  # fmt: skip
    explained = device.run("journalctl", "--no-pager", "--catalog", f"WEFT_APP_ID={TICKER}").stdout
    assert f" Subject: App {TICKER} was stopped\n" in explained


def test_a_service_that_is_stopped_has_not_failed(device: Container, ticker: str) -> None:
    device.run("systemctl", "stop", ticker)
    assert show(device, "ActiveState", ticker) == "inactive"
    assert show(device, "Result", ticker) == "success"
    # By what it has done itself: systemd had to kill nothing.
    assert show(device, "ExecMainStatus", ticker) == "15"
    assert not [line for line in story(device, TICKER) if "Killing process" in line]


def test_a_service_that_is_killed_runs_again(device: Container, ticker: str) -> None:
    before = show(device, "MainPID", ticker)
    device.run("kill", "-KILL", before)
    eventually(lambda: show(device, "MainPID", ticker) not in ("0", before))
    eventually(lambda: show(device, "ActiveState", ticker) == "active")
    assert show(device, "NRestarts", ticker) == "1"


def test_a_service_needs_no_daemon(device: Container, ticker: str) -> None:
    pid = show(device, "MainPID", ticker)
    device.run("systemctl", "stop", UNIT)
    device.run("systemctl", "restart", ticker)
    assert show(device, "ActiveState", ticker) == "active"
    assert show(device, "MainPID", ticker) != pid
    assert processes(device) == set()
    device.run("systemctl", "start", UNIT)


def test_a_service_follows_the_plan_of_its_last_start(device: Container, ticker: str) -> None:
    """Who decides has the module open. The way to its cache systemd mounts anew for each start."""

    def decides() -> bool:
        device.run("systemctl", "reset-failed", ticker)
        device.run("systemctl", "restart", ticker)
        files = device.run(
            "find", f"/proc/{show(device, 'MainPID', ticker)}/fd", "-printf", "%f %l\\n"
        ).stdout
        assert ".code\n" in files
        return f"/{TICKER}/app.wasm\n" in files

    device.run("systemctl", "stop", ticker)
    device.run("systemctl", "clean", "--what=cache", ticker)
    assert [decides() for _ in range(3)] == [True, False, False]
    device.run("touch", POLICY)
    assert [decides() for _ in range(2)] == [True, False]


def test_the_slice_stops_all_of_them(device: Container, ticker: str) -> None:
    device.run("systemctl", "stop", "weft-apps.slice")
    assert show(device, "ActiveState", ticker) == "inactive"
    assert show(device, "ActiveState") == "active"


def test_an_app_that_is_done_is_not_started_again(device: Container) -> None:
    unit = service(HELLO)
    device.run("systemctl", "start", unit)
    eventually(lambda: show(device, "ActiveState", unit) == "inactive")
    assert (show(device, "Result", unit), show(device, "NRestarts", unit)) == ("success", "0")
    assert in_order(story(device, HELLO), "Hello, world!", "the app exited with status 0")


def test_the_data_of_a_service_is_kept(device: Container) -> None:
    add_app(device, WRITER, WRITES, "fs:rw:app-data")
    unit, path = service(WRITER), f"{SERVICE_DATA}/{WRITER}/file"
    for _ in range(2):
        device.run("systemctl", "start", unit)
        eventually(lambda: device.run("cat", path, check=False).stdout == "by the app")
        device.run("systemctl", "stop", unit)
    # Another user each time, perhaps; what a service leaves is there for the next one.
    device.run("touch", f"{SERVICE_DATA}/{HELLO}/kept")
    device.run("systemctl", "start", service(HELLO))
    eventually(lambda: '/data: ["kept"]' in "".join(story(device, HELLO)))


def test_an_app_that_crashes_is_started_again_until_the_limit(device: Container) -> None:
    add_crash(device)
    unit = service(CRASH)
    device.run("systemctl", "start", unit)
    eventually(lambda: show(device, "ActiveState", unit) == "failed")
    assert show(device, "ExecMainStatus", unit) == "134"
    own = story(device, CRASH)
    assert sum("the app trapped in _start" in line and "unreachable" in line for line in own) == 5
    assert own.count(f"{CRASH}: crash: this line is on standard error, a trap follows") == 5
    by_systemd = told(device.journal("--unit", unit))[-4:]
    assert in_order(by_systemd, "Start request repeated too quickly", "Failed with result 'exit-code'")
    device.run("systemctl", "reset-failed", unit)


@pytest.mark.parametrize(
    ("app_id", "status", "reason"),
    [
        ("org.example.nowhere", "166", "not found in any package store"),
        ("nonsense", "164", "is not an app id"),
    ],
)
def test_an_app_that_cannot_run_does_not_loop(
    device: Container, app_id: str, status: str, reason: str
) -> None:
    unit = service(app_id)
    assert device.run("systemctl", "start", unit, check=False).returncode
    assert show(device, "ActiveState", unit) == "failed"
    assert show(device, "ExecMainStatus", unit) == status
    assert show(device, "NRestarts", unit) == "0"
    assert reason in "".join(story(device, app_id))
    device.run("systemctl", "reset-failed", unit)


def test_an_app_that_is_removed_leaves_no_enabled_service(device: Container) -> None:
    mine, unit = "org.example.removed", service("org.example.removed")
    add_app(device, mine, WRITES, "fs:rw:app-data")
    device.run("systemctl", "enable", "--quiet", "--now", unit)
    assert f"{mine} is running: {unit}" in device.run("weft-pack", "uninstall", mine, check=False).stderr
    device.run("systemctl", "stop", unit)
    done = device.run("weft-pack", "uninstall", "--json", mine)
    assert json.loads(done.stdout) == {"id": mine, "disabled": unit}
    assert f"disabled {unit}: without the app it would fail at each boot" in done.stderr
    assert device.run("systemctl", "is-enabled", unit, check=False).stdout == "disabled\n"


def test_an_app_that_another_store_has_keeps_its_enabled_service(device: Container, ticker: str) -> None:
    device.run("cp", "-R", f"{SYSTEM_STORE}/{TICKER}", OPERATOR_STORE)
    done = device.run("weft-pack", "uninstall", "--force", TICKER)
    assert done.stdout == f"uninstalled {TICKER}\n"
    assert "disabled" not in done.stderr
    assert device.run("systemctl", "is-enabled", ticker).stdout == "enabled\n"


def test_nothing_unexpected_was_logged(device: Container) -> None:
    """The last one: of all that the tests above have brought about, only what they meant to."""
    by_systemd = ("Failed with result", "Main process exited", "Start request repeated", "Failed to start ")
    meant = ("the app trapped in _start", "not found in any package store", "is not an app id")
    assert complaints(device, *by_systemd, *meant) == []
