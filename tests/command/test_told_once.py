# SPDX-License-Identifier: Apache-2.0
"""Entries that a real journal has of what was done: each fact once, with its fields."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command.device import Device
from tests.command.guests import guest, leave
from tests.command.harness import eventually
from tests.command.test_weftctl_journal import journald  # noqa: F401 - a fixture
from tests.packages import APP_ID, install, manifest
from tests.unit.needs import tool
from weft_runtime.errors import ExitStatus
from weft_runtime.journal import MESSAGE_IDS, Event


def entries(device: Device, *matches: str) -> list[dict[str, Any]]:
    subprocess.run([*device.wrapper, "journalctl", "--sync"], check=True)
    done = subprocess.run(
        [*device.wrapper, "journalctl", "--quiet", "--output=json", *matches],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def serve(device: Device, config: Path) -> None:
    """Start the daemon with settings that a test can break."""
    config.touch()
    device.environ |= {"WEFT_LOG": "journal"}
    with device.log.open("ab") as log:
        device.daemon = subprocess.Popen(
            [*device.wrapper, tool("weft-appd", "weft-runtime"), "--config", config],
            env=device.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    device.wait_until_it_serves()


@pytest.mark.parametrize("settings", ["max_sessions = 'many'\n", "nonsense", "frobs = 1\n"])
def test_a_refused_reload(journald: Device, settings: str) -> None:  # noqa: F811 - the fixture
    config = journald.directory / "appd.toml"
    serve(journald, config)
    config.write_text(settings)
    done = journald.run("weft-appd", "--reload")
    assert (done.status, done.stdout, done.stderr) == (ExitStatus.CONFIG, "", "")
    (entry,) = entries(journald, "--priority=warning")
    assert entry["WEFT_EVENT"] == Event.RELOAD_FAILED
    assert entry["MESSAGE_ID"] == MESSAGE_IDS[Event.RELOAD_FAILED]
    assert entry["MESSAGE"].startswith("reload refused, going on as before: ")
    assert str(config) in entry["MESSAGE"]
    assert entry["WEFT_REASON"] == entry["MESSAGE"]
    # By a signal as well, where nobody else waits for the answer.
    assert journald.daemon is not None
    journald.daemon.send_signal(1)
    eventually(lambda: len(entries(journald, "--priority=warning")) > 1, "it is told")
    assert {found["WEFT_EVENT"] for found in entries(journald, "--priority=warning")} == {
        Event.RELOAD_FAILED
    }
    config.write_text("")
    assert journald.run("weft-appd", "--reload").status == 0
    assert len(entries(journald, "--priority=warning")) == 2


def package(directory: Path, version: str) -> Path:
    source = directory / version
    source.mkdir()
    toml = manifest().replace("1.2.3", version)
    return install(source, guest(leave(0)), toml=toml)


def test_packages_that_come_and_go(journald: Device) -> None:  # noqa: F811 - the fixture
    journald.environ["SUDO_UID"] = "65534"
    first, second = (package(journald.directory, version) for version in ("1.0.0", "2.0.0"))
    for args in (
        ("install", str(first)),
        ("install", str(second)),
        ("install", "--rollback", APP_ID),
        ("uninstall", APP_ID),
    ):
        done = journald.run("weft-pack", *args)
        assert done.status == 0, done
    found = entries(journald, "SYSLOG_IDENTIFIER=weft-pack", "_UID=0", f"WEFT_APP_ID={APP_ID}")
    names = ("WEFT_EVENT", "WEFT_VERSION", "WEFT_VERSION_BEFORE", "WEFT_SOURCE", "WEFT_SIGNED_BY")
    nobody = "nobody that is trusted here"
    assert [tuple(entry.get(name) for name in names) for entry in found] == [
        (Event.PACKAGE_INSTALLED, "1.0.0", None, str(first), nobody),
        (Event.PACKAGE_UPGRADED, "2.0.0", "1.0.0", str(second), nobody),
        (Event.PACKAGE_ROLLED_BACK, "1.0.0", "2.0.0", None, nobody),
        (Event.PACKAGE_REMOVED, None, "1.0.0", None, None),
    ]
    by = "nobody (uid 65534) by sudo"
    for entry in found:
        assert entry["MESSAGE_ID"] == MESSAGE_IDS[Event(entry["WEFT_EVENT"])]
        assert entry["WEFT_CALLER"] == by
        assert entry["PRIORITY"] == "5"
        assert entry["MESSAGE"].startswith(f"{APP_ID}: ")
        assert entry["MESSAGE"].endswith(f", by {by}")
        for name in names[1:]:
            assert entry.get(name, "") in entry["MESSAGE"]


def test_what_is_not_done_leaves_no_entry(journald: Device) -> None:  # noqa: F811 - the fixture
    source = package(journald.directory, "1.0.0")
    (source / "app.wasm").write_text("nonsense")
    assert journald.run("weft-pack", "install", str(source)).status != 0
    assert journald.run("weft-pack", "uninstall", APP_ID).status != 0
    assert entries(journald, "SYSLOG_IDENTIFIER=weft-pack") == []
