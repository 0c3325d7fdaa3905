# SPDX-License-Identifier: Apache-2.0
"""The daemon that a doctor looks at: what it says of itself, and what can be known from outside."""

import os
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from weft_runtime import paths, programs
from weft_runtime.account import DYNAMIC_USERS, Account
from weft_runtime.appd import files
from weft_runtime.client import DaemonClient, socket_path
from weft_runtime.ctl.daemon import ask, is_system
from weft_runtime.ctl.finding import Finding, Status, note
from weft_runtime.errors import WeftError
from weft_runtime.programs import APP_UNITS, SOCKET_UNIT, UNIT, WEBSOCKET_UNIT
from weft_runtime.protocol import (
    DaemonSettings,
    DaemonStatus,
    QuerySettings,
    QueryStatus,
    QueryWaiting,
    Waiting,
)
from weft_runtime.settings import SYSTEM_STORES, stores

COMPILE_UNITS = ("weft-compile.service", "weft-compile.path")
JOURNAL_UNIT = "systemd-journald.service"
CONFIG_FILE = Path("/etc/weft/appd.toml")

STATE, DATA = Path("/var/lib/weft/appd"), Path("/var/lib/weft/data")
CACHE, SYSTEM_CACHE = Path("/var/cache/weft/appd"), Path("/var/cache/weft/system")
RUNTIME = Path("/run/weft-appd")
"""The directories of weft-appd.service, and root's cache."""

SERVICE = Account("of a service", DYNAMIC_USERS[-1], DYNAMIC_USERS[-1])
"""Who runs an app as a service: systemd makes the user, who has nothing."""

ANSWER_TIMEOUT_S = 5.0
"""Seconds for the daemon's answer: whoever calls for a doctor may have one that hangs."""

FORK_SERVER_S = 3.0
"""Seconds that a fork server may take until it is there, after a start or a reload: it has the engine to load."""

_POLL_S = 0.2

_PROPERTIES = (
    "LoadState,ActiveState,SubState,Result,MainPID,NRestarts,User,Group,Environment,EnvironmentFiles,ControlGroup,"
    "UnitFileState,NeedDaemonReload,DropInPaths,Listen,SocketMode,SocketGroup,SocketUser,StatusText,ExecMainStatus,"
    "ExecMainCode,ExecMainStartTimestamp"
)


class Scene(NamedTuple):
    socket: Path
    is_system: bool
    """Whether it is the system's daemon, and not one that a user runs."""
    units: Mapping[str, Mapping[str, str]]
    """Properties of the package's units; none for a user's daemon, or where systemd does not run the machine."""
    environ: Mapping[str, str]
    """The daemon's environment, as far as it matters here."""
    caller: Mapping[str, str]
    """The environment of whoever asks."""
    answer: DaemonStatus | WeftError
    """What the daemon says of itself, or why it does not."""
    answer_seconds: float
    running: Mapping[str, str] | None = None
    """The settings that the daemon goes by; None where it does not say."""
    waiting: Waiting | None = None
    """What it has to start again; None where it does not say."""
    account: Account | None = None
    """The user of the system's daemon, from whose point of view all is judged; None where there is none."""

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        socket = socket_path(environ)
        # First of all: where systemd listens on the socket, asking there starts the service.
        began = time.monotonic()
        answer, running, waiting = _ask(socket)
        took = time.monotonic() - began
        if not is_system(socket):
            return cls(socket, False, {}, environ, environ, answer, took, running, waiting)
        names = (UNIT, SOCKET_UNIT, WEBSOCKET_UNIT, *COMPILE_UNITS, APP_UNITS, JOURNAL_UNIT)
        units = programs.show(names, _PROPERTIES, environ)
        unit = units.get(UNIT, {})
        own = {"PATH": programs.default_path(environ), **programs.environment(unit)}
        account = Account.find(unit.get("User") or "weft", unit.get("Group", ""))
        return cls(socket, True, units, own, environ, answer, took, running, waiting, account)

    @property
    def unit(self) -> Mapping[str, str]:
        """Properties of the daemon's unit."""
        return self.units.get(UNIT, {})

    @property
    def status(self) -> DaemonStatus | None:
        """What the daemon says of itself, if it does."""
        return self.answer if isinstance(self.answer, DaemonStatus) else None

    def fork_server(self) -> DaemonStatus | None:
        """What the daemon says of itself once its fork server is up, or has had the time for that."""
        deadline = time.monotonic() + FORK_SERVER_S
        status = self.status
        while status is not None and status.fork_server is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            answer, *_ = _ask(self.socket)
            status = answer if isinstance(answer, DaemonStatus) else None
        return status

    @property
    def is_stopped(self) -> bool:
        """Whether an operator has stopped the daemon: nothing of it has failed, and nothing would start it."""
        states = [self.units.get(name, {}) for name in (UNIT, SOCKET_UNIT, WEBSOCKET_UNIT)]
        return bool(self.unit) and all(
            state.get("ActiveState") == "inactive" and state.get("Result", "success") == "success"
            for state in states if state.get("LoadState") == "loaded"
        )  # fmt: skip

    @property
    def sees_all(self) -> bool:
        """Whether whoever asks can see what the daemon sees."""
        return (
            not self.is_system or os.geteuid() == 0 or (self.account is not None and self.account.is_caller)
        )

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
            value = tomllib.loads(config_text()).get(key)
        except (OSError, ValueError, RecursionError):
            return None  # the check of the settings says what is wrong with it
        return paths.local(value) if isinstance(value, str) else value

    @property
    def stores(self) -> tuple[Path, ...]:
        """The package stores that the daemon looks into."""
        only = self.setting("app_store", "WEFT_APP_STORE")
        if only:
            return (Path(only),)
        return SYSTEM_STORES if self.is_system else stores(self.environ)

    @property
    def data_root(self) -> Path:
        """Where the data of the system's apps is."""
        return Path(self.setting("data_root", "WEFT_DATA_ROOT") or DATA)

    def program(self, name: str) -> str | None:
        """The path of a program: beside this one, which is installed with it, or where the daemon looks."""
        beside = Path(sys.argv[0]).resolve().parent
        path = os.pathsep.join((str(beside), programs.default_path(self.environ), "/usr/sbin"))
        return shutil.which(name, path=path)

    def as_services(self, look: "Callable[[Scene], list[Finding]]", known: list[Finding]) -> list[Finding]:
        """What `look` finds besides `known` as a user that is in no group, as the services of apps are."""
        if (
            not self.is_system
            or os.geteuid() != 0
            or not any(programs.instance(name) is not None for name in self.units)
        ):
            return []
        scene = self._replace(account=SERVICE)
        mends = {finding.mend for finding in known}
        found = [
            item for item in scene.as_daemon(lambda: look(scene)) if item.mend not in mends and item.mend
        ]
        return [item._replace(what=f"for services of apps: {item.what}") for item in found]

    def as_daemon(self, look: Callable[[], list[Finding]]) -> list[Finding]:
        """What `look` finds as the daemon's user, if root asks; as whoever asks else."""
        if self.account is None or not self.is_system:
            return look()
        try:
            return [Finding(Status(status), *rest) for status, *rest in self.account.call(look)]
        except WeftError as error:
            return [note("not all can be known", error.message)]


def config_text() -> str:
    """The settings of the system as they are written. Never waits, whatever has the name. Raises OSError or ValueError."""
    return files.read(CONFIG_FILE, is_ours=False).decode()


def _ask(
    socket: Path,
) -> tuple[DaemonStatus | WeftError, Mapping[str, str] | None, Waiting | None]:
    status: DaemonStatus | None = None
    running, waiting = None, None
    try:
        with DaemonClient(socket, timeout=ANSWER_TIMEOUT_S) as daemon:
            status = ask(daemon, QueryStatus(), DaemonStatus)
            # An older daemon knows the first question only.
            running = dict(ask(daemon, QuerySettings(), DaemonSettings).settings)
            waiting = ask(daemon, QueryWaiting(), Waiting)
    except WeftError as error:
        return (error if status is None else status), running, None
    return status, running, waiting
