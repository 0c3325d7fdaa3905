# SPDX-License-Identifier: Apache-2.0
"""A journal that does not read, as with a storage that is too slow: nobody waits for it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.system.appd import (
    HELLO,
    TICKER,
    UNIT,
    ask,
    entries,
    eventually,
    launch,
    sessions,
    set_fork_server,
    show,
    until_state,
)
from tests.system.container import Command, Container

STOPPED_S = 300 if os.environ.get("WEFT_SOAK") == "1" else 20
PAUSE_S = 0 if os.environ.get("WEFT_SOAK") == "1" else 1
NO_WATCHDOG = "[Service]\nWatchdogSec=0\n"

# One sender is bounded by its own buffer, the receiver by net.unix.max_dgram_qlen.
FILL = """
import socket
keep = []
while True:
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    filler.setblocking(False)
    count = 0
    try:
        while True:
            filler.sendto(b"MESSAGE=fill\\n", "/run/systemd/journal/socket")
            count += 1
    except BlockingIOError:
        keep.append(filler)
    if count == 0:
        break
"""

pytestmark = pytest.mark.usefixtures("installed")


@contextmanager
def stopped(container: Container) -> Iterator[None]:
    """The journal reads nothing, and its queue is full."""
    drop_in = "/run/systemd/system/systemd-journald.service.d/watchdog.conf"
    container.write(drop_in, NO_WATCHDOG)
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "restart", "systemd-journald")
    pid = container.run(
        "systemctl", "show", "--value", "--property=MainPID", "systemd-journald"
    ).stdout.strip()
    container.run("kill", "-STOP", pid)
    try:
        container.run("python3", "-c", FILL)
        yield
    finally:
        container.run("kill", "-CONT", pid)


def ends_in_time(container: Container, pid: int, promised: float) -> None:
    begun = time.monotonic()
    container.run("kill", "-TERM", str(pid))
    eventually(lambda: container.run("kill", "-0", str(pid), check=False).returncode != 0)
    assert time.monotonic() - begun < promised + 3  # of a busy machine


@pytest.mark.soak
def test_launches_go_on_and_nothing_is_lost_unseen(service: Container) -> None:
    pid = show(service, "MainPID")
    (kept,) = launch(service, TICKER)
    until_state(service, "running", kept)
    launched: list[int] = []
    with stopped(service):
        deadline = time.monotonic() + STOPPED_S
        while time.monotonic() < deadline or len(launched) < 5:
            begun = time.monotonic()
            (hello,) = launch(service, HELLO)
            until_state(service, "stopped", hello)
            launched.append(hello)
            eventually(lambda begun=begun: time.monotonic() >= begun + PAUSE_S)  # type: ignore[misc]
        (ticker,) = launch(service, TICKER)
        running = until_state(service, "running", ticker)[ticker]
        launched.append(ticker)
        ends_in_time(service, running["pid"], 1)
        assert show(service, "MainPID") == pid
        assert sessions(service)[kept]["state"] == "running"
        assert all(
            session["ready"] is not None
            for number, session in sessions(service).items()
            if number in launched
        )
    assert show(service, "NRestarts") == "0"

    def told() -> bool:
        found = entries(service, "WEFT_EVENT=session-ended")
        return {str(number) for number in launched} <= {
            str(entry["WEFT_SESSION_ID"]) for entry in found
        } or bool(entries(service, "WEFT_EVENT=log-lost"))

    eventually(told)
    # What there is of each session is in order.
    for number in launched[:3]:
        found = [
            entry["WEFT_EVENT"]
            for entry in entries(service, f"WEFT_SESSION_ID={number}", "SYSLOG_IDENTIFIER=weft-appd")
        ]
        assert found == ["session-launched", "session-ready", "session-ended"]


def test_a_daemon_that_is_started_meanwhile_serves_and_stops(service: Container) -> None:
    service.run("systemctl", "stop", UNIT)
    with stopped(service):
        service.run("systemctl", "start", UNIT)
        assert show(service, "ActiveState") == "active"
        (ticker,) = launch(service, TICKER)
        until_state(service, "running", ticker)
        service.run("systemctl", "reload", UNIT)
        assert sessions(service)[ticker]["state"] == "running"
        begun = time.monotonic()
        service.run("systemctl", "stop", UNIT)
        assert time.monotonic() - begun < 10
        service.run("systemctl", "start", UNIT)
        assert ask(service, {"type": "QUERY_STATUS"})[0]["pid"] == int(show(service, "MainPID"))


@pytest.mark.parametrize("before", [0, 2])
def test_a_runtime_that_logs_there_ends_in_its_second(container: Container, before: int) -> None:
    """One that decides what to do, and one that follows the plan of those before it."""
    set_fork_server(container)
    directory = f"/var/cache/before-{before}"
    env = {"WEFT_LOG": "journal", "WEFT_APP_STORE": "/opt/store", "CACHE_DIRECTORY": directory}

    def start() -> Command:
        command = container.popen("weft-runtime-wasmtime", TICKER, "77", env=env)
        assert command.stdout is not None
        assert command.stdout.readline() == "READY\n"
        return command

    for _ in range(before):
        command = start()
        command.terminate()
        command.communicate(timeout=30)
    with stopped(container):
        command = start()
        # The parentheses keep the command that looks from finding itself.
        pattern = f"(weft-runtime-wasmtime) {TICKER} 77"
        pid = container.run("pgrep", "--newest", "--full", pattern).stdout.strip()
        decides = "/app.wasm" in container.run("find", f"/proc/{pid}/fd", "-printf", "%l ").stdout
        begun = time.monotonic()
        command.terminate()
        command.communicate(timeout=30)
        assert time.monotonic() - begun < 3  # promised is one second; the rest is a busy machine's
    assert command.returncode == -15
    assert decides is not bool(before)
