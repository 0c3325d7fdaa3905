# SPDX-License-Identifier: Apache-2.0
"""What weftctl shows of the journal: a real journald, in a mount namespace of its own."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.appd.client import Control
from tests.command.device import OTHER_ID, STAYS, Device, Done
from tests.command.guests import guest, leave, say
from tests.command.harness import WAIT_SECONDS, eventually
from tests.packages import APP_ID, install
from tests.unit.needs import missing
from weft_runtime.protocol import AppState, LaunchApp, QuerySessions, Sessions, Subscribe, Subscribed

JOURNALD = "/lib/systemd/systemd-journald"
START_JOURNALD = f"""
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
echo "[Journal]
Storage=volatile
Audit=no
ReadKMsg=no
RateLimitIntervalSec=0" >/run/journald.conf
mount --bind /run/journald.conf /etc/systemd/journald.conf
mount -t tmpfs tmpfs /var/log/journal || true
exec {JOURNALD}
"""


@pytest.fixture
def journald(tmp_path: Path, store: Path) -> Iterator[Device]:
    """A place with a journal, where every command runs; the daemon is still to be started."""
    if os.geteuid() != 0:
        missing("a journal of its own needs root")
    if not Path(JOURNALD).exists():
        missing(f"{JOURNALD} is missing [package: systemd]")
    device = Device(tmp_path, store)
    argv = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "sh", "-ec")
    with (device.directory / "journald.log").open("wb") as log:
        process = subprocess.Popen([*argv, START_JOURNALD], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    device.wrapper = ("nsenter", "--target", str(process.pid), "--mount", "--")
    try:
        eventually(lambda: run_is_ours(device) and journal_files(device) != [], "journald serves")
        yield device
        device.close()
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@pytest.fixture
def journaled(journald: Device) -> Device:
    """The same, with a daemon that logs there."""
    journald.start(WEFT_LOG="journal")
    return journald


def run_is_ours(device: Device) -> bool:
    """Whether /run there is no longer that of this machine, whose journal must be left alone."""
    return Path(f"/proc/{device.wrapper[2]}/root/run/journald.conf").exists()


def journal_files(device: Device) -> list[Path]:
    assert run_is_ours(device)
    return list(Path(f"/proc/{device.wrapper[2]}/root/run/log/journal").glob("*/*"))


def journal(device: Device, *args: str) -> list[dict[str, str]]:
    """The entries that `weftctl logs` shows."""
    subprocess.run([*device.wrapper, "journalctl", "--sync"], check=True)
    done = device.ctl("logs", "--json", *args)
    assert done.status == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_follow_shows_the_output_until_the_end(journaled: Device) -> None:
    install(
        journaled.store, guest(say("one\n") + say("\x1b[2Jtwo\n", fd=2) + say("no end of line") + leave(3))
    )
    done = journaled.ctl("launch", "--follow", APP_ID)
    assert done == Done(
        3,
        "1\none\nno end of line\n",
        f"\\x1b[2Jtwo\nweftctl: session 1 of {APP_ID} has ended: the app exited with status 3\n",
    )


def test_follow_as_json_tells_everything_a_line_each(journaled: Device) -> None:
    install(journaled.store, guest(say("one\n") + say("two\n", fd=2)))
    done = journaled.ctl("launch", "-f", APP_ID, "--json")
    assert (done.status, done.stderr) == (0, "")
    assert all((item["session_id"], item["app_id"]) == (1, APP_ID) for item in done.json)
    names = [item["event"] for item in done.json]
    assert (names[0], names[-1]) == ("launched", "stopped")
    assert sorted(map(str, names)) == ["launched", "output", "output", "ready", "stopped"]
    output = {(item["stream"], item["message"]) for item in done.json if item["event"] == "output"}
    assert output == {("stdout", "one"), ("stderr", "two")}


def test_ctrl_c_while_following_leaves_the_app_alone(journaled: Device) -> None:
    install(journaled.store, guest(STAYS))
    following = journaled.begin("launch", "--follow", APP_ID)
    assert [following.line(), following.line()] == ["1", "in"]
    done = following.interrupt()
    assert done.status == 130
    assert done.stderr == f"weftctl: session 1 of {APP_ID} goes on [end it with 'weftctl stop 1']\n"
    assert journaled.session(1)["state"] == "running"


def test_follow_says_that_the_output_is_not_in_the_journal(journald: Device) -> None:
    journald.start(WEFT_LOG="stderr")
    install(journald.store, guest(say("one\n")))
    done = journald.ctl("launch", "--follow", APP_ID)
    assert (done.status, done.stdout) == (0, "1\n")
    assert done.stderr.splitlines()[0] == (
        "weftctl: the journal has nothing of this session: weft-appd seems to log elsewhere"
    )


def test_follow_without_a_journal_says_so_and_waits(journald: Device) -> None:
    install(journald.store, guest(leave(3)))
    subprocess.run([*journald.wrapper, "mount", "-t", "tmpfs", "tmpfs", "/run/log/journal"], check=True)
    journald.start(WEFT_LOG="stderr")
    done = journald.ctl("launch", "--follow", APP_ID)
    assert (done.status, done.stdout) == (3, "1\n")
    assert done.stderr.splitlines()[0] == (
        "weftctl: cannot show the output of the app: there is no journal on this machine"
        " [see 'systemctl status systemd-journald']"
    )


def test_logs_shows_what_app_daemon_and_runtime_say_of_a_session(journaled: Device) -> None:
    install(journaled.store, guest(say("out\n") + leave(3)))
    for _ in range(2):
        journaled.ctl("launch", "-w", APP_ID)
    entries = journal(journaled, "2")
    assert {entry["WEFT_SESSION_ID"] for entry in entries} == {"2"}
    assert {entry["SYSLOG_IDENTIFIER"] for entry in entries} == {"weft-appd", f"{APP_ID}/2"}
    assert [entry["MESSAGE"] for entry in entries if entry["WEFT_EVENT"] == "output"] == ["out"]
    assert entries[0]["WEFT_EVENT"] == "session-launched"
    assert entries[-1]["WEFT_EVENT"] == "session-ended"
    assert {entry["WEFT_SESSION_ID"] for entry in journal(journaled, APP_ID)} == {"1", "2"}
    assert len(journal(journaled, APP_ID, "-n", "3")) == 3
    assert "weft-appd" in journaled.ctl("logs", "2").stdout


def test_logs_of_a_number_that_was_used_before(journaled: Device) -> None:
    install(journaled.store, guest(say("old\n")))
    journaled.ctl("launch", "-w", APP_ID)
    journaled.stop()
    # As after a fault of the disk: without this file nobody knows which numbers were given.
    (journaled.directory / "run/weft/next-session").unlink()
    journaled.start(WEFT_LOG="journal")
    install(journaled.store, guest(say("new\n")), app_id=OTHER_ID)
    journaled.ctl("launch", "-w", OTHER_ID)
    journaled.ctl("launch", "-w", APP_ID)
    assert {entry["WEFT_APP_ID"] for entry in journal(journaled, "1")} == {OTHER_ID}
    journaled.stop()
    subprocess.run([*journaled.wrapper, "journalctl", "--sync"], check=True)
    done = journaled.ctl("logs", "1", "--json", env={"WEFT_APPD_SOCKET": str(journaled.socket)})
    assert "these are the sessions 1 of all its runs" in done.stderr
    assert {entry["WEFT_APP_ID"] for entry in done.json} == {APP_ID, OTHER_ID}


SOMEBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
FORGE = """
import socket, sys
fields = dict(item.split("=", 1) for item in sys.argv[1:])
entry = "".join(f"{name}={value}\\n" for name, value in fields.items())
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
    journal.connect("/run/systemd/journal/socket")
    journal.send(entry.encode())
"""


def forge(device: Device, user: Sequence[str], **fields: str) -> None:
    """Have another user write an entry that looks like ours."""
    looks = {
        "MESSAGE": "made up", "PRIORITY": "6", "SYSLOG_IDENTIFIER": APP_ID, "WEFT_APP_ID": APP_ID,
        "UNIT": f"weft-app@{APP_ID}.service", **fields,
    }  # fmt: skip
    items = (f"{name}={value}" for name, value in looks.items())
    subprocess.run([*device.wrapper, *user, "/usr/bin/python3", "-c", FORGE, *items], check=True)


def test_nobody_else_can_make_up_what_is_shown(journaled: Device) -> None:
    install(journaled.store, guest(say("true\n") + STAYS))
    following = journaled.begin("launch", "--follow", APP_ID)
    assert [following.line() for _ in range(3)] == ["1", "true", "in"]
    logs = journaled.begin("logs", "-f", "--json", "1")
    while json.loads(logs.line())["MESSAGE"] != "in":
        pass
    for fields in (
        {"WEFT_EVENT": "output", "WEFT_STREAM": "stdout"},
        {"WEFT_EVENT": "session-ended"},
        {"WEFT_EVENT": "output", "_UID": "0", "_SYSTEMD_UNIT": "weft-appd.service", "_PID": "1"},
    ):
        forge(journaled, SOMEBODY, WEFT_SESSION_ID="1", **fields)
    # It is in the journal, for all who ask without more.
    subprocess.run([*journaled.wrapper, "journalctl", "--sync"], check=True)
    raw = subprocess.run(
        [*journaled.wrapper, "journalctl", "-o", "cat", f"WEFT_APP_ID={APP_ID}"],
        capture_output=True,
        check=True,
    ).stdout
    assert raw.count(b"made up") == 3
    for target in ("1", APP_ID):
        entries = journal(journaled, target)
        assert "in" in [entry["MESSAGE"] for entry in entries]
        assert [entry for entry in entries if entry["MESSAGE"] == "made up"] == []
    journaled.ctl("stop", "1")
    rest = following.wait()
    assert (rest.stdout, rest.status) == ("", 143)
    assert "made up" not in rest.stderr
    assert "made up" not in logs.interrupt().stdout


def test_no_entry_of_a_runtime_that_ends_at_once_is_lost(journaled: Device) -> None:
    install(journaled.store, b"\0asm\1\0\0\0")  # no _start: the runtime says so, and ends
    count, at_once = 200, 10
    with closing(Control(journaled.socket, WAIT_SECONDS)) as control:
        assert control.ask(Subscribe(None)) == Subscribed(None)
        for _ in range(count // at_once):
            control.send(*[LaunchApp(APP_ID, 0)] * at_once)
            stopped = 0
            while stopped < at_once:
                stopped += isinstance(control.receive(), AppState)
        sessions = control.ask(QuerySessions())
    assert isinstance(sessions, Sessions)
    assert [session.exit_status for session in sessions.sessions] == [165] * count
    entries = journal(journaled, APP_ID)
    # In the order in which things happened: the daemon tells both.
    told = {
        number: ["session-launched", "package-invalid", "session-ended"] for number in range(1, count + 1)
    }
    assert {
        number: [entry["WEFT_EVENT"] for entry in entries if entry["WEFT_SESSION_ID"] == str(number)]
        for number in told
    } == told


def test_logs_follows(journaled: Device) -> None:
    install(journaled.store, guest(STAYS))
    journaled.launch()
    following = journaled.begin("logs", "-f", "--json", "1")
    events = [json.loads(following.line())["WEFT_EVENT"]]
    journaled.ctl("stop", "1")
    while events[-1] != "session-ended":
        events.append(json.loads(following.line()).get("WEFT_EVENT"))
    assert events[0] == "session-launched"
    following.interrupt()
    done = journaled.ctl("logs", "-f", "1")
    assert (done.status, done.stderr) == (
        0,
        f"weftctl: session 1 of {APP_ID} has ended, nothing will follow\n",
    )


def test_the_journal_of_the_system_is_not_for_everybody(journaled: Device, powerless: Sequence[str]) -> None:
    for file in journal_files(journaled):
        file.chmod(0)
    expected = (
        "permission denied on the journal of the system [become a member: 'usermod -aG systemd-journal USER'"
    )
    done = journaled.ctl("logs", APP_ID, wrapper=powerless)
    assert (done.status, done.stdout) == (177, "")
    assert expected in done.stderr
    install(journaled.store, guest(leave(3)))
    done = journaled.ctl("launch", "-f", APP_ID, wrapper=powerless)
    assert done.status == 3
    assert f"weftctl: cannot show the output of the app: {expected}" in done.stderr


def change(device: Device, app_id: str, start: str) -> None:
    """Another program in an installed package."""
    module = device.store / app_id / "app.wasm"
    module.unlink()  # sessions go on with theirs
    module.write_bytes(guest(start))


def history(device: Device, *args: str) -> list[tuple[object, ...]]:
    subprocess.run([*device.wrapper, "journalctl", "--sync"], check=True)
    done = device.ctl("history", "--json", *args)
    assert done.status == 0, done.stderr
    names = ("event", "app_id", "version", "session_id", "text", "is_bad")
    return [tuple(item[name] for name in names) for item in done.json]


def test_history_tells_what_was_launched_and_how_it_ended(journaled: Device) -> None:
    assert journaled.ctl("history") == Done(0, "", "weftctl: the journal has nothing of any app\n")
    install(journaled.store, guest(say("out\n") + leave(3)))
    install(journaled.store, guest(STAYS), app_id=OTHER_ID)
    journaled.ctl("launch", "--wait", APP_ID)
    journaled.launch(OTHER_ID)
    journaled.ctl("launch", "org.example.nowhere")
    found = history(journaled)
    assert [item[:4] for item in found] == [
        ("launched", APP_ID, "1.2.3", 1), ("ended", APP_ID, None, 1), ("launched", OTHER_ID, "1.2.3", 2),
        ("refused", "org.example.nowhere", None, None),
    ]  # fmt: skip
    assert found[1][4:] == ("the app exited with status 3", True)
    assert history(journaled, APP_ID) == found[:2]
    assert history(journaled, "-n", "2") == found[-2:]
    assert history(journaled, "-n", "0") == []
    header, *rows = journaled.ctl("history", APP_ID).stdout.splitlines()
    assert header.split() == ["TIME", "EVENT", "APP", "VERSION", "ID", "BY", "WHY"]
    assert "uid 0" in rows[0]
    assert rows[1].endswith("the app exited with status 3")


def test_history_tells_who_ended_a_session(journaled: Device) -> None:
    """Who asked for it; itself where nobody did; nobody where a signal came from nobody knows where."""
    install(journaled.store, guest(STAYS))
    by_user, by_signal = journaled.launch(), journaled.launch()
    journaled.ctl("stop", str(by_user))
    pid = journaled.session(by_signal)["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: journaled.session(by_signal)["state"] == "stopped", "it has ended")
    by_daemon = journaled.launch()
    change(journaled, APP_ID, leave(0))
    by_itself = int(journaled.ctl("launch", "--wait", APP_ID).stdout)
    change(journaled, APP_ID, "unreachable")
    by_a_trap = int(journaled.ctl("launch", "--wait", APP_ID).stdout)
    journaled.stop()
    journaled.start(WEFT_LOG="journal")
    subprocess.run([*journaled.wrapper, "journalctl", "--sync"], check=True)
    ended = {
        item["session_id"]: item["by"]
        for item in journaled.ctl("history", "--json").json
        # The last one is started again, and ends again.
        if item["event"] == "ended" and item["session_id"] <= by_a_trap  # type: ignore[operator] # from JSON
    }
    assert re.fullmatch(r".*\(?uid \d+\)? pid \d+", str(ended.pop(by_user)))
    assert ended == {by_signal: None, by_daemon: "weft-appd", by_itself: "itself", by_a_trap: "itself"}
    rows = journaled.ctl("history", "-n", "1000").stdout.splitlines()
    assert any(" itself " in row for row in rows)


NOWHERE = "org.example.nowhere"
TARGETS = {
    # What is given: the number of a session that runs, that has ended, that no daemon remembers, that never was; an app
    # of which one runs, of which all have ended, which was never there.
    "runs": ("1", (0, 0, 0, 0)),
    "ended": ("2", (0, 0, 0, 0)),
    "forgotten": ("3", (0, 166, 166, 166)),
    "never": ("77", (166, 166, 166, 166)),
    "app that runs": (APP_ID, (0, 0, 0, 0)),
    "app that ended": (OTHER_ID, (0, 0, 166, 166)),
    "app that never ran": (NOWHERE, (166, 166, 166, 166)),
}


@pytest.fixture
def used(journaled: Device) -> Device:
    """A daemon that has a session that runs and one that has ended, and one before it."""
    install(journaled.store, guest(leave(3)), app_id=OTHER_ID)
    for expected in ("1", "2", "3"):
        assert journaled.ctl("launch", "--wait", OTHER_ID).stdout == f"{expected}\n"
    journaled.stop()
    # Numbers go on after a reboot; here they begin again, so that those above can stand in a table.
    (journaled.directory / "run/weft/next-session").unlink()
    journaled.start(WEFT_LOG="journal")
    install(journaled.store, guest(STAYS))
    assert journaled.launch() == 1
    assert journaled.ctl("launch", "--wait", OTHER_ID).stdout == "2\n"
    subprocess.run([*journaled.wrapper, "journalctl", "--sync"], check=True)
    return journaled


@pytest.mark.parametrize("name", TARGETS)
def test_commands_take_a_number_or_an_app_of_what_runs_and_what_has_ended(used: Device, name: str) -> None:
    target, expected = TARGETS[name]
    # Those that change something come last.
    commands = ("logs", "status", "restart", "stop")
    change(used, OTHER_ID, STAYS)
    # A session that was restarted has another number from then on.
    found = {command: used.ctl(command, target) for command in commands}
    assert tuple(found[command].status for command in commands) == expected, found
    for command, done in found.items():
        if done.status:
            assert done.stdout == "", (command, done)
            assert re.fullmatch(r"(weftctl: [^\n]+\n)+", done.stderr), (command, done)
            assert target in done.stderr, (command, done)
            assert "['" in done.stderr or "[see '" in done.stderr, (command, done)
        else:
            assert done.stdout, (command, done)


def test_logs_of_what_is_not_there_yet_follows(journaled: Device) -> None:
    install(journaled.store, guest(STAYS))
    following = journaled.begin("logs", "--follow", "--json", APP_ID)
    eventually(lambda: "yet" in following.stderr, "it says that there is nothing")
    assert following.stderr == f"weftctl: the journal has nothing of {APP_ID} yet\n"
    journaled.launch()
    assert json.loads(following.line())["WEFT_EVENT"] == "session-launched"
    following.interrupt()


def test_nobody_else_can_make_up_a_history(journaled: Device) -> None:
    install(journaled.store, guest(leave(3)))
    journaled.ctl("launch", "--wait", APP_ID)
    before = history(journaled)
    for event in ("session-launched", "session-ended", "launch-refused", "starting"):
        forge(journaled, SOMEBODY, WEFT_EVENT=event, WEFT_SESSION_ID="1", _UID="0", _PID="1")
    assert history(journaled) == before


def test_status_has_the_last_lines_of_the_log(journaled: Device) -> None:
    install(journaled.store, guest("".join(say(f"line {number}\n") for number in range(20)) + STAYS))
    journaled.launch()
    subprocess.run([*journaled.wrapper, "journalctl", "--sync"], check=True)
    eventually(lambda: "]: in\n" in journaled.ctl("status", "1").stdout, "all of it is there")
    log = journaled.ctl("status", "1").stdout.partition("\n\n")[2].splitlines()
    assert len(log) == 10
    assert re.fullmatch(rf"\w{{3}} \d\d \d\d:\d\d:\d\d {APP_ID}\S*\[\d+\]: line 19", log[-2]), log
    (found,) = journaled.ctl("status", APP_ID, "--json").json
    messages = [item["message"] for item in found["log"]]  # type: ignore[attr-defined] # from JSON
    assert messages[-2:] == ["line 19", "in"]
