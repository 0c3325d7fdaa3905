# SPDX-License-Identifier: Apache-2.0
"""Many launches, one after the other and at once: the daemon must end where it began."""

import os
import random
from pathlib import Path

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import Appd, descriptors, eventually, memory
from tests.packages import APP_ID
from weft_runtime.protocol import (
    AppState,
    LaunchAck,
    LaunchApp,
    QueryRunning,
    RunningApps,
    State,
    Subscribe,
    Subscribed,
    TerminateApp,
)

LAUNCHES = 10_000 if os.environ.get("WEFT_SOAK") == "1" else 200
AT_ONCE = 20
HISTORY_MAX = 1000  # the sessions that are remembered, and so take memory

# What a thousand remembered sessions and some fragmentation may take, however many there were.
GROWTH_MAX = 8 * 1024 * 1024

BEHAVIOURS = {
    "org.example.runs": "ready(); wait()",
    "org.example.ends": "say(b'hello\\n'); ready(); os._exit(0)",
    "org.example.fails": "ends_because('no luck'); os._exit(3)",
    "org.example.dies": "ready(); os.kill(os.getpid(), signal.SIGSEGV); wait()",
    "org.example.babbles": "say(b'x\\n' * 500); say(b'y' * 5000, 2); ready(); wait()",
    "org.example.breeds": "grandchild(own_session=True, keeps_output=False); grandchild(); ready(); wait()",
    "org.example.deaf": "ignore_sigterm(); ready(); wait()",
}


@pytest.fixture
def settled(start: Make) -> Appd:
    """A daemon that has done everything once, so that what it loads only then is loaded."""
    appd = start(WEFT_STOP_GRACE="0.1", WEFT_LOG_LINES="20", WEFT_MAX_SESSIONS="5000")
    for app_id, behaviour in BEHAVIOURS.items():
        appd.install(behaviour, app_id=app_id)
    run_batch(appd, list(BEHAVIOURS))
    appd.disconnect()
    appd.check_descriptors()
    return appd


def run_batch(appd: Appd, app_ids: list[str]) -> None:
    """Launch apps at once and end those that do not end by themselves."""
    control = appd.connect()
    assert control.ask(Subscribe(None)) == Subscribed(None)
    control.send(*(LaunchApp(app_id, 0) for app_id in app_ids))
    launched: set[int] = set()
    stopped: set[int] = set()
    while len(launched) < len(app_ids):
        match control.receive():
            case LaunchAck(session, app_id):
                if session not in launched and app_id not in ("org.example.ends", "org.example.fails"):
                    control.send(TerminateApp(session))
                launched.add(session)
            case AppState(session, state):
                assert state is State.STOPPED
                stopped.add(session)
    while len(stopped) < len(app_ids):
        match control.receive():
            case AppState(session, _):
                stopped.add(session)
    assert stopped == launched
    control.close()


@pytest.mark.soak
def test_thousands_of_launches_leave_no_trace(settled: Appd) -> None:
    appd = settled
    files = sorted(path for path in appd.directory.rglob("*") if "store" not in path.parts)
    before = memory(appd.process.pid)
    opened = len(descriptors(appd.process.pid))
    generator = random.Random(7)
    checkpoint = 0
    for done in range(0, LAUNCHES, AT_ONCE):
        run_batch(appd, generator.choices(list(BEHAVIOURS), k=AT_ONCE))
        if done < 2 * HISTORY_MAX:
            checkpoint = memory(appd.process.pid)
    assert appd.control.ask(QueryRunning()) == RunningApps(())
    assert len(appd.sessions) == min(HISTORY_MAX, LAUNCHES + len(BEHAVIOURS))
    appd.disconnect()
    eventually(lambda: not appd.children, "all children have ended")
    appd.check_descriptors()
    assert len(descriptors(appd.process.pid)) == opened
    after = memory(appd.process.pid)
    assert after - before < GROWTH_MAX
    # Once the history is full, nothing grows any more.
    assert after - checkpoint < GROWTH_MAX / 4

    def new_files() -> list[Path]:
        remaining = sorted(path for path in appd.directory.rglob("*") if "store" not in path.parts)
        return [path for path in remaining if path not in files and path.name != "last-session.json"]

    # The last list of what runs may still be on its way to the disk.
    eventually(lambda: new_files() == [], lambda: f"no file is left over: {new_files()}")
    launched = LAUNCHES + len(BEHAVIOURS)
    eventually(lambda: appd.log_text.count(": ended ") >= launched, "all ends are logged")
    assert appd.log_text.count("launched by") == appd.log_text.count(": ended ") == launched


@pytest.mark.soak
def test_many_reloads_leave_no_trace(settled: Appd) -> None:
    appd = settled
    appd.until_ready(appd.launch("org.example.runs"))
    assert appd.run("--reload").status == 0
    before = memory(appd.process.pid)
    for _ in range(LAUNCHES // 50):
        assert appd.run("--reload").status == 0
        appd.launch("org.example.ends")
    appd.disconnect()
    appd.check_descriptors()
    assert memory(appd.process.pid) - before < GROWTH_MAX / 4
    assert APP_ID not in appd.log_text
