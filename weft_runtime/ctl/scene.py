# SPDX-License-Identifier: Apache-2.0
"""The daemon that a doctor looks at: what it says of itself, and what can be known from outside."""

import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from weft_runtime import paths
from weft_runtime.client import DaemonClient, socket_path
from weft_runtime.ctl.daemon import ask, is_system
from weft_runtime.errors import WeftError
from weft_runtime.protocol import DaemonStatus, QueryStatus

UNIT = "weft-appd.service"
CONFIG_FILE = Path("/etc/weft/appd.toml")

ANSWER_TIMEOUT_S = 5.0
"""Seconds for the daemon's answer: whoever calls for a doctor may have one that hangs."""

PROGRAM_TIMEOUT_S = 30.0
"""Seconds for a program that is asked for its version or the like, on the slowest device."""


class Scene(NamedTuple):
    socket: Path
    is_system: bool
    """Whether it is the system's daemon, and not one that a user runs."""
    unit: Mapping[str, str]
    """Properties of its unit; none for a user's daemon, or where systemd does not run the machine."""
    environ: Mapping[str, str]
    """Its environment, as far as it matters here."""
    caller: Mapping[str, str]
    """The environment of whoever asks."""
    answer: DaemonStatus | WeftError
    """What the daemon says of itself, or why it does not."""
    answer_seconds: float

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        socket = socket_path(environ)
        # First of all: where systemd listens on the socket, asking there starts the service.
        began = time.monotonic()
        answer = _ask(socket)
        took = time.monotonic() - began
        # Their names must be known to the daemon, and that is all that is looked at here.
        places = {"STATE_DIRECTORY": str(socket.parent), "RUNTIME_DIRECTORY": str(socket.parent)}
        if not is_system(socket):
            return cls(socket, False, {}, {**places, **environ}, environ, answer, took)
        unit = _unit(environ)
        try:
            words = shlex.split(unit.get("Environment", ""))
        except ValueError:
            words = []
        own = dict(word.split("=", 1) for word in words if "=" in word)
        own = {"PATH": environ.get("PATH", os.defpath), **places, **own}
        return cls(socket, True, unit, own, environ, answer, took)

    @property
    def status(self) -> DaemonStatus | None:
        """What the daemon says of itself, if it does."""
        return self.answer if isinstance(self.answer, DaemonStatus) else None

    def setting(self, key: str, variable: str) -> str | None:
        """A setting of the daemon: from its environment, or else from its file."""
        value = self._setting(key, variable)
        return value if isinstance(value, str) else None

    def is_on(self, key: str, variable: str) -> bool:
        """A setting that is a boolean, and on by default."""
        return str(self._setting(key, variable)).lower() not in ("false", "0", "no", "off")

    def _setting(self, key: str, variable: str) -> object:
        if variable in self.environ:
            return self.environ[variable]
        try:
            value = tomllib.loads(CONFIG_FILE.read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError, RecursionError):
            return None  # the check of the settings says what is wrong with it
        return paths.local(value) if isinstance(value, str) else value

    def program(self, name: str) -> str | None:
        """The path of a program: beside this one, which is installed with it, or where the daemon looks."""
        beside = Path(sys.argv[0]).resolve().parent
        path = os.pathsep.join((str(beside), self.environ.get("PATH", os.defpath), "/usr/sbin"))
        return shutil.which(name, path=path)


class Done(NamedTuple):
    """What a program did; `complaint` is None if it succeeded."""

    output: str
    complaint: str | None


def run(argv: Sequence[str], environ: Mapping[str, str]) -> Done | None:
    """Run a program to its end; None where there is no such program."""
    try:
        done = subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROGRAM_TIMEOUT_S,
            encoding="utf-8", errors="backslashreplace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Done("", f"it does not end within {PROGRAM_TIMEOUT_S:g} s")
    except (OSError, ValueError):  # ValueError: a name with a NUL, as only a daemon that lies has one
        return None
    if done.returncode == 0:
        return Done(done.stdout.strip(), None)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # Without the head of a log line: program, process, level.
    complaint = lines[-1].rpartition("err: ")[2] if lines else f"it ends with status {done.returncode}"
    return Done(done.stdout.strip(), complaint)


def _ask(socket: Path) -> DaemonStatus | WeftError:
    try:
        with DaemonClient(socket, timeout=ANSWER_TIMEOUT_S) as daemon:
            return ask(daemon, QueryStatus(), DaemonStatus)
    except WeftError as error:
        return error


def is_booted() -> bool:
    """Whether systemd runs this machine (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def _unit(environ: Mapping[str, str]) -> dict[str, str]:
    if not is_booted():
        return {}
    names = "LoadState,ActiveState,Result,MainPID,NRestarts,Environment,ControlGroup"
    done = run(["systemctl", "show", f"--property={names}", UNIT], environ)
    lines = done.output.splitlines() if done is not None and done.complaint is None else []
    return dict(line.split("=", 1) for line in lines if "=" in line)
