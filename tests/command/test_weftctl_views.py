# SPDX-License-Identifier: Apache-2.0
"""What weftctl shows of all that runs, and how it starts that anew: a real weft-appd, real apps."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.command.device import OTHER_ID, STAYS, Device, Done
from tests.command.guests import guest, leave, sleep
from tests.command.harness import eventually
from tests.command.terminal import width
from tests.packages import APP_ID, install, manifest

LONG_ID = "org." + "example." * 20 + "notes"


def upgrade(device: Device, version: str, app_id: str = APP_ID) -> None:
    path = device.store / app_id / "wapp.toml"
    text = re.sub(r"^version = .*$", f'version = "{version}"', path.read_text(), flags=re.MULTILINE)
    path.write_text(text)


# The version


def test_an_upgrade_is_seen_beside_what_runs(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    appd.launch()
    upgrade(appd, "2.0.0")
    done = appd.ctl("list")
    assert done.stdout.splitlines()[1].split()[:5] == ["1", "session", APP_ID, "1.2.3", "*"]
    assert done.stderr == (
        f"weftctl: * version 2.0.0 of {APP_ID} is installed ['weftctl restart {APP_ID}' starts it]\n"
    )
    assert appd.ctl("list", "--wide").stdout.splitlines()[1].split()[3:6] == ["1.2.3", "*", "2.0.0"]
    (session,) = appd.ctl("list", "--json").json
    assert (session["kind"], session["version"], session["installed_version"]) == (
        "session",
        "1.2.3",
        "2.0.0",
    )
    status = appd.ctl("status", "1").stdout
    assert "Version:    1.2.3, but 2.0.0 is installed ['weftctl restart 1' starts it]\n" in status
    # The command that is named mends it.
    assert appd.ctl("restart", APP_ID) == Done(0, f"session 2 of {APP_ID} replaces session 1\n", "")
    done = appd.ctl("list")
    assert (done.stdout.splitlines()[1].split()[:4], done.stderr) == (["2", "session", APP_ID, "2.0.0"], "")


def test_a_version_that_does_not_print_is_the_same_as_itself(appd: Device) -> None:
    install(appd.store, guest(STAYS), toml=manifest().replace("1.2.3", r"1\u001b[2J\n"))
    appd.launch()
    done = appd.ctl("list")
    assert (done.stderr, done.stdout.splitlines()[1].split()[3:5]) == ("", [r"1\x1b[2J\x0a", "running"])
    assert appd.ctl("list", "--json").json[0]["version"] == "1\x1b[2J\n"


def test_several_apps_that_were_upgraded_are_one_note(appd: Device) -> None:
    for app_id in (APP_ID, OTHER_ID):
        install(appd.store, guest(STAYS), app_id=app_id)
        appd.launch(app_id)
        upgrade(appd, "2.0.0", app_id)
    assert appd.ctl("list").stderr == (
        "weftctl: * other versions of 2 apps are installed [see --wide; 'weftctl restart APP' starts them]\n"
    )


# A daemon that does not know the request yet answers as it always did

OLD_DAEMON = """
import sys
from weft_runtime import wire
from weft_runtime.protocol import QueryStatus
wire._REQUESTS = wire._REQUESTS[:1 + [shape.make for shape in wire._REQUESTS].index(QueryStatus)]
from weft_runtime.appd.main import main
sys.exit(main())
"""


def test_a_daemon_of_the_first_release_is_understood(device: Device) -> None:
    with device.log.open("ab") as log:
        device.daemon = subprocess.Popen(
            [sys.executable, "-c", OLD_DAEMON],
            env=device.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    device.wait_until_it_serves()
    install(device.store, guest(STAYS))
    device.launch()
    done = device.ctl("list")
    assert done.stdout.splitlines()[1].split()[:5] == ["1", "session", APP_ID, "-", "running"]
    (session,) = device.ctl("list", "--json").json
    assert (session["version"], session["installed_version"], session["memory"]) == (None, "1.2.3", None)
    assert "Version:   not known, 1.2.3 is installed\n" in device.ctl("status", "1").stdout
    assert device.ctl("status", APP_ID).status == device.ctl("top", "--once").status == 0
    assert device.ctl("restart", "1").status == 0
    assert device.ctl("stop", APP_ID).status == 0


# Without systemd

SYSTEM_SOCKET = "/run/weft/appd.sock"


@pytest.fixture
def system_appd(device: Device) -> Iterator[Device]:
    """The daemon at the system's place, on a machine that systemd does not run."""
    if os.geteuid() != 0:
        pytest.skip("a /run of its own needs root") if os.environ.get("CI") != "true" else pytest.fail(
            "needs root"
        )
    script = "mount -t tmpfs tmpfs /run && mkdir /run/weft && echo there && exec sleep infinity"
    argv = (
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        script,
    )
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    device.wrapper = ("nsenter", "--target", str(process.pid), "--mount", "--")
    device.environ["WEFT_APPD_SOCKET"] = SYSTEM_SOCKET
    device.socket = Path(f"/proc/{process.pid}/root{SYSTEM_SOCKET}")
    try:
        device.start()
        yield device
        device.close()
    finally:
        process.kill()
        process.communicate()


def test_without_systemd_sessions_are_shown_and_why_there_are_no_services(system_appd: Device) -> None:
    why = "weftctl: services are not shown: systemd does not run this machine\n"
    install(system_appd.store, guest(STAYS))
    assert system_appd.ctl("list") == Done(0, "", f"weftctl: no session is running\n{why}")
    system_appd.launch()
    done = system_appd.ctl("list")
    assert (done.status, len(done.stdout.splitlines()), done.stderr) == (0, 2, why)
    done = system_appd.ctl("list", "--json")
    assert (done.status, len(done.json), done.stderr) == (0, 1, why)
    assert system_appd.ctl("top", "--once").stderr == why
    done = system_appd.ctl("status", APP_ID)
    assert done.status == 0
    assert "weftctl: the service is not shown: systemd does not run this machine\n" in done.stderr
    assert system_appd.ctl("restart", APP_ID).status == 0
    assert system_appd.ctl("stop", APP_ID).status == 0


# Sessions that are still to be started again


def test_what_waits_to_be_started_again_is_listed_with_the_reason(device: Device) -> None:
    device.start()
    install(device.store, guest(STAYS))
    device.launch()
    daemon = device.daemon
    assert daemon is not None
    pid = device.session(1)["pid"]
    # The answer to a launch does not wait for the disk.
    eventually(lambda: device.saved.exists() and APP_ID in device.saved.read_text(), "it is on the list")
    daemon.kill()
    daemon.wait()
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(str(pid)), signal.SIGKILL)
    device.start(WEFT_RUNTIME_BIN="/nonexistent")
    eventually(lambda: "/nonexistent" in device.ctl("list").stdout, "it was tried")
    row = device.ctl("list").stdout.splitlines()[1]
    assert row.split()[:5] == ["-", "session", APP_ID, "-", "waiting"]
    (item,) = device.ctl("list", "--json").json
    assert (item["kind"], item["session_id"], item["state"]) == ("session", None, "waiting")
    done = device.ctl("status", APP_ID)
    assert (done.status, "State:    waiting\n" in done.stdout, "/nonexistent" in done.stdout) == (
        0,
        True,
        True,
    )
    assert device.ctl("top", "--once").status == 0


# Terminals


def on_terminal(
    device: Device, *args: str, columns: int, rows: int = 24, env: Mapping[str, str] = {}
) -> list[str]:
    """The lines that a command prints on a terminal of that size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environ = {"TERM": "xterm", "NO_COLOR": "1", **env}
    with open(theirs, "wb", buffering=0) as terminal:
        assert device.ctl(*args, env=environ, stdout=terminal).status == 0
        shown = os.read(ours, 1 << 20).decode()
    os.close(ours)
    return shown.replace("\r", "").splitlines()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_line_is_longer_than_the_terminal(appd: Device, encoding: str) -> None:
    appd.environ["PYTHONIOENCODING"] = encoding
    install(appd.store, guest(leave(3)), app_id=LONG_ID)
    install(
        appd.store, guest(STAYS), toml=manifest().replace("1.2.3", "9.9.9-\\u001b[31m日本語日本語日本語")
    )
    appd.ctl("launch", "--wait", LONG_ID)
    appd.launch()
    upgrade(appd, "10.0.0")
    for columns in (10, 40, 60, 80, 120):
        listed, top = (
            on_terminal(appd, *args, columns=columns) for args in (("list", "--all"), ("top", "--once"))
        )
        assert [line for line in (*listed, *top) if width(line) > columns] == [], columns
        if columns >= 80:
            header, first, second = listed
            assert header.split() == ["ID", "KIND", "APP", "VERSION", "STATE", "SINCE", "REASON"], columns
            # The end of an id says more than its beginning, and that there is another version is seen all the same.
            assert ".example.notes  1.2.3 " in first, columns
            assert re.search(r"9\.9\.9-\S* \*  +running", second), columns


def test_all_is_there_where_nobody_has_to_read_it(appd: Device) -> None:
    install(appd.store, guest(leave(3)), app_id=LONG_ID)
    appd.ctl("launch", "--wait", LONG_ID)
    line = appd.ctl("list", "--all").stdout.splitlines()[1]
    assert LONG_ID in line
    assert line.endswith("the app exited with status 3")
    assert LONG_ID in on_terminal(appd, "list", "--all", "--wide", columns=80)[1]


# status of an app


def test_status_of_an_app_is_that_of_each_of_its_sessions(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    install(appd.store, guest(STAYS), app_id=OTHER_ID)
    appd.launch()
    appd.ctl("stop", "1")
    appd.launch()
    appd.launch(OTHER_ID)
    done = appd.ctl("status", APP_ID)
    assert done.status == 0
    first, second = done.stdout.split("\n\n")
    assert first.splitlines()[0].split() == ["Session:", "1"]
    assert "terminated by" in first
    assert second.splitlines()[0].split() == ["Session:", "2"]
    assert "State:      running\n" in second
    found = appd.ctl("status", APP_ID, "--json").json
    assert [(item["session_id"], item["state"]) for item in found] == [(1, "stopped"), (2, "running")]
    assert appd.ctl("status", "org.example.nowhere") == Done(
        166, "",
        "weftctl: no session of org.example.nowhere is known [see 'weftctl list --all' and 'weftctl apps']\n",
    )  # fmt: skip


def test_status_of_an_app_counts_what_ended_long_ago(appd: Device) -> None:
    install(appd.store, guest(""))
    for _ in range(5):
        appd.ctl("launch", "--wait", APP_ID)
    done = appd.ctl("status", APP_ID)
    assert re.findall(r"^Session: +(\d)$", done.stdout, re.MULTILINE) == ["3", "4", "5"]
    assert done.stderr == "weftctl: 2 more that have ended [see 'weftctl list --all']\n"
    assert len(appd.ctl("status", APP_ID, "--json").json) == 5


# restart


def test_restart_of_each_session_of_an_app(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    install(appd.store, guest(STAYS), app_id=OTHER_ID)
    for app_id in (APP_ID, APP_ID, OTHER_ID):
        appd.launch(app_id)
    done = appd.ctl("restart", APP_ID, "--json")
    assert done.status == 0
    assert [(item["kind"], item["session_id"], item["replaces"]) for item in done.json] == [
        ("session", 4, 1), ("session", 5, 2)
    ]  # fmt: skip
    assert [item["session_id"] for item in appd.ctl("list", "--json").json] == [3, 4, 5]
    assert appd.ctl("restart", "9").status == 166
    assert appd.ctl("restart", "org.example.nowhere") == Done(
        166, "",
        "weftctl: nothing of org.example.nowhere is running ['weftctl launch org.example.nowhere' starts one]\n",
    )  # fmt: skip


def test_restart_of_a_session_that_has_ended_starts_its_app(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    appd.launch()
    appd.ctl("stop", "1")
    assert appd.ctl("restart", "1") == Done(0, f"session 2 of {APP_ID} replaces session 1\n", "")


def test_restart_leaves_the_others_alone_where_the_app_does_not_start_any_more(appd: Device) -> None:
    package = install(appd.store, guest(STAYS))
    for _ in range(3):
        appd.launch()
    (package / "wapp.toml").write_text("[package]\n")
    done = appd.ctl("restart", APP_ID)
    assert (done.status, done.stdout) == (165, "")
    assert done.stderr.startswith(f"weftctl: session 1 of {APP_ID} has ended, and there is no new one: ")
    assert [item["session_id"] for item in appd.ctl("list", "--json").json] == [2, 3]


def test_restart_of_an_app_that_is_not_ready_again(appd: Device) -> None:
    package = install(appd.store, guest(STAYS))
    appd.launch()
    appd.launch()
    (package / "app.wasm").write_bytes(b"\0asm\1\0\0\0")  # no _start
    done = appd.ctl("restart", APP_ID)
    assert (done.status, done.stdout) == (165, "")
    assert re.match(rf"weftctl: session 3 of {APP_ID} ended before READY: .*_start", done.stderr), (
        done.stderr
    )
    assert [item["session_id"] for item in appd.ctl("list", "--json").json] == [2]


# launch --wait-stable


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (
            sleep(10**7) + "unreachable",
            134,
            "exited with status 134: the app trapped in _start: unreachable",
        ),
        (sleep(10**7) + leave(3), 3, "the app exited with status 3"),
        (sleep(10**7), 1, "the app exited with status 0"),
    ],
)
def test_an_end_right_after_ready_is_a_failure(appd: Device, code: str, status: int, reason: str) -> None:
    install(appd.store, guest(code))
    done = appd.ctl("launch", "--wait-stable", "30", APP_ID)
    assert (done.status, done.stdout) == (status, "1\n")
    assert re.match(
        rf"weftctl: session 1 of {APP_ID} ended \d+\.\d{{3}} s after READY: {reason}", done.stderr
    ), done.stderr
    assert appd.ctl("launch", "--wait-stable", "30", APP_ID, "--json").json[0]["state"] == "stopped"


def test_an_app_that_is_stable_is_waited_for_so_long(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    began = time.monotonic()
    done = appd.ctl("launch", "--wait-stable", "0.5", APP_ID)
    assert time.monotonic() - began > 0.5
    assert (done.status, done.stdout) == (0, "1\n")
    assert re.fullmatch(rf"weftctl: session 1 of {APP_ID} is ready after \S+ s and goes on\n", done.stderr)


def test_an_app_that_traps_at_once_was_ready_all_the_same(appd: Device) -> None:
    """However soon that is: before anybody listens."""
    install(appd.store, guest("unreachable"))
    for _ in range(20):
        done = appd.ctl("launch", "--wait-stable", "30", APP_ID)
        assert done.status == 134
        assert re.search(r" ended \d+\.\d{3} s after READY: exited with status 134: ", done.stderr), (
            done.stderr
        )
        done = appd.ctl("launch", APP_ID)
        assert done.status in (0, 134)
        assert " is ready after " in done.stderr or " was ready after " in done.stderr, done.stderr


def test_an_app_that_is_not_even_ready_is_told_as_ever(appd: Device) -> None:
    install(appd.store, guest(leave(3)), toml=manifest(runtime='ready = "guest"'))
    done = appd.ctl("launch", "--wait-stable", "1", APP_ID)
    assert done.status == 3
    assert "ended before READY" in done.stderr
