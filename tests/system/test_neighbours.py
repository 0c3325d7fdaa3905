# SPDX-License-Identifier: Apache-2.0
"""Every kind of bad neighbour at once, and the journal stopped meanwhile: a normal client hardly notices."""

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from tests.deb import built_deb
from tests.packages import manifest, wat
from tests.system import package
from tests.system.appd import HELLO, UNIT, show
from tests.system.bad_neighbours import NEIGHBOURS
from tests.system.container import Container, Suite

SOAK = os.environ.get("WEFT_SOAK") == "1"
QUIET_S, LOUD_S, JOURNAL_STOPPED_S = (60, 600, 60) if SOAK else (5, 25, 8)
PROGRAM = "/usr/local/bin/bad-neighbours"
TICKER = "org.weft.examples.ticker"
TICKERS = 5
FLOOD, FLOODS = "org.example.flood", 3
LARGE_MANIFESTS = 60
WORSE_MAX = 10 if SOAK else 40
"""How many times as long as on a quiet device the slowest launches of a normal client may take. In the short loop the
slowest of a few dozen launches on the quiet device is hardly slower than the others, and the machine has other work."""

# Writes line breaks for ever, 60,000 at a time.
FLOODING = wat(
    '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
    '(memory (export "memory") 2)'
    '(func (export "_start")'
    " (memory.fill (i32.const 64) (i32.const 10) (i32.const 60000))"
    " (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))"
    " (loop $again (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $again)))"
)


# Once is enough where the loop is short.
@pytest.mark.parametrize(
    "suite", list(Suite) if SOAK else [Suite.TRIXIE], ids=str, indirect=True, scope="module"
)
@pytest.mark.soak
def test_a_normal_client_hardly_notices_bad_neighbours(pristine: Container, suite: Suite) -> None:
    device = pristine
    package.install(device, built_deb())
    _prepare(device)
    tickers = [package.launch(device, TICKER) for _ in range(TICKERS)]
    daemon = show(device, "MainPID")
    quiet = _normal(device, QUIET_S)

    for _ in range(FLOODS):
        package.launch(device, FLOOD)
    # Of the group, as all whose connections the control socket takes; the WebSocket takes those of everybody.
    neighbours = [device.popen(PROGRAM, name, str(LOUD_S), user="bob") for name in NEIGHBOURS]
    client = device.popen(PROGRAM, "normal", str(LOUD_S), user="alice")
    time.sleep(LOUD_S / 4)
    device.run("systemctl", "kill", "--signal=SIGSTOP", "systemd-journald")
    time.sleep(JOURNAL_STOPPED_S)
    device.run("systemctl", "kill", "--signal=SIGCONT", "systemd-journald")
    loud = _result(client.communicate(timeout=4 * LOUD_S)[0])
    for neighbour in neighbours:
        neighbour.communicate(timeout=60)
        assert neighbour.returncode == 0

    assert show(device, "MainPID") == daemon
    assert show(device, "NRestarts") == "0"
    alive = {(session["session_id"], session["pid"]) for session in package.sessions(device)}
    assert {(ticker["session_id"], ticker["pid"]) for ticker in tickers} <= alive
    # What was logged while the journal was stopped is there, or an entry says how much is not.
    ended = device.journal("WEFT_EVENT=session-ended", f"WEFT_APP_ID={HELLO}", f"_PID={daemon}")
    assert len(ended) >= len(quiet) + len(loud) or device.journal("WEFT_EVENT=log-lost", f"_PID={daemon}")
    ratio = _slowest(loud) / _slowest(quiet)
    print(f"{suite}: {len(loud)} launches beside bad neighbours, {len(quiet)} on a quiet device:", end=" ")
    print(f"p99 {ratio:.1f} times, median {statistics.median(loud) / statistics.median(quiet):.1f} times")
    assert ratio <= WORSE_MAX


def _prepare(device: Container) -> None:
    for user in ("alice", "bob"):
        device.run("useradd", "--groups=weft", user)
    device.write(PROGRAM, Path(__file__).with_name("bad_neighbours.py").read_text(), 0o755)
    # Else PID 1 would kill a journal that is stopped for long.
    device.write(
        "/run/systemd/system/systemd-journald.service.d/watchdog.conf", "[Service]\nWatchdogSec=0\n"
    )
    package.add_app(device, FLOOD, FLOODING)
    for number in range(LARGE_MANIFESTS):
        _add_large_manifest(device, f"org.example.large{number}")
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "restart", "systemd-journald")
    device.run("systemctl", "enable", "weft-appd-ws.socket")
    device.run("systemctl", "restart", UNIT)


def _add_large_manifest(device: Container, app_id: str) -> None:
    text = manifest(app_id)
    room = 60 * 1024 - len(text)
    package_ = f"{package.OPERATOR_STORE}/{app_id}"
    device.write(f"{package_}/wapp.toml", f"{text}\n[extra]\nnumbers = [{'1,' * (room // 2)}]\n")


def _normal(device: Container, seconds: float) -> list[float]:
    return _result(
        device.run(PROGRAM, "normal", str(seconds), user="alice", timeout=4 * seconds + 60).stdout
    )


def _result(text: str) -> list[float]:
    values: dict[str, Any] = json.loads(text)
    assert values["wrong"] == []
    took: list[float] = values["took"]
    return took


def _slowest(took: list[float]) -> float:
    """The 99th percentile, or what comes next to it where there are fewer."""
    return sorted(took)[int(len(took) * 0.99) - 1] if len(took) >= 100 else max(took)
