# SPDX-License-Identifier: Apache-2.0
"""What a process can do that broke out of the engine: a probe in the place of the runtime tries, as a session and as a service."""

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.system.appd import HELLO, SOCKET, UNIT, eventually
from tests.system.container import Container
from tests.system.package import CODE, DAEMON_DATA, OPERATOR_STORE, SYSTEM_STORE, complaints, service

# No marker `sessions`: the probe offers no fork server.
PROBE = "/usr/local/bin/probe"
SECRET = "/etc/key"
OTHER = "/var/lib/private/weft-apps/org.example.other/file"

# Prints what came of each attempt, "done" or the name of the error, and where a new file can be made, found by
# trying it in every directory; each in a line of its own. Nothing that works leaves a trace.
TEXT = f"""\
#!/usr/bin/python3 -I
import ctypes, errno, json, os, shutil, signal, socket, stat, subprocess
from pathlib import Path

def connect(path):
    socket.socket(socket.AF_UNIX).connect(path)

def unshare():
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")

def mount():
    if ctypes.CDLL(None, use_errno=True).mount(b"none", b"/tmp", b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount")

def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def execute(directory):
    program = shutil.copy("/usr/bin/true", os.path.join(directory, "probe"))
    try:
        subprocess.run([program], check=True)
    finally:
        os.unlink(program)

attempts = {{
    "read /etc/shadow": lambda: open("/etc/shadow"),
    "read a secret": lambda: open("{SECRET}"),
    "list /home": lambda: os.listdir("/home"),
    "list /root": lambda: os.listdir("/root"),
    "read the data of a service": lambda: open("{OTHER}"),
    "list the data of sessions": lambda: os.listdir("{DAEMON_DATA}"),
    "be root": lambda: os.setuid(0),
    "kill": lambda: os.kill(1, signal.SIGKILL),
    "mount": mount,
    "make a namespace": unshare,
    "connect": lambda: socket.socket(socket.AF_INET).connect(("127.0.0.1", 7410)),
    "connect by version 6": lambda: socket.socket(socket.AF_INET6).connect(("::1", 7410)),
    "configure the network": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "send packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "talk to the bus": lambda: connect("/run/dbus/system_bus_socket"),
    "talk to systemd": lambda: connect("/run/systemd/private"),
    "talk to weft-appd": lambda: connect("{SOCKET}"),
    "make a device": lambda: os.mknod("/tmp/device", stat.S_IFBLK | 0o600, os.makedev(8, 0)),
}}
print(json.dumps({{what: outcome(attempt) for what, attempt in attempts.items()}}), flush=True)

def write(path):
    Path(path, "probe").touch()
    Path(path, "probe").unlink()

# Also what could be made writable first: an owner may change the mode, where the file system is writable at all.
def can_change(path):
    return outcome(lambda: os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))) == "done"

places, files = [], []
for path, names, others in os.walk("/"):
    names[:] = [name for name in names if os.path.join(path, name) not in ("/proc", "/sys")]
    if outcome(lambda: write(path)) == "done" or can_change(path):
        places.append(path)
    for name in others:
        file = os.path.join(path, name)
        if stat.S_ISREG(os.lstat(file).st_mode) and (os.access(file, os.W_OK) or can_change(file)):
            files.append(file)
print(json.dumps({{
    "places": places,
    "files": files,
    "runnable": [path for path in places if outcome(lambda: execute(path)) == "done"],
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "interfaces": [line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line],
}}), flush=True)
"""

HELD = {
    "read /etc/shadow": "EACCES", "read a secret": "EACCES", "list /home": "EACCES", "list /root": "EACCES",
    "be root": "EPERM", "kill": "EPERM", "mount": "EPERM",
    "make a namespace": "EPERM", "connect": "EAFNOSUPPORT", "connect by version 6": "EAFNOSUPPORT",
    "configure the network": "EAFNOSUPPORT", "send packets": "EAFNOSUPPORT", "talk to the bus": "EACCES",
    "talk to systemd": "EACCES", "make a device": "EPERM",
}  # fmt: skip
EMPTY = {"/dev/mqueue", "/dev/shm", "/tmp", "/var/tmp"}  # the unit's own, gone with it
CODE_CACHE = {"/var/cache/weft/appd/code"}  # made with the first entry
OWN = {"/run/weft-appd", "/var/cache/weft/appd", "/var/lib/weft/appd", DAEMON_DATA}
TRUSTED = (
    OPERATOR_STORE,
    SYSTEM_STORE,
    "/var/cache/weft/system",
    "/etc/weft/appd.toml",
    CODE,
    "/usr/bin/weft-appd",
)


@pytest.fixture(scope="module", autouse=True)
def probe(device: Container) -> None:
    device.write(PROBE, TEXT, 0o755)
    device.write(SECRET, "for root alone", 0o600)
    device.run("install", "-d", "--mode=700", "/var/lib/private/weft-apps")
    device.write(OTHER, "for that app alone")
    device.run("useradd", "--create-home", "bob")


@pytest.fixture
def session(device: Container) -> Iterator[None]:
    """The daemon starts the probe as its runtime, and does not ask it for a fork server: it is of another release."""
    yield from dropped_in(device, UNIT, f"Environment=WEFT_RUNTIME_BIN={PROBE}")


@pytest.fixture
def unit(device: Container) -> Iterator[str]:
    """A service that runs the probe."""
    name = service(HELLO)
    for _ in dropped_in(device, name, f"Type=oneshot\nExecStart=\nExecStart={PROBE}"):
        yield name


def dropped_in(container: Container, unit: str, lines: str) -> Iterator[None]:
    path = f"/run/systemd/system/{unit}.d/probe.conf"
    container.write(path, f"[Service]\n{lines}\n")
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "try-restart", unit)
    yield
    container.run("rm", path)
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "try-restart", unit)


def results(container: Container, *matches: str) -> dict[str, Any]:
    """What the probe has printed to the journal."""

    def printed() -> bool:
        texts = [str(entry["MESSAGE"]) for entry in container.journal(*matches)]
        found[:] = [json.loads(text) for text in texts if text.startswith("{")]
        return len(found) == 2

    found: list[dict[str, Any]] = []
    eventually(printed)
    return {"attempts": found[0], **found[1]}


def test_a_session_is_held(device: Container, session: None) -> None:
    device.run("weftctl", "launch", "--no-wait", HELLO)
    result = results(device, f"WEFT_APP_ID={HELLO}", "WEFT_EVENT=output")
    # Sessions have the user of the daemon: its data is theirs, and it is all that they can change.
    own = {
        "read the data of a service": "EACCES",
        "list the data of sessions": "done",
        "talk to weft-appd": "done",
    }
    assert result.pop("attempts") == HELD | own
    places = {path for path in result.pop("places") if not path.startswith(f"{DAEMON_DATA}/")}
    assert places - EMPTY - CODE_CACHE == OWN
    assert not [path for path in result.pop("files") if not path.startswith(tuple(OWN))]
    # The cache is for compiled code; the processes are the daemon and the probe.
    result["runnable"] = [path for path in result["runnable"] if path not in CODE_CACHE]
    assert result == {"runnable": ["/var/cache/weft/appd"], "processes": 2, "interfaces": ["lo"]}


def test_a_service_is_held(device: Container, unit: str) -> None:
    device.run("systemctl", "start", unit)
    result = results(device, f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout")
    cache = f"/var/cache/private/weft-apps/{HELLO}"
    own = {
        "read the data of a service": "ENOENT",
        "list the data of sessions": "EACCES",
        "talk to weft-appd": "EACCES",
    }
    assert result.pop("attempts") == HELD | own
    assert {*result.pop("places")} - EMPTY == {f"/var/lib/private/weft-apps/{HELLO}", cache}
    assert result == {"files": [], "runnable": [cache], "processes": 1, "interfaces": ["lo"]}


def test_the_user_of_the_daemon_can_replace_nothing_that_root_trusts(device: Container) -> None:
    """Without any sandbox, by the rights of the files alone."""
    _, printed = device.run(PROBE, user="weft").stdout.splitlines()
    result = json.loads(printed)
    places = {path for path in result["places"] if not path.startswith((DAEMON_DATA, "/tmp/", "/var/tmp/"))}
    assert places - EMPTY - CODE_CACHE - {"/run/lock"} == OWN - {DAEMON_DATA}
    assert not [path for path in result["files"] if not path.startswith((*OWN, "/tmp/", "/var/tmp/"))]
    # What root trusts and all above it is root's alone.
    for path in map(PurePosixPath, TRUSTED):
        owners = device.run("stat", "--format=%U %A", *map(str, [path, *path.parents])).stdout.splitlines()
        assert [line for line in owners if not re.fullmatch("root ....[r-]-.[r-]-.", line)] == []
        inside = ("!", "-type", "l", "(", "!", "-user", "root", "-o", "-perm", "/022", ")")
        assert device.run("find", str(path), *inside).stdout == ""


def test_nothing_unexpected_was_logged(device: Container) -> None:
    """The last one: of all that the tests above have brought about, only what they meant to."""
    # The probe says no READY.
    assert complaints(device, "ended with status 0 after ") == []
