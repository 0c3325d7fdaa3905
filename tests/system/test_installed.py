# SPDX-License-Identifier: Apache-2.0
"""The installed package: what the installation leaves, who may do what, and the story that the journal tells."""

from collections.abc import Iterator

import pytest

from tests.system.appd import CRASH, HELLO, SOCKET, TICKER, UNIT, show
from tests.system.container import Container
from tests.system.package import CODE, add_crash, complaints, launch, sessions

pytestmark = pytest.mark.sessions

UNITS = {UNIT: "enabled", "weft-appd.socket": "enabled", "weft-appd-ws.socket": "disabled"}

# Asks over the WebSocket, with the library that the package brings, and prints the answer.
ASK_WEBSOCKET = f"""
import sys

sys.path.insert(0, "{CODE}/vendor")
from websockets.sync.client import connect

with connect("ws://127.0.0.1:7410/") as websocket:
    websocket.send('{{"type": "QUERY_RUNNING"}}')
    print(websocket.recv(timeout=60))
"""


@pytest.fixture(scope="module")
def device(just_installed: Container) -> Container:
    """Not booted since, for this is about what the installation has done."""
    return just_installed


@pytest.fixture(scope="module", autouse=True)
def people(device: Container) -> None:
    """Two users, one of whom administers apps."""
    device.run("useradd", "--create-home", "bob")
    device.run("useradd", "--create-home", "--groups=weft", "alice")


@pytest.fixture
def websocket(device: Container) -> Iterator[None]:
    """As README.Debian says."""
    commands = commands_of_readme(device)
    first = commands.index("systemctl enable weft-appd-ws.socket")
    for command in commands[first : first + 2]:
        device.run("sh", "-c", command)
    yield
    device.run("systemctl", "disable", "--quiet", "--now", "weft-appd-ws.socket")
    device.run("systemctl", "restart", UNIT)


def listening(container: Container) -> list[str]:
    """Local TCP ports that somebody listens on."""
    table = container.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.splitlines()
    rows = [line.split() for line in table if "local_address" not in line]
    return [str(int(row[1].split(":")[1], 16)) for row in rows if row[3] == "0A"]


def commands_of_readme(container: Container) -> list[str]:
    text = container.run("zcat", "--force", "/usr/share/doc/weft-runtime/README.Debian").stdout
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def test_the_daemon_is_active_after_the_installation(device: Container) -> None:
    for unit, enabled in UNITS.items():
        assert show(device, "UnitFileState", unit) == enabled
        assert show(device, "ActiveState", unit) == ("active" if enabled == "enabled" else "inactive")
    assert device.run("systemctl", "is-system-running").stdout == "running\n"
    assert device.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
    (entry,) = device.journal("WEFT_EVENT=daemon-ready", at_least=1)
    assert str(entry["MESSAGE"]).endswith(f" serves {SOCKET}, runtime /usr/bin/weft-runtime-wasmtime")
    environ = device.run("cat", f"/proc/{show(device, 'MainPID')}/environ").stdout.split("\0")
    assert "WEFT_RUNTIME_BIN=/usr/bin/weft-runtime-wasmtime" in environ


@pytest.mark.once("it launches nothing")
def test_it_runs_as_its_own_user_without_rights(device: Container) -> None:
    status = device.run("cat", f"/proc/{show(device, 'MainPID')}/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    user = device.run("id", "--user", "weft").stdout.strip()
    assert fields["Uid"].split() == [user] * 4
    assert {fields[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"


@pytest.mark.once("it launches nothing")
def test_the_socket_is_for_root_and_the_group(device: Container) -> None:
    assert device.run("stat", "--format=%a %U:%G", SOCKET).stdout == "660 root:weft\n"


def test_the_doctor_finds_nothing_wrong(device: Container) -> None:
    device.run("weftctl", "doctor")


def test_the_first_command_of_the_readme_works(device: Container) -> None:
    command = commands_of_readme(device)[0]
    assert command == f"weftctl launch {HELLO}"
    assert device.run("sh", "-c", command).stdout.strip().isdecimal()


@pytest.mark.once("who may ask is known before anything is started")
def test_a_member_of_the_group_may_do_the_same(device: Container) -> None:
    number = device.run("weftctl", "launch", HELLO, user="alice").stdout.strip()
    uid = device.run("id", "--user", "alice").stdout.strip()
    (launched,) = device.journal("WEFT_EVENT=session-launched", f"WEFT_SESSION_ID={number}", at_least=1)
    assert str(launched["MESSAGE"]).startswith(f"{HELLO}[{number}]: launched by alice (uid {uid}) pid ")


@pytest.mark.once("it launches nothing")
def test_everybody_else_is_told_why_not(device: Container) -> None:
    before = len(device.journal("WEFT_EVENT=session-launched"))
    for command in (("launch", HELLO), ("list",), ("stop", "1")):
        denied = device.run("weftctl", *command, user="bob", check=False)
        assert denied.returncode == 177
        assert denied.stdout == ""
        hint = "become a member: 'usermod -aG weft USER' as root, then log in again"
        assert denied.stderr == f"weftctl: permission denied on '{SOCKET}' [{hint}]\n"
    assert len(device.journal("WEFT_EVENT=session-launched")) == before


def test_the_journal_tells_the_story_of_a_session(device: Container) -> None:
    number = device.run("weftctl", "launch", "--wait", HELLO).stdout.strip()
    device.journal(f"WEFT_SESSION_ID={number}", "WEFT_EVENT=session-ended", at_least=1)
    found = device.journal(f"WEFT_SESSION_ID={number}", f"WEFT_APP_ID={HELLO}")
    told = {
        identifier: [entry["WEFT_EVENT"] for entry in found if entry["SYSLOG_IDENTIFIER"] == identifier]
        for identifier in ("weft-runtime", "weft-appd")
    }
    assert told == {
        "weft-runtime": [],
        "weft-appd": ["session-launched", "session-ready", "session-ended"],
    }
    output = [entry for entry in found if entry["WEFT_EVENT"] == "output"]
    assert output[0]["MESSAGE"] == "Hello, world!"
    assert {(entry["SYSLOG_IDENTIFIER"], entry["WEFT_STREAM"]) for entry in output} == {
        (f"{HELLO}/{number}", "stdout")
    }
    assert {entry["_SYSTEMD_UNIT"] for entry in found} == {UNIT}
    assert found[-1]["WEFT_EXIT_STATUS"] == "0"


@pytest.mark.once("the entries are those of the test before it")
def test_the_catalog_explains_the_story(device: Container) -> None:
    number = device.run("weftctl", "launch", "--wait", HELLO).stdout.strip()
    device.journal(f"WEFT_SESSION_ID={number}", "WEFT_EVENT=session-ended", at_least=1)
    for event, subject in {
        "session-ready": f"App {HELLO} is ready (session ",
        "session-ended": f"App {HELLO} has ended (session ",
    }.items():
        explained = device.run(
            "journalctl", "--no-pager", "--catalog", "--lines=1", f"WEFT_EVENT={event}"
        ).stdout  # fmt: skip
        assert f" Subject: {subject}" in explained
        assert " Defined-By: weft-runtime\n" in explained


def test_the_reason_of_a_crash_is_where_one_looks_for_it(device: Container) -> None:
    add_crash(device)
    crashed = device.run("weftctl", "launch", "--wait", CRASH, check=False)
    assert crashed.returncode == 134
    assert "unreachable" in crashed.stderr
    number = crashed.stdout.strip()
    # The daemon's line alone says why,
    (ended,) = device.journal(
        f"_SYSTEMD_UNIT={UNIT}", "WEFT_EVENT=session-ended", f"WEFT_SESSION_ID={number}", at_least=1
    )
    assert (ended["PRIORITY"], ended["WEFT_EXIT_STATUS"]) == ("4", "134")
    assert "ended with status 134" in str(ended["MESSAGE"])
    assert "unreachable" in str(ended["MESSAGE"])
    # the runtime's says where,
    (trapped,) = device.journal("WEFT_EVENT=trapped", f"WEFT_SESSION_ID={number}")
    for function in ("check_length", "read_setting", "read_settings"):
        assert function in str(trapped["MESSAGE"])
    # and the last words of the app are kept.
    (words,) = device.journal("WEFT_STREAM=stderr", f"WEFT_SESSION_ID={number}")
    assert words["MESSAGE"] == "crash: this line is on standard error, a trap follows"
    explained = device.run("journalctl", "--no-pager", "--catalog", "WEFT_EVENT=trapped").stdout
    assert f" Subject: App {CRASH} crashed\n" in explained


def test_a_session_ends_when_it_is_asked_to(device: Container) -> None:
    session = launch(device, TICKER)
    device.run("weftctl", "stop", str(session["session_id"]), user="alice")
    assert sessions(device) == []
    (ended,) = device.journal(
        "WEFT_EVENT=session-ended", f"WEFT_SESSION_ID={session['session_id']}", at_least=1
    )
    assert (ended["PRIORITY"], ended["WEFT_SIGNAL"]) == ("6", "SIGTERM")
    assert "terminated by alice (uid " in str(ended["WEFT_REASON"])


@pytest.mark.once("it launches nothing")
def test_nothing_listens_on_the_network(device: Container) -> None:
    assert listening(device) == []


@pytest.mark.once("it launches nothing")
def test_the_websocket_serves_where_it_is_enabled(device: Container, websocket: None) -> None:
    assert listening(device) == ["7410"]
    assert '"RUNNING_APPS"' in device.run("python3", "-I", "-c", ASK_WEBSOCKET).stdout


@pytest.mark.once("it launches nothing")
def test_the_websocket_is_gone_where_it_is_disabled_again(device: Container) -> None:
    assert listening(device) == []
    assert show(device, "ActiveState") == "active"


def test_nothing_unexpected_was_logged(device: Container) -> None:
    """The last one: of all that the tests above have brought about, only what they meant to."""
    assert complaints(device, "the app trapped in _start", "ended with status 134 after ") == []
