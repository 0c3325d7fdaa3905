# SPDX-License-Identifier: Apache-2.0
"""weftctl top, on a real terminal beside a real weft-appd."""

import json
import signal
import termios
import time

import pytest

from tests.appd.harness import cpu_seconds
from tests.command.device import OTHER_ID, STAYS, Device, Done
from tests.command.guests import FOREVER, guest
from tests.command.terminal import OnTerminal, width
from tests.packages import APP_ID, install


def test_top_tells_who_uses_the_device(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    install(appd.store, guest(FOREVER), app_id=OTHER_ID)
    appd.launch()
    appd.launch(OTHER_ID)
    found = appd.ctl("top", "--once", "--json").json
    assert [item["app_id"] for item in found] == [OTHER_ID, APP_ID]
    busy, idle = (item["cpu_percent"] for item in found)
    assert isinstance(busy, float)
    assert isinstance(idle, float)
    assert busy > idle
    lines = appd.ctl("top", "--once").stdout.splitlines()
    assert lines[0].split()[:6] == ["ID", "KIND", "APP", "VERSION", "STATE", "CPU%"]
    assert lines[1].split()[:5] == ["2", "session", OTHER_ID, "1.2.3", "running"]
    assert [item["app_id"] for item in appd.ctl("top", "--once", "--json", "--sort", "app").json] == [
        APP_ID,
        OTHER_ID,
    ]
    assert [item["session_id"] for item in appd.ctl("top", "--once", "--json", "--sort", "id").json] == [
        1,
        2,
    ]
    assert [item["session_id"] for item in appd.ctl("top", "--once", "--json", "--sort", "since").json] == [
        2,
        1,
    ]
    for key in ("memory", "time", "restarts"):
        assert len(appd.ctl("top", "--once", "--json", "--sort", key).json) == 2
    began = time.monotonic()
    streaming = appd.begin("top", "--json", "--interval", "0.5")
    assert [len(json.loads(streaming.line())) for _ in range(4)] == [2, 2, 2, 2]
    assert time.monotonic() - began > 1.5
    assert streaming.interrupt().status == 130


def test_top_is_drawn_in_place_and_sorted_by_a_key(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    install(appd.store, guest(STAYS), app_id=OTHER_ID)
    for app_id in (OTHER_ID, APP_ID):
        appd.launch(app_id)
    top = OnTerminal(appd, "top", "--interval", "0.2")
    top.until(b"\x1b[H", 4)
    top.type(b"a")
    top.until(b", by app; ")
    top.until(b"\x1b[J", top.shown.count(b"\x1b[J") + 1)
    top.type(b"q")
    assert top.end() == 0
    for lines in top.frames:
        assert len(lines) == 24
        assert [line for line in lines if width(line) > 80] == []
    lines = next(frame for frame in top.frames if ", by app; " in frame[0])
    assert lines[0].startswith("2 sessions, 0 services, by app; ")
    assert [line.split()[2] for line in lines[2:4]] == [APP_ID, OTHER_ID]
    assert lines[-1].startswith("q quits; sort by c cpu, m memory")
    # In place: between two frames nothing is cleared, so that nothing flickers.
    assert b"\x1b[2J" not in top.shown


def test_top_follows_the_size_of_its_terminal(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    for _ in range(12):
        appd.launch()
    top = OnTerminal(appd, "top", "--interval", "60")
    top.until(b"q quits")
    top.resize(30, 8)
    top.process.send_signal(signal.SIGWINCH)
    top.until(b"more")
    top.type(b"q")
    assert top.end() == 0
    small = top.frames[-1]
    assert (len(small), max(map(width, small)) <= 30) == (8, True)
    assert "8 more" in small


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_top_gives_the_terminal_back_however_it_ends(appd: Device, number: signal.Signals) -> None:
    top = OnTerminal(appd, "top", "--interval", "60")
    top.until(b"q quits")
    top.process.send_signal(number)
    assert top.end() == (130 if number is signal.SIGINT else -number)


def test_top_gives_the_terminal_back_while_it_is_stopped(appd: Device) -> None:
    shell = ("bash", "-mc", '"$@"; echo "stopped with $?"; read -r; fg >/dev/null', "bash")
    top = OnTerminal(appd, "top", "--interval", "60", shell=shell)
    top.until(b"q quits")
    top.type(b"\x1a")  # Ctrl-Z
    top.until(b"stopped with 148")
    assert top.shown.rpartition(b"\x1b[?1049l")[2].strip().endswith(b"stopped with 148")
    assert termios.tcgetattr(top.theirs) == top.settings
    top.type(b"\n")
    top.until(b"\x1b[?1049h", 2)
    top.until(b"q quits", 2)
    top.type(b"q")
    assert top.end() == 0


def test_top_goes_on_where_the_daemon_is_gone(appd: Device) -> None:
    top = OnTerminal(appd, "top", "--interval", "0.2")
    top.until(b"0 sessions")
    appd.stop()
    top.until(b"weft-appd is not running")
    appd.start()
    before = top.shown.count(b"\x1b[J")
    top.until(b"\x1b[J", before + 3)
    assert b"listening" not in top.shown.rpartition(b"\x1b[H")[2]
    top.type(b"q")
    assert top.end() == 0


def test_top_leaves_the_cpu_to_others(appd: Device) -> None:
    """However short the interval: it and the daemon together have the share that the page promises, and some for drawing."""
    install(appd.store, guest(""))
    for _ in range(20):
        appd.ctl("launch", "--wait", APP_ID)
    assert appd.daemon is not None
    top = OnTerminal(appd, "top", "--interval", "0.2")
    top.until(b"\x1b[H", 2)
    processes = (top.process.pid, appd.daemon.pid)
    began, used = time.monotonic(), sum(map(cpu_seconds, processes))
    while time.monotonic() - began < 3:
        top.read(0.1)
    share = (sum(map(cpu_seconds, processes)) - used) / (time.monotonic() - began)
    top.type(b"q")
    assert top.end() == 0
    assert share < 0.25


def test_top_needs_a_terminal_that_can_be_drawn_on(appd: Device) -> None:
    done = appd.ctl("top", env={"TERM": "xterm"})
    assert done == Done(164, "", "weftctl: this needs a terminal [see --once and --json]\n")
