# SPDX-License-Identifier: Apache-2.0
"""The units as they are installed: what systemd says of them, and what holds inside of them."""

import base64
import json
from collections.abc import Iterator

import pytest

from tests.command.guests import CREATE, OPENED, TEXT, guest, leave_on_error, path_open, put
from tests.packages import APP_ID, manifest
from tests.system.appd import APPD, CRASH, HELLO, TICKER, UNIT, eventually, show
from tests.system.conftest import LAUNCHER
from tests.system.container import Container
from tests.unit.test_units import THRESHOLDS

UNITS = "/opt/weft/src/infra/systemd"
STORE = "/usr/share/weft/apps"
CONTROL = APPD.replace("weft_runtime.appd.main", "weft_runtime.ctl.main")
INSTALL = f"""
cd {UNITS}
install -m 644 -t /usr/lib/systemd/system ./*.service ./*.socket ./*.slice
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

# Runs in place of the runtime: prints what came of each attempt, "done" or the name of an error.
PROBE = """\
#!/usr/bin/python3 -I
import ctypes, errno, json, os, shutil, socket, subprocess, sys
from pathlib import Path

def connect(path):
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(path)

def unshare():
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")

def execute(directory):
    program = shutil.copy("/usr/bin/true", directory)
    subprocess.run([program], check=True)

attempts = {
    "read /etc/shadow": lambda: open("/etc/shadow"),
    "list /home": lambda: os.listdir("/home"),
    "list /root": lambda: os.listdir("/root"),
    "be root": lambda: os.setuid(0),
    "have a network": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "have a netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "talk to the bus": lambda: connect("/run/dbus/system_bus_socket"),
    "talk to systemd": lambda: connect("/run/systemd/private"),
    "make a namespace": unshare,
    "execute in /tmp": lambda: execute("/tmp"),
    "write to data": lambda: Path(DATA, "file").write_text("x"),
    "execute in data": lambda: execute(DATA),
}
for path in PROTECTED:
    attempts[f"write to {path}"] = lambda path=path: Path(path, "x").write_text("x")

def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

result = {what: outcome(attempt) for what, attempt in attempts.items()}
result["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
result["interfaces"] = [line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line]
print(json.dumps(result))
"""
PROTECTED = (
    "/etc", "/etc/weft", "/usr", STORE, "/run", "/run/weft", "/run/systemd/system", "/var", "/var/lib/weft",
    "/var/lib/weft/apps", "/var/cache/weft", "/var/cache/weft/system", "/opt", "/srv",
)  # fmt: skip
REFUSED = ("EROFS", "EACCES")  # by a read-only mount or by the owner, whichever the kernel asks first
HELD = {
    "read /etc/shadow": "EACCES", "list /home": "EACCES", "list /root": "EACCES",
    "be root": "EPERM", "have a network": "EAFNOSUPPORT",
    "have a netlink": "EAFNOSUPPORT", "talk to the bus": "EACCES", "talk to systemd": "EACCES",
    "make a namespace": "EPERM", "execute in /tmp": "EACCES", "write to data": "done",
    "execute in data": "EACCES", "interfaces": ["lo"],
}  # fmt: skip


def service(app_id: str) -> str:
    return f"weft-app@{app_id}.service"


@pytest.fixture(scope="module", autouse=True)
def installed(container: Container) -> None:
    """What the package will do, with the code as it is here."""
    for name, text in {"weft-appd": APPD, "weft-runtime-wasmtime": LAUNCHER, "weftctl": CONTROL}.items():
        container.write(f"/usr/bin/{name}", text, 0o755)
    container.run("sh", "-ec", INSTALL)
    container.run("useradd", "--create-home", "bob")
    install(container, APP_ID, WRITER, "fs:rw:app-data")


def install(container: Container, app_id: str, module: bytes, *capabilities: str) -> None:
    package = f"{STORE}/{app_id}"
    toml = manifest(app_id).replace("[runtime]", f"capabilities = {list(capabilities)}\n[runtime]")
    container.write(f"{package}/ui/index.html", "<!doctype html>")
    container.write(f"{package}/wapp.toml", toml)
    container.write(f"{package}/app.base64", base64.b64encode(module).decode())
    container.run("sh", "-c", f"base64 -d <{package}/app.base64 >{package}/app.wasm")


@pytest.fixture
def app(container: Container) -> Iterator[str]:
    """The service of an app that stays up."""
    unit = service(TICKER)
    container.run("systemctl", "start", unit)
    yield unit
    container.run("systemctl", "stop", unit)


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


def test_systemd_has_no_complaint(container: Container) -> None:
    units = sorted(path for path in container.run("ls", UNITS).stdout.split() if path.startswith("weft-a"))
    units = [unit for unit in units if not unit.endswith(".d")]
    assert len(units) == 5
    paths = [f"/usr/lib/systemd/system/{unit}" for unit in units]
    # Without the manual pages: the container has no man(1) to look for them.
    done = container.run("systemd-analyze", "verify", "--man=no", *paths)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("unit", THRESHOLDS)
def test_a_service_is_hardened(container: Container, unit: str) -> None:
    container.run(
        "systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={THRESHOLDS[unit]}",
        f"/usr/lib/systemd/system/{unit}",
    )  # fmt: skip


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


def write_probe(container: Container, data: str) -> None:
    text = PROBE.replace("DATA", repr(data)).replace("PROTECTED", repr(PROTECTED))
    container.write("/usr/local/bin/probe", text, 0o755)


def result_of_probe(container: Container, *matches: str) -> dict[str, object]:
    """What the probe has printed to the journal."""

    def printed() -> bool:
        texts = [str(entry["MESSAGE"]) for entry in container.journal(*matches)]
        found.extend(text for text in texts if text.startswith("{"))
        return bool(found)

    found: list[str] = []
    eventually(printed)
    result: dict[str, object] = json.loads(found[-1])
    written = {path: result.pop(f"write to {path}") for path in PROTECTED}
    assert [path for path, outcome in written.items() if outcome not in REFUSED] == []
    return result


def test_the_sandbox_of_a_session_holds(container: Container, drop_in: list[str]) -> None:
    drop_in.append(f"/run/systemd/system/{UNIT}.d/probe.conf")
    write_probe(container, "/var/lib/weft/data")
    container.write(drop_in[0], "[Service]\nEnvironment=WEFT_RUNTIME_BIN=/usr/local/bin/probe\n")
    restart(container)
    container.run("weftctl", "launch", "--no-wait", HELLO)
    result = result_of_probe(container, f"WEFT_APP_ID={HELLO}", "WEFT_EVENT=output")
    # Sessions are of the same user as the daemon, and see it and each other.
    assert result.pop("processes") == 2
    assert result == HELD


def test_the_sandbox_of_a_service_holds(container: Container, drop_in: list[str]) -> None:
    unit = service(HELLO)
    drop_in.append(f"/run/systemd/system/{unit}.d/probe.conf")
    write_probe(container, f"/var/lib/weft-apps/{HELLO}")
    container.write(drop_in[0], "[Service]\nType=oneshot\nExecStart=\nExecStart=/usr/local/bin/probe\n")
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "start", unit)
    result = result_of_probe(container, f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout")
    assert result.pop("processes") == 1
    assert result == HELD


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


def test_who_asked_is_known_by_its_own_number(container: Container) -> None:
    uid = container.run("id", "--user", "bob").stdout.strip()
    denied = container.run("weftctl", "launch", TICKER, user="bob", check=False)
    assert denied.returncode == 177
    container.run("usermod", "--append", "--groups=weft", "bob")
    container.run("weftctl", "launch", TICKER, user="bob")
    launched = container.journal("WEFT_EVENT=session-launched", f"WEFT_APP_ID={TICKER}")
    assert str(launched[-1]["MESSAGE"]).startswith(f"launched by uid {uid} ")
    container.run("weftctl", "stop", TICKER)


def test_reload_works_as_the_units_own_user(container: Container) -> None:
    pid, daemon = launch(container, TICKER), show(container, "MainPID")
    container.run("systemctl", "reload", UNIT)
    assert show(container, "MainPID") == daemon
    assert container.run("test", "-d", f"/proc/{pid}", check=False).returncode == 0
    (reloaded,) = container.journal("WEFT_EVENT=reloaded")
    assert reloaded["MESSAGE"] == "reloaded, 1 sessions live on"
    container.run("weftctl", "stop", TICKER)


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


def test_an_app_is_a_service(container: Container, app: str) -> None:
    assert show(container, "ActiveState", app) == "active"
    assert show(container, "StatusText", app) == "the app is running"
    assert show(container, "ControlGroup", app) == f"/weft.slice/weft-apps.slice/{app}"
    found = container.journal(f"_SYSTEMD_INVOCATION_ID={show(container, 'InvocationID', app)}")
    own = [entry for entry in found if entry["SYSLOG_IDENTIFIER"] == "weft-runtime"]
    assert [entry["WEFT_EVENT"] for entry in own] == ["starting", "loaded", "ready"]
    assert not [entry for entry in found if "WEFT_SESSION_ID" in entry or entry["WEFT_APP_ID"] != TICKER]
    output = [entry for entry in found if entry["SYSLOG_IDENTIFIER"] == TICKER]
    assert output[0]["MESSAGE"] == "READY"


def test_a_service_that_is_stopped_has_not_failed(container: Container, app: str) -> None:
    container.run("systemctl", "stop", app)
    assert show(container, "ActiveState", app) == "inactive"
    assert show(container, "Result", app) == "success"


def test_the_data_of_a_service_is_its_state_directory(container: Container) -> None:
    unit = service(APP_ID)
    container.run("systemctl", "start", unit)
    path = f"/var/lib/weft-apps/{APP_ID}/file"
    eventually(lambda: container.run("cat", path, check=False).stdout == "by the app")
    container.run("systemctl", "stop", unit)
    container.run("systemctl", "clean", "--what=state", unit)
    assert container.run("test", "-e", path, check=False).returncode


def test_an_app_that_crashes_is_restarted_until_the_limit(container: Container) -> None:
    unit = service(CRASH)
    container.run("systemctl", "start", unit)
    eventually(lambda: show(container, "ActiveState", unit) == "failed")
    assert show(container, "ExecMainStatus", unit) == "134"
    assert show(container, "NRestarts", unit) == "5"
    assert len(container.journal(f"_SYSTEMD_UNIT={unit}", "WEFT_EVENT=trapped")) == 5
    container.run("systemctl", "reset-failed", unit)


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


def test_the_daemon_stops_cleanly_with_sessions(container: Container) -> None:
    restart(container)
    pids = [launch(container, TICKER) for _ in range(3)]
    container.run("systemctl", "stop", UNIT)
    assert show(container, "ActiveState") == "inactive"
    assert show(container, "Result") == "success"
    for pid in pids:
        assert container.run("test", "-d", f"/proc/{pid}", check=False).returncode


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
