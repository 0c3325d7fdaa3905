# SPDX-License-Identifier: Apache-2.0
"""Compiled code on a device: who makes it, when, for whom, and what becomes of it."""

import re
from collections.abc import Iterator

import pytest

from tests.deb import LATER, built_deb
from tests.packages import wat
from tests.system.appd import HELLO, TICKER, UNIT, eventually, show
from tests.system.container import Container
from tests.system.package import (
    OPERATOR_STORE,
    SYSTEM_STORE,
    add_app,
    complaints,
    install,
    launch,
    service,
)

pytestmark = pytest.mark.sessions

CACHE = "/var/cache/weft/system/code"
COMPILE = "weft-compile.service"
BIG, BROKEN, OTHER = "org.example.big", "org.example.broken", "org.example.other"

# As another engine's entries are called: what the name begins with says which one.
OLD_ENGINE = f'cd {CACHE} && for file in *.code; do mv "$file" "0123456789abcdef-${{file#*-}}"; done'

# Of all that runs as the user while a command does, the state in /proc, each time that one is seen.
WATCH = """
"$@" & command=$!
while kill -0 $command 2>/dev/null; do
    for process in $(pgrep --uid weft-compile); do cat /proc/$process/status 2>/dev/null || true; done
done
wait $command
"""

# A package of Debian's kind that brings an app.
DEB = f"""
mkdir -p /root/deb/DEBIAN /root/deb{SYSTEM_STORE}
printf 'Package: other-app\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.org>\\nDescription: x\\n' \\
    >/root/deb/DEBIAN/control
cp -R {SYSTEM_STORE}/{TICKER} /root/deb{SYSTEM_STORE}/{OTHER}
printf '\\0\\2\\1x' >>/root/deb{SYSTEM_STORE}/{OTHER}/app.wasm
dpkg-deb --build /root/deb /root/other.deb
"""


def costly(functions: int) -> bytes:
    """A module that takes a while to compile."""
    body = "(local.set 0 (i64.rotl (i64.mul (local.get 0) (i64.const 3)) (i64.const 7)))" * 60
    return wat(f"(func (local i64) {body})" * functions + '(func (export "_start"))')


def entries(container: Container) -> set[str]:
    """Names of files of compiled code."""
    listed = container.run("find", CACHE, "-name", "*.code", "-printf", "%f\\n", check=False)
    return set(listed.stdout.split())


def digest(container: Container, app_id: str, store: str = SYSTEM_STORE) -> str:
    """What the names of an app's entries end with."""
    return container.run("sha256sum", f"{store}/{app_id}/app.wasm").stdout.split()[0]


def is_compiled(container: Container, app_id: str, store: str = SYSTEM_STORE) -> bool:
    """Whether there is code of an app for the engine that is installed."""
    end = f"-{digest(container, app_id, store)}.code"
    return any(name.endswith(end) and not name.startswith("0123456789abcdef") for name in entries(container))


def has_ended(container: Container) -> bool:
    return show(container, "ActiveState", COMPILE) in ("inactive", "failed")


def loaded(container: Container, app_id: str) -> list[str]:
    """How an app's module came into the process, at each start."""
    found = container.journal("WEFT_EVENT=loaded", f"WEFT_APP_ID={app_id}")
    return [str(entry["MESSAGE"]).partition(": ")[2] for entry in found]


@pytest.fixture(scope="module")
def device(just_installed: Container) -> Container:
    """With a daemon that says more: that a session has loaded compiled code is no news otherwise."""
    device = just_installed
    drop_in = "/etc/systemd/system/weft-appd.service.d/debug.conf"
    device.write(drop_in, "[Service]\nEnvironment=WEFT_LOG_LEVEL=debug\n")
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "restart", UNIT)
    return device


@pytest.fixture
def big(device: Container) -> Iterator[str]:
    """A package that is not installed yet, and takes a second or more to compile."""
    add_app(device, BIG, costly(1500))
    device.run("mv", f"{OPERATOR_STORE}/{BIG}", f"/root/{BIG}")
    yield f"/root/{BIG}"
    device.run("rm", "-rf", f"/root/{BIG}", f"{OPERATOR_STORE}/{BIG}")


def test_the_apps_of_the_package_are_compiled_after_its_installation(device: Container) -> None:
    for app_id in (HELLO, TICKER):
        eventually(lambda app_id=app_id: is_compiled(device, app_id))  # type: ignore[misc]
    eventually(lambda: has_ended(device))
    assert show(device, "Result", COMPILE) == "success"
    kinds = device.run("find", "/var/cache/weft/system", "-printf", "%y %u:%g %m\\n").stdout.splitlines()
    assert set(kinds) == {"d root:root 755", "f root:root 644"}


def test_a_first_launch_loads_what_was_compiled(device: Container) -> None:
    launch(device, TICKER)
    assert [text.partition(f" {SYSTEM_STORE}")[0] for text in loaded(device, TICKER)] == [
        "loaded the compiled code of"
    ]
    device.run("weftctl", "stop", TICKER)


@pytest.mark.once("a service has no daemon")
def test_a_service_loads_it_too(device: Container) -> None:
    device.run("systemctl", "start", service(TICKER))
    assert loaded(device, TICKER)[-1].startswith("loaded the compiled code of ")
    device.run("systemctl", "stop", service(TICKER))


@pytest.mark.once("it launches nothing")
def test_what_runs_the_compiler_for_root_has_no_rights(device: Container, big: str) -> None:
    seen = device.run("sh", "-ec", WATCH, "sh", "weft-pack", "install", big).stdout
    user, group = (
        device.run("id", option, "weft-compile").stdout.strip() for option in ("--user", "--group")
    )
    states = [
        dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.M)) for text in re.split(r"(?m)^(?=Name:)", seen)[1:]
    ]
    # Until it is executed it is still ours, on its way from root.
    states = [state for state in states if state["Name"] != "weft-pack"]
    assert "weft-runtime-wa" in {state["Name"] for state in states}
    for state in states:
        assert state["Uid"].split() == [user] * 4
        assert state["Gid"].split() == [group] * 4
        assert state["Groups"] == ""
        assert state["NoNewPrivs"] == "1"
        assert {state[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
    assert is_compiled(device, BIG, OPERATOR_STORE)
    # What nobody else has goes with the app.
    end = digest(device, BIG, OPERATOR_STORE)
    device.run("weft-pack", "uninstall", BIG)
    assert not [name for name in entries(device) if end in name]


@pytest.mark.once("it launches nothing")
def test_nothing_outlives_the_compiler(device: Container) -> None:
    """As a module might leave it behind that has taken the compiler over, to wait for the next one."""
    identity = ("setpriv", "--reuid=weft-compile", "--regid=weft-compile", "--clear-groups")
    left = device.popen(*identity, "sleep", "infinity")
    eventually(lambda: bool(device.run("pgrep", "--uid", "weft-compile", check=False).stdout))
    device.run("weft-pack", "check", f"{SYSTEM_STORE}/{HELLO}")
    assert left.wait(60) == -9


@pytest.mark.once("it launches nothing")
def test_the_user_can_write_nowhere_near(device: Container) -> None:
    for path in (CACHE, "/run/weft-compile", OPERATOR_STORE):
        done = device.run("touch", f"{path}/file", user="weft-compile", check=False)
        assert "Permission denied" in done.stderr


def test_an_upgrade_compiles_for_the_engine_that_it_brings(device: Container) -> None:
    device.run("sh", "-ec", OLD_ENGINE)
    assert not is_compiled(device, HELLO)
    install(device, built_deb(version=LATER))
    eventually(lambda: is_compiled(device, HELLO) and is_compiled(device, TICKER))
    launch(device, TICKER)
    assert loaded(device, TICKER)[-1].startswith("loaded the compiled code of ")
    device.run("weftctl", "stop", TICKER)


@pytest.mark.once("it launches nothing")
def test_an_app_of_another_package_is_compiled(device: Container) -> None:
    device.run("sh", "-ec", DEB)
    device.run("dpkg", "--install", "/root/other.deb")
    eventually(lambda: is_compiled(device, OTHER))
    device.run("dpkg", "--purge", "other-app")


def test_a_launch_does_not_wait_for_it(device: Container, big: str) -> None:
    device.run("cp", "-R", big, OPERATOR_STORE)
    device.run("sh", "-c", f"rm {CACHE}/*")
    device.run("systemctl", "restart", COMPILE)
    # In the middle of the work, holding whatever it holds.
    eventually(lambda: bool(device.run("pgrep", "--uid", "weft-compile", check=False).stdout))
    device.run("systemctl", "kill", "--signal=STOP", COMPILE)
    assert show(device, "ActiveState", COMPILE) == "active"
    launch(device, TICKER)
    device.run("weftctl", "stop", TICKER)
    assert loaded(device, TICKER)[-1].startswith("compiled ")
    device.run("systemctl", "kill", "--signal=CONT", COMPILE)
    eventually(lambda: has_ended(device))
    assert is_compiled(device, BIG, OPERATOR_STORE)


@pytest.mark.once("it launches nothing")
def test_an_app_that_cannot_be_compiled_is_told_and_does_not_stop_the_others(device: Container) -> None:
    add_app(device, BROKEN, b"\0asm\1\0\0\0\1")
    device.run("sh", "-c", f"rm -f {CACHE}/*")
    device.run("systemctl", "start", COMPILE)
    eventually(lambda: has_ended(device))
    told = [
        str(entry["MESSAGE"])
        for entry in device.journal(f"_SYSTEMD_UNIT={COMPILE}", "SYSLOG_IDENTIFIER=weft-pack")
    ]
    problem = f"weft-pack: {BROKEN}: {OPERATOR_STORE}/{BROKEN}/app.wasm is not a valid module: "
    assert any(text.startswith(problem) for text in told)
    assert is_compiled(device, TICKER)
    assert show(device, "Result", COMPILE) == "success"
    assert device.run("systemctl", "is-system-running").stdout == "running\n"
    device.run("rm", "-r", f"{OPERATOR_STORE}/{BROKEN}")


def test_the_cache_can_be_emptied_as_systemd_does_it(device: Container) -> None:
    device.run("systemctl", "clean", "--what=cache", COMPILE)
    assert entries(device) == set()
    device.run("weft-pack", "compile", "--all")
    assert is_compiled(device, HELLO)
    launch(device, TICKER)
    assert loaded(device, TICKER)[-1].startswith("loaded the compiled code of ")
    device.run("weftctl", "stop", TICKER)


def test_nothing_unexpected_was_logged(device: Container) -> None:
    """The last one: of all that the tests above have brought about, only what they meant to."""
    assert complaints(device) == []
