# SPDX-License-Identifier: Apache-2.0
"""The Debian package on a booted release: installed offline, asked by its own commands, with nothing bound in."""

import base64
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.deb import CACHE, ROOT, built_deb
from tests.packages import manifest
from tests.system.appd import UNIT, eventually, set_fork_server, show
from tests.system.container import Container, Suite, make_root

IMAGES = ROOT / ".cache" / "installed"
KEPT = 2
"""Images of a release; the oldest go."""

PACKAGE = "weft-runtime"
COMPILER = "weft-compile.service"
CODE = "/usr/lib/weft-runtime"
SYSTEM_STORE, OPERATOR_STORE = "/usr/share/weft/apps", "/var/lib/weft/apps"
DAEMON_DATA, SERVICE_DATA = "/var/lib/weft/data", "/var/lib/private/weft-apps"

_DEBS, _EXAMPLES = Path("/opt/debs"), Path("/opt/examples")
_BINDS = {CACHE: _DEBS, ROOT / "examples": _EXAMPLES}
_APT = {"DEBIAN_FRONTEND": "noninteractive"}


@contextmanager
def booted(suite: Suite) -> Iterator[Container]:
    """Boot a release that sees packages to install, and the examples, of which one is not in the package."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with Container(suite, binds=_BINDS) as container:
        set_fork_server(container)
        yield container


@contextmanager
def device(suite: Suite, binds: Mapping[Path, Path] | None = None) -> Iterator[Container]:
    """Boot a release on which the package was installed before, and the apps of the package were compiled."""
    with Container(
        suite, binds={**_BINDS, **(binds or {})}, root=installed(suite, built_deb())
    ) as container:
        if set_fork_server(container):
            container.run("systemctl", "daemon-reload")
            container.run("systemctl", "restart", UNIT)
        yield container


def installed(suite: Suite, deb: Path) -> Path:
    """Return the disks of a release with the package, made once and kept; nothing may write to them."""
    root = make_root(suite)
    image = IMAGES / f"{root.name}-{deb.parent.name}"
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (IMAGES / f".{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.is_dir():
            old = sorted(IMAGES.glob(f"{suite}-*"), key=lambda path: path.stat().st_mtime)[: 1 - KEPT]
            unfinished = IMAGES / f"unfinished-{suite}"
            subprocess.run(["rm", "-rf", "--one-file-system", unfinished, *old], check=True)
            with booted(suite) as container:
                install(container, deb)
                container.run("systemctl", "start", COMPILER)
                eventually(lambda: show(container, "ActiveState", COMPILER) == "inactive")
                container.save(unfinished)
            unfinished.rename(image)
        os.utime(image)
    return image


def install(container: Container, deb: Path, *options: str) -> str:
    """As an operator does, and without a network; returns what that printed."""
    return apt(container, "install", *options, str(_DEBS / deb.relative_to(CACHE)))


def apt(container: Container, *argv: str) -> str:
    done = container.run("apt-get", "--yes", *argv, env=_APT)
    return done.stdout + done.stderr


def add_crash(container: Container) -> None:
    """The example that traps, as the operator's own app."""
    container.run("cp", "-R", str(_EXAMPLES / "crash"), f"{OPERATOR_STORE}/org.weft.examples.crash")


def add_app(container: Container, app_id: str, module: bytes, *capabilities: str) -> None:
    """An app made for a test, as the operator's own."""
    package = f"{OPERATOR_STORE}/{app_id}"
    toml = manifest(app_id).replace("[runtime]", f"capabilities = {json.dumps(capabilities)}\n[runtime]")
    container.write(f"{package}/ui/index.html", "<!doctype html>")
    container.write(f"{package}/wapp.toml", toml)
    text = base64.b64encode(module).decode()
    container.run("sh", "-c", f"base64 --decode >{package}/app.wasm", input=text)


def launch(container: Container, app_id: str) -> dict[str, Any]:
    """Launch an app, wait until it is ready, and return its session."""
    session: dict[str, Any] = json.loads(container.run("weftctl", "launch", "--json", app_id).stdout)
    assert session["state"] == "running"
    return session


def sessions(container: Container) -> list[dict[str, Any]]:
    """Those that live."""
    listed: list[dict[str, Any]] = json.loads(container.run("weftctl", "list", "--json").stdout)
    return [item for item in listed if item["kind"] == "session"]


def until_running(container: Container, *app_ids: str) -> list[dict[str, Any]]:
    """Wait until exactly these run, and return their sessions."""

    def reached() -> bool:
        found[:] = sessions(container)
        running = [session["app_id"] for session in found if session["state"] == "running"]
        return len(running) == len(found) and sorted(running) == sorted(app_ids)

    found: list[dict[str, Any]] = []
    eventually(reached)
    return found


def processes(container: Container, user: str = "weft") -> set[int]:
    """All of a user, but for the fork server and what waits for a session."""

    def numbers(*options: str) -> set[int]:
        return set(map(int, container.run("pgrep", "--uid", user, *options, check=False).stdout.split()))

    return numbers() - numbers("--full", "--", r"--fork-server|\(spare\)")


def service(app_id: str) -> str:
    return f"weft-app@{app_id}.service"


# Of a fork server that did not answer within its half second, for which there need not be a fault: other tests keep
# all CPUs busy meanwhile, and the sessions are executed.
_BY_LOAD = (
    "cannot fork a session, executing the runtime instead: timed out",
    "is gone, starting another: it ended by SIGKILL; until then each session executes it",
)


def complaints(container: Container, *meant: str) -> list[str]:
    """Lines that no test meant: of ours at a warning or worse, of systemd about our units, any traceback.

    What apps themselves write to standard error is none: it is their output.
    """
    found = []
    for entry in container.journal():
        message = str(entry.get("MESSAGE", ""))
        ours = str(entry.get("SYSLOG_IDENTIFIER")).startswith("weft")
        ours = ours or (entry.get("_PID") == "1" and ("weft" in message or "weft" in str(entry.get("UNIT"))))
        bad = int(str(entry.get("PRIORITY", 6))) <= 4
        if ("Traceback" in message or (ours and bad)) and not any(
            part in message for part in (*meant, *_BY_LOAD)
        ):
            found.append(f"{entry.get('SYSLOG_IDENTIFIER')}: {message}")
    return found
