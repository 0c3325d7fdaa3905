# SPDX-License-Identifier: Apache-2.0
"""weft-appd in a virtual machine: what is installed, and what the tests ask and set."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.command.guests import FOREVER
from tests.packages import install as package
from tests.packages import wat
from tests.system.test_cgroups import WAITING
from tests.vm.machine import Machine

UNIT = "weft-appd.service"
CONFIG = "/etc/weft/appd.toml"
DROP_IN = f"/run/systemd/system/{UNIT}.d/test.conf"
TICKER = "org.weft.examples.ticker"
BUSY, EATER = "org.example.busy", "org.example.eater"

DEADLINE_S = 300  # the processor is emulated
POLL_S = 0.5

# Nothing here is about how long something takes.
PATIENT = {
    UNIT: "[Service]\nTimeoutStartSec=600\nTimeoutStopSec=600\nWatchdogSec=600\n",
    "weft-app@.service": "[Service]\nTimeoutStartSec=600\nTimeoutStopSec=600\n",
}
SETTINGS = "ready_timeout = 600\n"

# Takes a megabyte more, again and again, and writes to each page of it; at the engine's own limit it is idle.
EATING = f"""
(memory (export "memory") 1)
(func (export "_start") (local $at i32) (local $end i32)
  (loop $more
    (local.set $at (i32.mul (memory.grow (i32.const 16)) (i32.const 65536)))
    (if (i32.lt_s (local.get $at) (i32.const 0)) (then {FOREVER}))
    (local.set $end (i32.add (local.get $at) (i32.const 1048576)))
    (loop $page
      (i32.store8 (local.get $at) (i32.const 1))
      (br_if $page (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (local.get $end))))
    (br $more)))
"""


def write_files(root: Path) -> None:
    """What a machine has besides the package: apps of the tests, and time."""
    store = root / "var/lib/weft/apps"
    package(store, wat(f'(memory (export "memory") 1) (func (export "_start") {FOREVER})'), app_id=BUSY)
    package(store, wat(EATING), app_id=EATER)
    for unit, text in PATIENT.items():
        drop_in = root / f"etc/systemd/system/{unit}.d/patient.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text(text)
    (root / "etc/weft").mkdir()
    (root / CONFIG.lstrip("/")).write_text(SETTINGS)


def weftctl(machine: Machine, *argv: str) -> Any:
    """What weftctl answers, where it succeeds."""
    return json.loads(machine.run("weftctl", argv[0], "--json", *argv[1:]).stdout)


def launch(machine: Machine, app_id: str) -> int:
    """The number of a new session, which is ready."""
    return int(weftctl(machine, "launch", app_id)["session_id"])


def configure(machine: Machine, settings: str) -> None:
    """Have the running daemon take on these settings."""
    machine.write(CONFIG, SETTINGS + settings)
    machine.run("systemctl", "reload", UNIT)


def use_runtime(machine: Machine, program: str) -> None:
    """Have a daemon started anew that runs each app by this program, a text."""
    machine.write("/usr/local/bin/test-runtime", program, 0o755)
    machine.write(DROP_IN, "[Service]\nEnvironment=WEFT_RUNTIME_BIN=/usr/local/bin/test-runtime\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", UNIT)


def reset(machine: Machine) -> None:
    """End all sessions and undo what the two above do."""
    machine.write(CONFIG, SETTINGS)
    machine.sh(
        f"systemctl stop {UNIT}; rm -rf {DROP_IN} /var/lib/weft/appd; systemctl daemon-reload;"
        f" systemctl reset-failed; systemctl start {UNIT}"
    )


def show(machine: Machine, name: str, unit: str = UNIT) -> str:
    return machine.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()


class Group:
    """The control group of a session, or of the unit."""

    def __init__(self, machine: Machine, session: int | None = None, app_id: str = "") -> None:
        self._machine = machine
        unit = f"/sys/fs/cgroup{show(machine, 'ControlGroup')}"
        self.path = unit if session is None else f"{unit}/session-{session}"

    @property
    def is_there(self) -> bool:
        return self._machine.run("test", "-d", self.path, check=False).returncode == 0

    @property
    def leaves(self) -> set[str]:
        """The daemon's and its sessions'. Where systemd runs the command of a reload, .control, is not of them.

        Nor are those in which a process waits for a session, or for compilers.
        """
        found = self._machine.sh(f"cd {self.path} && find . -mindepth 1 -type d -printf '%P\\n'").split()
        waiting = self._machine.run("sh", "-c", WAITING, "sh", self.path, check=False).stdout.split()
        return set(found) - {".control", "compiler", *waiting}

    def read(self, name: str) -> str:
        return self._machine.sh(f"cat {self.path}/{name}").strip()

    def keys(self, name: str) -> dict[str, int]:
        return {key: int(value) for key, value in map(str.split, self.read(name).splitlines())}


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(POLL_S)
