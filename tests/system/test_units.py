# SPDX-License-Identifier: Apache-2.0
"""The units as they are installed: what systemd says of them, and what holds inside of them."""

import base64
import json
from collections.abc import Iterator

import pytest

from tests.command.guests import CREATE, OPENED, TEXT, guest, leave_on_error, path_open, put
from tests.packages import APP_ID, manifest
from tests.system.appd import APPD, TICKER, UNIT, eventually, show
from tests.system.conftest import LAUNCHER
from tests.system.container import Container
from tests.unit.test_units import THRESHOLDS

pytestmark = pytest.mark.sessions

UNITS = "/opt/weft/src/infra/systemd"
STORE = "/usr/share/weft/apps"
CONTROL = APPD.replace("weft_runtime.appd.main", "weft_runtime.ctl.main")
PACK = APPD.replace("weft_runtime.appd.main", "weft_runtime.pack.main")
INSTALL = f"""
cd {UNITS}
install -m 644 -t /usr/lib/systemd/system ./*.service ./*.socket ./*.path ./*.slice
install -D -m 755 -t /usr/lib/weft-runtime ../libexec/*
install -m 644 -t /usr/lib/sysusers.d sysusers.d/*
install -m 644 -t /usr/lib/tmpfiles.d tmpfiles.d/*
install -D -m 644 ../appd.toml /etc/weft/appd.toml
mkdir -p {STORE}
for app in hello ticker crash; do cp -r /opt/weft/src/examples/$app {STORE}/org.weft.examples.$app; done
systemd-sysusers
systemd-tmpfiles --create
systemctl daemon-reload
systemctl enable --now --quiet {UNIT}
"""

# Writes "by the app" to a file in its data, then goes on for ever.
WRITER = guest(
    leave_on_error(path_open("file", write=True, flags=CREATE))
    + put("by the app")
    + leave_on_error(f"(call $write {OPENED} (i32.const {TEXT}) (i32.const 10))")
    + "(loop $forever (br $forever))"
)


def service(app_id: str) -> str:
    return f"weft-app@{app_id}.service"


@pytest.fixture(scope="module", autouse=True)
def installed(container: Container) -> None:
    """What the package will do, with the code as it is here."""
    programs = {"weft-appd": APPD, "weft-pack": PACK, "weft-runtime-wasmtime": LAUNCHER, "weftctl": CONTROL}
    for name, text in programs.items():
        container.write(f"/usr/bin/{name}", text, 0o755)
    container.run("sh", "-ec", INSTALL)
    install(container, APP_ID, WRITER, "fs:rw:app-data")


def install(container: Container, app_id: str, module: bytes, *capabilities: str) -> None:
    package = f"{STORE}/{app_id}"
    toml = manifest(app_id).replace("[runtime]", f"capabilities = {list(capabilities)}\n[runtime]")
    container.write(f"{package}/ui/index.html", "<!doctype html>")
    container.write(f"{package}/wapp.toml", toml)
    container.write(f"{package}/app.base64", base64.b64encode(module).decode())
    container.run("sh", "-c", f"base64 -d <{package}/app.base64 >{package}/app.wasm")


@pytest.fixture
def drop_in(container: Container) -> Iterator[list[str]]:
    """Paths of drop-ins that a test makes."""
    paths: list[str] = []
    yield paths
    container.run("rm", "-f", *paths)
    restart(container)


def restart(container: Container) -> None:
    """Restart the daemon as the units are now; the start limit is for daemons that fail."""
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "reset-failed", UNIT)
    container.run("systemctl", "restart", UNIT)


def launch(container: Container, app_id: str) -> int:
    """Launch an app, wait until it is ready, and return its process."""
    number = container.run("weftctl", "launch", app_id).stdout.strip()
    return int(json.loads(container.run("weftctl", "status", number, "--json").stdout)["pid"])


@pytest.mark.once("it launches nothing")
def test_systemd_has_no_complaint(container: Container) -> None:
    units = sorted(path for path in container.run("ls", UNITS).stdout.split() if path.startswith("weft-"))
    units = [unit for unit in units if not unit.endswith(".d")]
    assert len(units) == 8
    paths = [f"/usr/lib/systemd/system/{unit}" for unit in units]
    # Without the manual pages: the container has no man(1) to look for them.
    done = container.run("systemd-analyze", "verify", "--man=no", *paths)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.once("it launches nothing")
@pytest.mark.parametrize("unit", THRESHOLDS)
def test_a_service_is_hardened(container: Container, unit: str) -> None:
    container.run(
        "systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={THRESHOLDS[unit]}",
        f"/usr/lib/systemd/system/{unit}",
    )  # fmt: skip


@pytest.mark.once("it launches nothing")
def test_directories_belong_to_who_writes_there(container: Container) -> None:
    owners = {
        "/run/weft": "root:root 755", "/run/weft/appd.sock": "root:weft 660", "/run/weft-appd": "weft:weft 755",
        "/var/lib/weft": "root:root 755", "/var/lib/weft/apps": "root:root 755",
        "/var/lib/weft/appd": "weft:weft 700", "/var/lib/weft/data": "weft:weft 700",
        "/var/cache/weft": "root:root 755", "/var/cache/weft/system": "root:root 755",
        "/var/cache/weft/appd": "weft:weft 700",
    }  # fmt: skip
    found = container.run("stat", "--format=%n %U:%G %a", *owners).stdout.splitlines()
    assert found == [f"{path} {owner}" for path, owner in owners.items()]


def test_the_daemon_may_only_write_to_its_own_control_group(container: Container) -> None:
    group = f"/sys/fs/cgroup{show(container, 'ControlGroup')}"
    pid = launch(container, TICKER)
    assert f"{UNIT}/session-" in container.run("cat", f"/proc/{pid}/cgroup").stdout
    container.run("weftctl", "stop", TICKER)
    inside = ("nsenter", f"--target={show(container, 'MainPID')}", "--mount")
    weft = ("setpriv", "--reuid=weft", "--regid=weft", "--clear-groups")
    container.run(*inside, *weft, "mkdir", f"{group}/below")
    container.run(*inside, *weft, "rmdir", f"{group}/below")
    assert container.run(*inside, *weft, "mkdir", f"{group}/../beside", check=False).returncode


@pytest.mark.once("it launches nothing")
def test_the_websocket_is_there_when_it_is_enabled(container: Container) -> None:
    def doors() -> str:
        restart(container)
        return str(container.journal("WEFT_EVENT=daemon-ready")[-1]["MESSAGE"])

    assert "127.0.0.1" not in doors()
    # As the unit says: systemd opens no socket for a service that runs.
    container.run("systemctl", "enable", "--quiet", "weft-appd-ws.socket")
    assert " serves /run/weft/appd.sock and 127.0.0.1:7410, " in doors()
    assert container.run("stat", "--format=%a", "/run/weft-appd/appd.wsport").stdout == "644\n"
    # Out of a network of its own: the socket is of that of systemd.
    connect = (
        "import socket; socket.create_connection(('127.0.0.1', 7410)).sendall(b'GET / HTTP/1.1\\r\\n\\r\\n')"
    )
    container.run("python3", "-c", connect)
    container.run("systemctl", "disable", "--quiet", "--now", "weft-appd-ws.socket")
    assert "127.0.0.1" not in doors()
    assert container.run("python3", "-c", connect, check=False).returncode


@pytest.mark.once("a service has no daemon")
def test_the_data_of_a_service_is_its_state_directory(container: Container) -> None:
    unit = service(APP_ID)
    container.run("systemctl", "start", unit)
    path = f"/var/lib/weft-apps/{APP_ID}/file"
    eventually(lambda: container.run("cat", path, check=False).stdout == "by the app")
    container.run("systemctl", "stop", unit)
    container.run("systemctl", "clean", "--what=state", unit)
    assert container.run("test", "-e", path, check=False).returncode


@pytest.mark.once("a service has no daemon")
@pytest.mark.parametrize(
    ("app_id", "status"),
    [("org.example.nowhere", "166"), ("nonsense", "164"), ("org.example.greedy", "177")],
)
def test_what_a_restart_cannot_cure_fails_once(container: Container, app_id: str, status: str) -> None:
    install(container, "org.example.greedy", WRITER, "fs:rw:everything")
    unit = service(app_id)
    assert container.run("systemctl", "start", unit, check=False).returncode
    assert show(container, "ActiveState", unit) == "failed"
    assert show(container, "ExecMainStatus", unit) == status
    assert show(container, "NRestarts", unit) == "0"
    container.run("systemctl", "reset-failed", unit)


@pytest.mark.parametrize("engine", ["pulley", "native"])
def test_without_executable_memory_only_the_interpreter_runs(
    container: Container, drop_in: list[str], engine: str
) -> None:
    example = container.run("cat", f"{UNITS}/weft-app@.service.d/pulley.conf.example").stdout
    drop_in += [f"/run/systemd/system/{name}.d/pulley.conf" for name in ("weft-app@.service", UNIT)]
    for path in drop_in:
        container.write(path, example.replace("WEFT_ENGINE=pulley", f"WEFT_ENGINE={engine}"))
    restart(container)
    unit = service(TICKER)
    served = container.run("systemctl", "start", unit, check=False).returncode
    launched = container.run("weftctl", "launch", TICKER, check=False).returncode
    if engine == "pulley":
        assert (served, launched) == (0, 0)
        loaded = container.journal("WEFT_EVENT=loaded", f"WEFT_APP_ID={TICKER}")[-2:]
        assert all(f"{TICKER}/app.wasm for pulley in " in str(entry["MESSAGE"]) for entry in loaded)
        container.run("systemctl", "stop", unit)
        container.run("weftctl", "stop", TICKER)
    else:
        assert served
        assert launched
        assert show(container, "ExecMainStatus", unit) == "177"
        (failure, _) = container.journal("WEFT_EVENT=failed", f"WEFT_APP_ID={TICKER}")
        assert "WEFT_ENGINE=pulley does without" in str(failure["MESSAGE"])
        container.run("systemctl", "reset-failed", unit)


def test_nothing_unexpected_was_logged(container: Container) -> None:
    """The last one: of all that the tests above have brought about, only what they meant to."""
    found = [
        entry
        for entry in container.journal("PRIORITY=0", "PRIORITY=1", "PRIORITY=2", "PRIORITY=3")
        if str(entry["SYSLOG_IDENTIFIER"]).startswith("weft-")
    ]
    meant = (
        "the app trapped in _start", "not found in any package store", "is not an app id",
        "unknown capability", "compiled code may not be executed here",
    )  # fmt: skip
    assert [
        message
        for message in (str(entry["MESSAGE"]) for entry in found)
        if not any(part in message for part in meant)
    ] == []
