# SPDX-License-Identifier: Apache-2.0
"""Whose entries are shown: none that another user of the device made up, and all of runtimes that end at once."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from tests.system.appd import HELLO, SOCKET, TICKER, eventually
from tests.system.container import Command, Container
from tests.system.package import CODE, add_app, service, sessions

ROOT = Path(__file__).resolve().parents[2]
STRANGER, READER = "stranger", "reader"
MADE_UP = "made up"
BROKEN = "org.example.broken"
NO_START = b"\0asm\1\0\0\0"  # the runtime says that there is no _start, and ends
COUNT, AT_ONCE, STARTS = 200, 4, 20
SEARCH_S = 30
CORE_DUMP = "fc2e22bc6ee647b6b90729ab34a250b1"
"""The MESSAGE_ID of systemd-coredump(8), by which journalctl looks for core dumps of a unit."""

# Sends entries to the journal: objects of fields in JSON on standard input, one a line.
FORGE = """
import json, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
    journal.connect("/run/systemd/journal/socket")
    for line in sys.stdin:
        journal.send("".join(f"{name}={value}\\n" for name, value in json.loads(line).items()).encode())
"""


# Launches an app as often as it is told to, some at a time: two hundred at once would leave none of them the second in which
# it has to tell why it ends.
LAUNCH = f"""
import sys, time
from pathlib import Path

sys.path.insert(0, "{CODE}")
sys.path.append("/usr/lib/python3/dist-packages")
from weft_runtime.client import DaemonClient
from weft_runtime.protocol import LaunchAck, LaunchApp, QueryRunning

with DaemonClient(Path("{SOCKET}"), timeout=60) as daemon:
    for _ in range(int(sys.argv[2]) // {AT_ONCE}):
        for _ in range({AT_ONCE}):
            answer = daemon.ask(LaunchApp(sys.argv[1], 0))
            assert isinstance(answer, LaunchAck), answer
        while daemon.ask(QueryRunning()).sessions:
            time.sleep(0.02)
"""


@pytest.fixture(scope="module", autouse=True)
def users(device: Container) -> None:
    """One who is nobody to us, and one who may read the journal and use the daemon."""
    device.run("useradd", "--shell", "/bin/sh", STRANGER)
    device.run("useradd", "--shell", "/bin/sh", "--groups", "weft,systemd-journal", READER)


@pytest.fixture
def following(device: Container) -> Iterator[Command]:
    """`weftctl launch --follow` of an app that stays."""
    command = device.popen("weftctl", "launch", "--follow", TICKER, stdout=PIPE)
    yield command
    device.run("weftctl", "stop", TICKER, check=False)
    command.kill()
    command.communicate()


@pytest.fixture
def ticker(device: Container) -> Iterator[None]:
    """The service of the same app."""
    device.run("systemctl", "start", service(TICKER))
    yield
    device.run("systemctl", "stop", service(TICKER))


def documented() -> list[str]:
    """Each search of the journal that a page tells the reader to make."""
    pages = [
        *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/man").iterdir(), *(ROOT / "examples").glob("*/ui/*.html"),
        ROOT / "README.md", ROOT / "packaging/debian/weft-runtime.README.Debian",
        ROOT / "infra/systemd/catalog/weft-runtime.catalog",
    ]  # fmt: skip
    found = set()
    for page in pages:
        text = page.read_text().replace("\\-", "-")
        found |= set(re.findall(r"(?:^(?:[ #$]*|    )|[`>])(journalctl [^`<\n|]+)", text, re.MULTILINE))
    return sorted(command.strip() for command in found)


def forge(device: Container, *entries: dict[str, str]) -> None:
    """Have the stranger send them, and wait until journald has them."""
    text = "".join(json.dumps({"MESSAGE": MADE_UP, "PRIORITY": "3"} | entry) + "\n" for entry in entries)
    # In a control group of its own: that of our commands is systemd's, which -u takes for systemd in Debian 13.
    as_stranger = ("systemd-run", "--quiet", "--pipe", "--wait", f"--uid={STRANGER}", "--")
    device.run(*as_stranger, "/usr/bin/python3", "-c", FORGE, input=text)
    device.run("journalctl", "--sync")


def looks(app_id: str, session_id: int) -> Iterator[dict[str, str]]:
    """Entries that claim to be the daemon's, a session's, a service's, and those of systemd."""
    ours = {"WEFT_APP_ID": app_id, "WEFT_SESSION_ID": str(session_id)}
    trusted = {"_UID": "0", "_PID": "1", "_SYSTEMD_UNIT": service(app_id), "_TRANSPORT": "kernel"}
    for event in ("output", "session-ended", "reload-failed", "failed", "output-dropped"):
        for name in ("weft-appd", app_id, "systemd"):
            for unit in (service(app_id), "weft-appd.service", "weft-compile.service"):
                look = {
                    **ours, **trusted, "WEFT_EVENT": event, "WEFT_STREAM": "stdout", "SYSLOG_IDENTIFIER": name,
                    "UNIT": unit, "OBJECT_SYSTEMD_UNIT": unit, "COREDUMP_UNIT": unit, "USER_UNIT": unit,
                }  # fmt: skip
                yield look
                yield look | {"MESSAGE_ID": CORE_DUMP}


def entries(device: Container, target: str, user: str | None = None) -> list[dict[str, Any]]:
    device.run("journalctl", "--sync")
    shown = device.run("weftctl", "logs", "--json", target, user=user).stdout
    return [json.loads(line) for line in shown.splitlines()]


def test_no_command_shows_what_a_stranger_made_up(
    device: Container, following: Command, ticker: None
) -> None:
    assert following.stdout is not None
    number = int(following.stdout.readline())
    while following.stdout.readline() != "tick 1\n":
        assert following.poll() is None
    logs = device.popen("weftctl", "logs", "--follow", "--json", str(number), stdout=PIPE)
    for app_id in (TICKER, HELLO, "org.example.mine", "org.example.notes"):
        forge(device, *(look for session in (number, 4) for look in looks(app_id, session)))
    # It is there for whoever asks for our fields alone.
    assert MADE_UP in device.run("journalctl", "--no-pager", f"WEFT_APP_ID={TICKER}").stdout
    for user in (None, READER):
        for target in (str(number), TICKER):
            shown = [entry["MESSAGE"] for entry in entries(device, target, user)]
            assert "tick 1" in shown
            assert MADE_UP not in shown
    # What comes after the forgeries has come: so had they.
    device.run("weftctl", "stop", str(number))
    rest, complaints = following.communicate(timeout=SEARCH_S)
    assert "tick 2" in rest
    assert MADE_UP not in rest + complaints
    assert logs.stdout is not None
    line = ""
    while '"session-ended"' not in line:
        line = logs.stdout.readline()
        assert line
        assert MADE_UP not in line
    logs.kill()
    logs.communicate()


def test_no_search_of_our_pages_shows_what_a_stranger_made_up(device: Container) -> None:
    commands = documented()
    assert len(commands) > 12, commands
    for app_id in {*re.findall(r"org(?:\.[a-z]+)+[a-z](?!\.service)", "\n".join(commands)), TICKER}:
        forge(
            device, *(look for number in (3, 4) for look in looks(app_id.removesuffix(".service"), number))
        )
    assert MADE_UP in device.run("journalctl", "--no-pager", "WEFT_SESSION_ID=4").stdout
    for command in commands:
        filled = re.sub(r"\b(ID|UNIT)\b(?!=)", TICKER, command)
        done = device.run("sh", "-c", f"SYSTEMD_PAGER= {filled} </dev/null", check=False, timeout=SEARCH_S)
        # 1: nothing was found.
        assert done.returncode in (0, 1), (filled, done.stderr)
        assert "nvalid" not in done.stderr, (filled, done.stderr)
        assert MADE_UP not in done.stdout, filled


def test_no_entry_of_a_session_that_ends_at_once_is_lost(device: Container) -> None:
    add_app(device, BROKEN, NO_START)
    device.run("python3", "-IS", "-c", LAUNCH, BROKEN, str(COUNT), timeout=300)
    eventually(lambda: not sessions(device))
    # The daemon waits for no entry.
    ended = (f"WEFT_APP_ID={BROKEN}", "WEFT_EVENT=session-ended", "SYSLOG_IDENTIFIER=weft-appd")
    device.journal(*ended, at_least=COUNT)
    for user in (None, READER):
        found = entries(device, BROKEN, user)
        for event in ("session-ended", "package-invalid"):
            told = [
                int(entry["WEFT_SESSION_ID"]) for entry in found
                if entry["SYSLOG_IDENTIFIER"] == "weft-appd" and entry.get("WEFT_EVENT") == event
            ]  # fmt: skip
            assert len(set(told)) == COUNT, "\n".join(
                f"{entry['WEFT_SESSION_ID']}: {entry['SYSLOG_IDENTIFIER']}: {entry['MESSAGE']}"
                for entry in found
                if int(entry.get("WEFT_SESSION_ID", told[0])) not in told
            )
    without = {entry["WEFT_SESSION_ID"] for entry in found if "_SYSTEMD_UNIT" not in entry}
    print(f"of {COUNT} sessions {len(without)} have an entry for which journald knows no unit")
    for number in [*sorted(without)[:3], told[-1]]:
        events = {entry.get("WEFT_EVENT") for entry in entries(device, str(number))}
        assert events >= {"session-launched", "package-invalid", "session-ended"}


def test_no_entry_of_a_service_that_ends_at_once_is_lost(device: Container) -> None:
    add_app(device, BROKEN, NO_START)
    unit = service(BROKEN)
    before = len(of_service(entries(device, BROKEN)))
    for _ in range(STARTS):
        assert device.run("systemctl", "start", unit, check=False).returncode != 0
        device.run("systemctl", "reset-failed", unit)
    found = entries(device, BROKEN)
    own = of_service(found)
    assert len(own) - before == STARTS
    without = sum("_SYSTEMD_UNIT" not in entry for entry in own)
    print(f"of {STARTS} starts {without} have an entry for which journald knows no unit")
    of_systemd = [entry for entry in found if entry["_PID"] == "1" and entry.get("UNIT") == unit]
    assert sum("Main process exited" in entry["MESSAGE"] for entry in of_systemd) == STARTS
    # Only root can know which user a service had.
    assert len(of_service(entries(device, BROKEN, READER))) == len(own) - without


def of_service(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a runtime says of its end, and not a session's: that is of the daemon's user."""
    return [
        entry for entry in found
        if entry["SYSLOG_IDENTIFIER"] == "weft-runtime" and entry.get("WEFT_EVENT") == "package-invalid"
        and "WEFT_SESSION_ID" not in entry
    ]  # fmt: skip
