# SPDX-License-Identifier: Apache-2.0
"""weft-pack of the installed package: as root, as the daemon's user, and as somebody else."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deb import ROOT
from tests.system import package
from tests.system.container import Container, Suite

pytestmark = pytest.mark.sessions

APP = "org.weft.examples.ticker"
STORE = f"/var/lib/weft/apps/{APP}"
KEY, TRUSTED = "/root/keys/weft-sign.key", "/etc/weft/trusted.d/vendor.pub"
SOURCE = "/root/ticker"
DEADLINE_S = 60
POLL_S = 0.1


@pytest.fixture(scope="module")
def device(suite: Suite) -> Iterator[Container]:
    """A device with the package installed, a source to install from, and a user of nothing."""
    with package.device(suite, {ROOT: Path("/opt/src")}) as container:
        container.run("useradd", "--create-home", "alice")
        container.run("cp", "-r", "/opt/src/examples/ticker", SOURCE)
        container.run("mkdir", "/root/keys", "/etc/weft/trusted.d")
        container.run("weft-pack", "generate-key", "/root/keys")
        yield container


@pytest.fixture(autouse=True)
def as_new(device: Container) -> None:
    """Nothing is installed, nothing trusted, and the policy is the default."""
    device.run("weftctl", "stop", APP, check=False)
    device.run("sh", "-c", "rm -rf /var/lib/weft/apps/* /var/lib/weft/apps/.[!.]* /var/cache/weft/system/*")
    device.run("rm", "-rf", TRUSTED, f"{SOURCE}/signature.sig", "/home/alice/.local")
    device.run("cp", "/opt/src/infra/pack.toml", "/etc/weft/pack.toml")


def require_signatures(device: Container) -> None:
    device.run("sh", "-c", "echo 'policy = \"require\"' >/etc/weft/pack.toml")


def trust_and_sign(device: Container) -> None:
    device.run("weft-pack", "sign", SOURCE, "--key", KEY)
    device.run("cp", "/root/keys/weft-sign.pub", TRUSTED)


def stderr_of(device: Container, *command: str, user: str | None = None, home: str = "/root") -> str:
    """What a command says that must fail."""
    done = device.run(*command, user=user, env={"HOME": home}, check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr


def reason_of(device: Container, session: int) -> str:
    """Why a session has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        shown = json.loads(device.run("weftctl", "list", "--all", "--json").stdout)
        found = next(entry for entry in shown if entry["session_id"] == session)
        if found["state"] == "stopped":
            return str(found["reason"])
        assert time.monotonic() < deadline, found
        time.sleep(POLL_S)


@pytest.mark.once("it launches nothing")
@pytest.mark.parametrize("user", ["root", "weft", "alice"])
def test_everybody_can_check_and_run_a_package(user: str, device: Container) -> None:
    device.run("sh", "-c", "rm -rf /tmp/hello && cp -r /opt/src/examples/hello /tmp/hello")
    env = {"HOME": "/nonexistent"}
    done = device.run("weft-pack", "check", "/tmp/hello", user=user, env=env)
    # Without a note: the engine was there, and was asked.
    assert (done.stdout, done.stderr) == ("OK\n", "")
    assert device.run("weft-pack", "info", "/tmp/hello", user=user).stdout.startswith("id:      org.weft.")
    done = device.run("weft-pack", "run", "/tmp/hello", "--", "--log-level", "err", user=user, env=env)
    assert done.stdout.startswith("READY\n")
    assert done.stderr == ""
    device.run("cp", "/bin/true", "/tmp/hello/app.wasm")
    complaint = stderr_of(device, "weft-pack", "check", "/tmp/hello", user=user)
    assert complaint.startswith(
        "app.wasm:0x0: is a program, library or object file of Linux (ELF), not a Web"
    )


def test_root_installs_for_the_daemon_and_a_running_app_is_not_disturbed(device: Container) -> None:
    done = device.run("weft-pack", "install", SOURCE)
    assert done.stdout == f"installed {APP} -> {STORE}\n"
    launched = json.loads(device.run("weftctl", "launch", APP, "--json").stdout)
    device.run("weft-pack", "install", SOURCE)
    assert "running" in device.run("weftctl", "list").stdout
    assert f"{APP} is running: session {launched['session_id']} [" in stderr_of(
        device, "weft-pack", "uninstall", APP
    )
    device.run("weft-pack", "uninstall", APP, "--force")
    assert "running" in device.run("weftctl", "list").stdout
    device.run("weftctl", "stop", APP)
    assert device.run("ls", "-A", "/var/lib/weft/apps").stdout in ("", ".lock\n")


@pytest.mark.once("it launches nothing")
def test_a_user_installs_for_itself(device: Container) -> None:
    device.run("cp", "-r", SOURCE, "/home/alice/source")
    device.run("chown", "-R", "alice", "/home/alice/source")
    env = {"HOME": "/home/alice"}
    done = device.run("weft-pack", "install", "/home/alice/source", user="alice", env=env)
    assert done.stdout == f"installed {APP} -> /home/alice/.local/share/weft/apps/{APP}\n"
    assert "the weft-appd of the system does not look there" in done.stderr
    assert device.run("ls", "-A", "/var/lib/weft/apps").stdout in ("", ".lock\n")
    device.run("rm", "-rf", "/home/alice/source")


@pytest.mark.once("it launches nothing")
@pytest.mark.parametrize("user", ["weft", "alice"])
def test_nobody_else_can_replace_what_root_trusts(user: str, device: Container) -> None:
    device.run("weft-pack", "install", SOURCE)
    device.run("cp", "-r", SOURCE, "/tmp/source")
    env = {"WEFT_APP_STORE": "/var/lib/weft/apps"}
    for command in (("install", "/tmp/source"), ("uninstall", APP), ("install", "--rollback", APP)):
        done = device.run("weft-pack", *command, user=user, env=env, check=False)
        assert done.returncode == 1
        assert "cannot write to the package store '/var/lib/weft/apps': Permission denied" in done.stderr
    for command in (
        ("touch", f"{STORE}/app.wasm"), ("mv", STORE, f"{STORE}.x"), ("cat", "/var/lib/weft/apps/.lock"),
        ("touch", "/etc/weft/trusted.d/mine.pub"), ("touch", "/etc/weft/pack.toml"),
        ("touch", "/var/cache/weft/system/verified"),
    ):  # fmt: skip
        assert "Permission denied" in stderr_of(device, *command, user=user)
    device.run("rm", "-rf", "/tmp/source")


def test_only_what_is_trusted_is_installed_and_starts_where_that_is_required(device: Container) -> None:
    device.run("weft-pack", "install", SOURCE)
    require_signatures(device)
    assert f"{APP} is not signed" in stderr_of(device, "weft-pack", "install", SOURCE)
    # Installed before the policy was made.
    refused = json.loads(device.run("weftctl", "launch", APP, "--no-wait", "--json").stdout)["session_id"]
    assert "is not signed" in reason_of(device, refused)
    trust_and_sign(device)
    device.run("weft-pack", "install", SOURCE)
    device.run("weftctl", "launch", APP)
    device.run("weftctl", "stop", APP)
    # The version without signature is still there to go back to, but may not.
    assert "is not signed" in stderr_of(device, "weft-pack", "install", "--rollback", APP)
    device.run("sh", "-c", f"echo >>{STORE}/ui/index.html")
    changed = json.loads(device.run("weftctl", "launch", APP, "--no-wait", "--json").stdout)["session_id"]
    assert "was changed after it was signed" in reason_of(device, changed)
    device.run("weft-pack", "install", SOURCE)
    device.run("rm", TRUSTED)
    revoked = json.loads(device.run("weftctl", "launch", APP, "--no-wait", "--json").stdout)["session_id"]
    assert "no key is trusted here" in reason_of(device, revoked)


@pytest.mark.once("a service has no daemon")
def test_what_root_has_verified_is_believed_by_the_sandbox(device: Container) -> None:
    trust_and_sign(device)
    require_signatures(device)
    device.run("weft-pack", "install", SOURCE)
    assert len(device.run("ls", "/var/cache/weft/system/verified").stdout.split()) == 1
    device.run("systemctl", "start", f"weft-app@{APP}.service")
    assert f"{APP} is running: weft-app@{APP}.service [" in stderr_of(device, "weft-pack", "uninstall", APP)
    device.run("systemctl", "stop", f"weft-app@{APP}.service")
    device.run("weft-pack", "uninstall", APP, "--purge")
    for root in ("/var/lib/weft-apps", "/var/lib/private/weft-apps"):
        assert device.run("ls", root, check=False).stdout == ""


@pytest.mark.once("it launches nothing")
def test_an_archive_is_bundled_and_installed(device: Container) -> None:
    device.run("weft-pack", "bundle", SOURCE, "--out", "/root")
    device.run("weft-pack", "install", f"/root/{APP}.app.tar.zst")
    device.run("rm", f"/root/{APP}.app.tar.zst")
    assert APP in device.run("weft-pack", "list").stdout
