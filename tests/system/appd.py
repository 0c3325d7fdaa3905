# SPDX-License-Identifier: Apache-2.0
"""weft-appd as a service of a container: its programs, its unit, and questions to it."""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from tests.system.container import Container

UNIT = "weft-appd.service"
CONFIG = "/etc/weft/appd.toml"
STORE = "/opt/store"
SOCKET = "/run/weft/appd.sock"
TICKER, CRASH, HELLO = "org.weft.examples.ticker", "org.weft.examples.crash", "org.weft.examples.hello"


DEADLINE_S = 60
POLL_FIRST_S, POLL_S = 0.05, 0.5
"""Pauses between two looks, the first and the longest: each look is a program that is started in there."""
STOP_GRACE_S = 2

# As the launcher of the runtime: the host's packages come last.
_PROGRAM = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/opt/weft/src")
sys.path.append("/opt/weft/site")
"""

APPD = f"{_PROGRAM}\nfrom weft_runtime.appd.main import main\n\nsys.exit(main())\n"

# Asks what stands on its standard input, a request in JSON a line, and prints the answers.
ASK = f"""{_PROGRAM}
from pathlib import Path
from weft_runtime.client import DaemonClient
from weft_runtime.wire import decode_request_json, encode_json

with DaemonClient(Path("{SOCKET}"), timeout={DEADLINE_S}) as daemon:
    for line in sys.stdin:
        print(encode_json(daemon.ask(decode_request_json(line))))
"""

SERVICE = f"""\
[Unit]
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=/usr/local/bin/weft-appd
ExecReload=/usr/local/bin/weft-appd --reload
WatchdogSec=5
Restart=on-failure
RestartSec=100ms
TimeoutStopSec=30
KillMode=mixed
Delegate=cpu memory pids
StateDirectory=weft/appd
RuntimeDirectory=weft-appd weft
Environment=WEFT_APP_STORE={STORE} WEFT_APPD_SOCKET={SOCKET} WEFT_STOP_GRACE={STOP_GRACE_S}
Environment=WEFT_APPD_WS_PORT=off SECRET=1
"""

# Ignores SIGTERM, says so, and waits; not even the daemon's grace helps.
STUBBORN = """\
#!/bin/sh
trap '' TERM
echo READY
while :; do sleep 1; done
"""

Request = dict[str, object]


def install(container: Container) -> None:
    """The programs, the unit, the catalog and the example apps."""
    container.write("/usr/local/bin/weft-appd", APPD, 0o755)
    container.write("/usr/local/bin/ask", ASK, 0o755)
    container.write("/usr/local/bin/stubborn", STUBBORN, 0o755)
    container.write(f"/etc/systemd/system/{UNIT}", SERVICE)
    container.run("mkdir", "-p", STORE, "/etc/weft")
    for name in ("hello", "ticker", "crash"):
        container.run("ln", "-s", f"/opt/weft/src/examples/{name}", f"{STORE}/org.weft.examples.{name}")
    catalog = "/opt/weft/src/infra/systemd/catalog/weft-runtime.catalog"
    container.run("cp", catalog, "/usr/lib/systemd/catalog/")
    container.run("journalctl", "--update-catalog")
    container.run("systemctl", "daemon-reload")


def set_fork_server(container: Container) -> bool:
    """Have the daemon work as tests are told to, with a fork server or without; whether they are told anything."""
    setting = os.environ.get("WEFT_FORK_SERVER")
    if setting:
        drop_in = f"/run/systemd/system/{UNIT}.d/fork-server.conf"
        container.write(drop_in, f"[Service]\nEnvironment=WEFT_FORK_SERVER={setting}\n")
    return bool(setting)


def ask(container: Container, *requests: Request) -> list[dict[str, Any]]:
    lines = "".join(f"{json.dumps(request)}\n" for request in requests)
    answers = container.run("ask", input=lines, timeout=2 * DEADLINE_S).stdout
    return [json.loads(line) for line in answers.splitlines()]


def launch(container: Container, *app_ids: str) -> list[int]:
    answers = ask(
        container, *({"type": "LAUNCH_APP", "app_id": app_id, "surface_id": 0} for app_id in app_ids)
    )
    assert [answer["type"] for answer in answers] == ["LAUNCH_ACK"] * len(app_ids), answers
    return [answer["session_id"] for answer in answers]


def sessions(container: Container) -> dict[int, dict[str, Any]]:
    (answer,) = ask(container, {"type": "QUERY_SESSIONS"})
    return {session["session_id"]: session for session in answer["sessions"]}


def until_state(container: Container, state: str, *numbers: int) -> dict[int, dict[str, Any]]:
    def reached() -> bool:
        known.update(sessions(container))
        return all(number in known and known[number]["state"] == state for number in numbers)

    known: dict[int, dict[str, Any]] = {}
    eventually(reached)
    return known


def eventually(condition: Callable[[], bool], seconds: float = DEADLINE_S) -> None:
    deadline, pause = time.monotonic() + seconds, POLL_FIRST_S
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(pause)
        pause = min(1.5 * pause, POLL_S)


def show(container: Container, name: str, unit: str = UNIT) -> str:
    return container.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()


def entries(container: Container, *matches: str, at_least: int = 0) -> list[dict[str, object]]:
    """What the daemon of now has in the journal of its unit; `at_least` so many entries are waited for."""
    invocation = f"_SYSTEMD_INVOCATION_ID={show(container, 'InvocationID')}"
    return container.journal(invocation, *matches, at_least=at_least)


def events(container: Container, session: int) -> list[tuple[object, object]]:
    """Identifier and event of the entries about a session that has ended, in order."""
    entries(container, f"WEFT_SESSION_ID={session}", "WEFT_EVENT=session-ended", at_least=1)
    found = entries(container, f"WEFT_SESSION_ID={session}")
    return [(entry["SYSLOG_IDENTIFIER"], entry["WEFT_EVENT"]) for entry in found if "WEFT_EVENT" in entry]
