# SPDX-License-Identifier: Apache-2.0
"""Where the table is measured: by a daemon in a directory, or as a device has it, installed and hardened."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from bench import app, machine
from bench.appd import SETTINGS, Appd, Client, Daemon
from bench.journal import Journal
from bench.measure import run

PACKAGED_SOCKET = Path("/run/weft/appd.sock")
PACKAGED_STORE = Path("/var/lib/weft/apps")
PACKAGED_ENGINE = "/usr/lib/weft-runtime/vendor"
PACKAGED_CACHE = "/var/cache/weft"
NO_FORK_SERVER = {"WEFT_FORK_SERVER": "false"}
UNIT = "weft-appd.service"
WS_UNIT = "weft-appd-ws.socket"
JOURNAL = "systemd-journald.service"
POLICY = Path("/etc/weft/pack.toml")
TRUSTED = Path("/etc/weft/trusted.d/bench.pub")
LIMITS = ("memory", "cpu", "pids")
DROP_IN = Path(f"/run/systemd/system/{UNIT}.d/bench.conf")


class Place(Protocol):
    """One configuration in which everything is measured."""

    name: str
    import_engine: str
    """Python that imports the engine's binding, the one that the runtime has there."""
    has_units: bool
    """Whether a service manager runs apps there."""

    @property
    def journal_pid(self) -> int | None:
        """The process of the journal that the daemon logs to, if there is one."""

    def policy(self, hello: app.App) -> "Policy | None":
        """Have that package signed, and a policy to be changed; None where the policy is the machine's own."""

    def serve(self, settings: Mapping[str, str] = {}) -> AbstractContextManager[Daemon]:
        """A daemon without a session, as long as the context manager. `settings` are its $WEFT_*."""

    def variants(self) -> Mapping[str, Callable[[], AbstractContextManager[Daemon]]]:
        """Daemons that lack something, by the key of their target."""

    def install(self, package: app.App) -> app.App:
        """Have the daemon find a package; where it is then. Raises BenchError."""

    def describe(self) -> str:
        """What this place is, and which limits a session really has in it."""


class Bare:
    """The daemon of this checkout, started from a directory of its own, beside a journal of its own."""

    name = "bare"
    import_engine = "import wasmtime"
    has_units = False

    def __init__(self, scratch: Path, journal: Journal | None) -> None:
        self._scratch = scratch
        self._journal = journal
        self._count = 0
        self._store = Path(app.scratch_environment(scratch)["WEFT_APP_STORE"])

    @contextmanager
    def serve(self, settings: Mapping[str, str] = {}) -> Iterator[Daemon]:
        self._count += 1
        directory = self._scratch / f"appd-{self._count}"
        ours = {"XDG_CACHE_HOME": os.fspath(self._scratch / "cache"), "WEFT_APPD_WS_PORT": "0"}
        with Appd(
            directory, self._store, machine.runtime_command(), self._journal, {**ours, **settings}
        ) as appd:
            yield appd

    def variants(self) -> Mapping[str, Callable[[], AbstractContextManager[Daemon]]]:
        return {"exec": partial(self.serve, NO_FORK_SERVER)}

    @property
    def journal_pid(self) -> int | None:
        return None if self._journal is None else self._journal.pid

    def policy(self, hello: app.App) -> "Policy | None":
        return None

    def install(self, package: app.App) -> app.App:
        return package  # it is in the store already

    def describe(self) -> str:
        return f"weft-appd from a directory, no limits; journal: {self._journal.what if self._journal else 'none'}"


class Packaged:
    """The Debian package on a booted system, for a program that runs there as root."""

    has_units = True
    import_engine = f"import sys; sys.path.append('{PACKAGED_ENGINE}'); import wasmtime"

    def __init__(self, scratch: Path) -> None:
        codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
        self.name = "packaged" if codename == "bookworm" else f"packaged-{codename}"
        self._environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": os.fspath(scratch)}

    @contextmanager
    def serve(self, settings: Mapping[str, str] = {}) -> Iterator[Daemon]:
        unit = _Unit({**SETTINGS, **settings})
        try:
            yield unit
        finally:
            unit.client.close()

    def variants(self) -> Mapping[str, Callable[[], AbstractContextManager[Daemon]]]:
        return {"exec": partial(self.serve, NO_FORK_SERVER), "noexec": self._serve_noexec}

    @property
    def journal_pid(self) -> int | None:
        return _main_pid(JOURNAL)

    def policy(self, hello: app.App) -> "Policy | None":
        return Policy(hello)

    @contextmanager
    def _serve_noexec(self) -> Iterator[Daemon]:
        run(["mount", "-t", "tmpfs", "-o", "noexec,nosuid,nodev,mode=0755", "tmpfs", PACKAGED_CACHE])
        try:
            with self.serve() as daemon:
                yield daemon
        finally:
            # The daemon has it in a namespace of its own, too.
            run(["systemctl", "stop", UNIT])
            run(["umount", PACKAGED_CACHE])

    def install(self, package: app.App) -> app.App:
        installed = PACKAGED_STORE / package.id
        if not installed.exists():
            run(["weft-pack", "install", os.fspath(package.module.parent)])
        return package._replace(module=installed / package.module.name, environment=self._environment)

    def describe(self) -> str:
        offered = Path("/sys/fs/cgroup/system.slice", UNIT, "cgroup.controllers")
        there = offered.read_text().split() if offered.exists() else []
        held = ", ".join(name for name in LIMITS if name in there)
        lacking = ", ".join(name for name in LIMITS if name not in there)
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
        what = f"the Debian package on {system}: hardened unit, journald, a control group for each session"
        if lacking:
            held = f"{held or 'none'} ({lacking}: this kernel offers no such controller to cgroup v2)"
        return f"{what}; limits of a session: {held}"


class Policy:
    """What the system demands of a package, which is signed by a key that is trusted; in the end as it was before."""

    def __init__(self, package: app.App) -> None:
        """Raises BenchError."""
        self._before = POLICY.read_bytes()
        with tempfile.TemporaryDirectory(prefix="weft-bench-") as scratch:
            key = Path(scratch, "weft-sign.key")
            run(["weft-pack", "generate-key", scratch])
            source = Path(scratch, "package")
            shutil.copytree(package.module.parent, source)
            run(["weft-pack", "sign", f"--key={key}", os.fspath(source)])
            TRUSTED.parent.mkdir(parents=True, exist_ok=True)
            TRUSTED.write_bytes(key.with_suffix(".pub").read_bytes())
            run(["weft-pack", "install", "--force", os.fspath(source)])

    def set(self, *, is_required: bool) -> None:
        POLICY.write_bytes(b'policy = "require"\n' if is_required else self._before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.set(is_required=False)


def _main_pid(unit: str) -> int:
    return int(run(["systemctl", "show", "--property=MainPID", "--value", unit]))


class _Unit:
    """The unit, started anew with some settings in its environment, and a subscribed client."""

    socket = PACKAGED_SOCKET
    port = 7410

    def __init__(self, settings: Mapping[str, str]) -> None:
        """Raises BenchError unless it starts."""
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        lines = (f'Environment="{name}={value}"\n' for name, value in settings.items())
        DROP_IN.write_text(f"[Unit]\nStartLimitIntervalSec=0\n[Service]\n{''.join(lines)}")
        run(["systemctl", "daemon-reload"])
        run(["systemctl", "enable", "--quiet", WS_UNIT])
        run(["systemctl", "restart", UNIT])
        self.pid = _main_pid(UNIT)
        self.client = Client(self.socket)
