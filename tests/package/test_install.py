# SPDX-License-Identifier: Apache-2.0
"""The package on a booted system of each release: its commands, its own tests, upgrade, removal, purge."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deb import LATER, NATIVE, ROOT, built_deb
from tests.package.conftest import Deb
from tests.system import package
from tests.system.container import Container, Suite

TESTS = ROOT / "packaging" / "debian" / "tests"
NAMES = re.findall(r"[\w-]+", " ".join(re.findall(r"^Tests: (.*)$", (TESTS / "control").read_text(), re.M)))
COMMANDS = ("weft-appd", "weft-pack", "weft-runtime", "weft-runtime-wasmtime", "weftctl")
INSIDE, UPGRADE = "/opt/weft-runtime.deb", "/opt/later.deb"
TICKER = "org.weft.examples.ticker"
APP = f"weft-app@{TICKER}.service"
DAEMON = ("weft-appd.service", "weft-appd.socket")

# All that we ever put on a system, but for the package file itself.
FIND = ("find", "/", "-xdev", "-name", "*weft*", "-not", "-path", "/opt/*")

TRAP = "import os\nos.close(os.open('/tmp/trap/sprung', os.O_CREAT))\n"


@pytest.fixture
def machine(suite: Suite, deb: Deb) -> Iterator[Container]:
    """A booted release with the package, for one test alone, and a later version at hand."""
    binds = {deb.path: Path(INSIDE), built_deb(version=LATER): Path(UPGRADE)}
    with Container(suite, binds=binds, root=package.installed(suite, deb.path)) as container:
        yield container


@pytest.mark.parametrize("name", NAMES)
def test_a_test_of_debians_own_passes(installed: Container, name: str) -> None:
    script = f"/opt/tests/{name}"
    installed.write(script, (TESTS / name).read_text(), 0o755)
    place = installed.run("mktemp", "--directory").stdout.strip()
    installed.run(script, env={"AUTOPKGTEST_TMP": place})


def test_the_first_command_of_the_readme_works(installed: Container) -> None:
    readme = installed.run("cat", "/usr/share/doc/weft-runtime/README.Debian").stdout
    command = re.search(r"^    (.*)$", readme, re.M)
    assert command
    assert command[1] == "weftctl launch org.weft.examples.hello"
    done = installed.run(*command[1].split())
    assert done.stdout.strip().isdigit()


def test_the_engine_is_ours_in_the_systems_python(installed: Container) -> None:
    launcher = installed.run("cat", "/usr/bin/weft-runtime-wasmtime").stdout
    path = re.search(r"^sys.path.*$", launcher, re.M)
    assert path
    code = (
        f"import sys; {path[0]}; import wasmtime, websockets; print(wasmtime.__file__, websockets.__file__)"
    )
    printed = installed.run("/usr/bin/python3", "-I", "-c", code).stdout
    vendor = "/usr/lib/weft-runtime/vendor"
    assert printed == f"{vendor}/wasmtime/__init__.py {vendor}/websockets/__init__.py\n"


def test_all_code_is_compiled_for_the_systems_python(installed: Container) -> None:
    tag = installed.run(
        "/usr/bin/python3", "-c", "import sys; print(sys.implementation.cache_tag)"
    ).stdout.strip()
    files = installed.run("find", "/usr/lib/weft-runtime", "-name", "*.py*", "-type", "f").stdout.split()
    sources = {Path(name) for name in files if name.endswith(".py")}
    compiled = {Path(name) for name in files if name.endswith(".pyc")}
    assert compiled == {path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc" for path in sources}


@pytest.mark.parametrize("command", COMMANDS)
def test_nobody_diverts_a_command(installed: Container, command: str) -> None:
    home = "/tmp/trap"
    version = installed.run(
        "/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"
    ).stdout
    for name in ("argparse", "json", "usercustomize", "weft_runtime", "wasmtime", "systemd", "msgpack"):
        installed.write(f"{home}/{name}.py", TRAP)
        installed.write(f"{home}/.local/lib/python{version.strip()}/site-packages/{name}.py", TRAP)
    variables = {"PYTHONPATH": home, "PYTHONSTARTUP": f"{home}/json.py", "PYTHONUSERBASE": f"{home}/.local"}
    variables |= {"HOME": home, "PYTHONINSPECT": "1", "PYTHONHOME": home}

    # The trap works: a program that does not look out for it is caught.
    caught = ("env", "--unset=PYTHONHOME", "/usr/bin/python3", "-c", "import argparse")
    installed.run("env", f"--chdir={home}", *caught, env=variables)
    installed.run("rm", f"{home}/sprung")

    printed = installed.run("env", f"--chdir={home}", command, "--version", env=variables).stdout
    assert printed.startswith(f"{command} ")
    assert installed.run("test", "-e", f"{home}/sprung", check=False).returncode == 1


def test_an_upgrade_keeps_sessions_settings_and_the_daemon(machine: Container) -> None:
    machine.run("sh", "-c", "echo 'max_sessions = 7' >/etc/weft/appd.toml; systemctl reload weft-appd")
    session = machine.run("weftctl", "launch", TICKER).stdout.strip()
    before = _show(machine, "MainPID", "InvocationID"), _process(machine, session)

    done = machine.run("dpkg", "--install", UPGRADE)

    assert done.stderr == ""
    assert (_show(machine, "MainPID", "InvocationID"), _process(machine, session)) == before
    assert machine.run("cat", "/etc/weft/appd.toml").stdout == "max_sessions = 7\n"
    serves = f"weft-appd {LATER} serves"
    # At the boot, and after each reload.
    assert [
        entry for entry in machine.journal("WEFT_EVENT=daemon-ready", at_least=3) if _starts(entry, serves)
    ]
    assert "need daemon-reload" not in machine.run("systemctl", "status", "weft-appd.service").stdout


def test_an_upgrade_that_cannot_reload_says_so_and_leaves_the_daemon(machine: Container) -> None:
    session = machine.run("weftctl", "launch", TICKER).stdout.strip()
    before = _show(machine, "MainPID", "InvocationID"), _process(machine, session)
    # What the next image would refuse to start with.
    machine.run("sh", "-c", "echo 'max_sessions = 0' >/etc/weft/appd.toml")

    done = machine.run("dpkg", "--install", UPGRADE)

    assert done.stderr == (
        "weft-appd goes on with the version before, for it could not reload (see 'journalctl _UID=$(id -u weft)'); "
        "'systemctl restart weft-appd' starts the new one\n"
    )
    assert (_show(machine, "MainPID", "InvocationID"), _process(machine, session)) == before
    assert machine.run("systemctl", "is-active", "weft-appd.service").stdout == "active\n"


def test_an_upgrade_starts_nothing_that_was_stopped(machine: Container) -> None:
    machine.run("systemctl", "enable", "--quiet", APP, "weft-appd-ws.socket")
    machine.run("systemctl", "stop", "weft-appd.service", "weft-compile.path")
    stopped = (*DAEMON, "weft-appd-ws.socket", "weft-compile.path", APP)
    for _ in range(2):  # an upgrade, then the same version once more
        machine.run("dpkg", "--install", UPGRADE)
        assert _states(machine, *stopped) == {"inactive"}
    machine.run("systemctl", "disable", "--quiet", *stopped)
    machine.run("dpkg", "--install", INSIDE)
    assert _states(machine, *stopped) == {"inactive"}
    assert machine.run("systemctl", "is-enabled", *stopped, check=False).stdout == "disabled\n" * len(
        stopped
    )


def test_an_upgrade_stops_nothing_that_ran(machine: Container) -> None:
    machine.run("systemctl", "enable", "--quiet", "weft-appd-ws.socket", APP)
    machine.run("systemctl", "restart", "weft-appd.service", APP)
    # As the version before had it.
    links = "/etc/systemd/system/sockets.target.wants", "/etc/systemd/system/weft-appd.service.wants"
    machine.run("sh", "-c", f"mkdir -p {links[0]} && mv {links[1]}/weft-appd-ws.socket {links[0]}")
    units = (*DAEMON, "weft-appd-ws.socket", APP)
    before = [_show(machine, "InvocationID", unit=unit) for unit in units]

    assert machine.run("dpkg", "--install", UPGRADE).stderr == ""

    assert [_show(machine, "InvocationID", unit=unit) for unit in units] == before
    assert _states(machine, *units, "weft-compile.path") == {"active"}
    listed = machine.run("find", *links, "-name", "weft-appd-ws.socket").stdout
    assert listed == f"{links[1]}/weft-appd-ws.socket\n"
    # What the new version knows holds at once.
    machine.run("systemctl", "stop", "weft-appd.service")
    assert machine.run("weftctl", "list", check=False).returncode == 171
    assert _states(machine, *DAEMON, "weft-appd-ws.socket") == {"inactive"}


def test_sockets_of_a_version_before_are_closed_by_a_stop_as_well(machine: Container) -> None:
    """It had no unit that is stopped with them; where the daemon runs, its own unit is enough."""
    machine.run("systemctl", "mask", "--runtime", "--now", "weft-appd-sockets.service")
    machine.run("systemctl", "start", "weft-appd.service")
    machine.run("systemctl", "stop", "weft-appd.service")
    assert _states(machine, *DAEMON) == {"inactive"}


def test_remove_and_install_again_starts_what_is_enabled(machine: Container) -> None:
    units = (*DAEMON, "weft-compile.path", APP)
    machine.run("systemctl", "enable", "--now", "--quiet", APP)
    machine.run("dpkg", "--remove", "weft-runtime")
    assert _states(machine, *units) == {"inactive"}
    machine.run("dpkg", "--install", UPGRADE)
    assert _states(machine, *units) == {"active"}

    machine.run("systemctl", "disable", "--quiet", *units)
    machine.run("dpkg", "--remove", "weft-runtime")
    machine.run("dpkg", "--install", UPGRADE)
    assert _states(machine, *units) == {"inactive"}
    assert machine.run("find", "/run", "-maxdepth", "1", "-name", "weft-runtime*").stdout == ""


def test_the_command_of_the_readme_installs_one_of_two_architectures(suite: Suite, deb: Deb) -> None:
    command = re.search(r"apt install .*\.deb", (ROOT / "README.md").read_text())
    assert command
    page = (ROOT / "docs" / "operations.md").read_text()
    assert command[0].replace("install", "install --yes") in page
    other = built_deb({"amd64": "arm64", "arm64": "amd64"}[NATIVE])
    binds = {path: Path("/opt/dist", path.name) for path in (deb.path, other)}
    with Container(suite, binds=binds) as machine:
        machine.run("sh", "-c", f"cd /opt/dist && {command[0]}", env={"DEBIAN_FRONTEND": "noninteractive"})
        assert machine.run("systemctl", "is-active", "weft-appd.service").stdout == "active\n"


def test_removal_ends_everything_and_keeps_state_and_purge_leaves_the_user_only(machine: Container) -> None:
    machine.run("systemctl", "enable", "--now", f"weft-app@{TICKER}.service")
    machine.run("systemctl", "enable", "weft-appd-ws.socket")
    machine.run("systemctl", "restart", "weft-appd.service")
    assert machine.run("systemctl", "is-active", "weft-appd-ws.socket").stdout == "active\n"
    machine.run("weftctl", "launch", TICKER)
    machine.run("weftctl", "launch", "--wait", "org.weft.examples.hello")
    machine.write("/var/lib/weft/apps/org.example.mine/wapp.toml", "")

    removed = machine.run("dpkg", "--remove", "weft-runtime")

    assert removed.stderr == ""
    assert machine.run("pgrep", "--full", "weft-", check=False).stdout == ""
    assert machine.run("systemctl", "list-units", "--no-legend", "--state=active", "weft*").stdout == ""
    assert machine.run("systemctl", "--failed", "--no-legend").stdout == ""
    for kept in ("/etc/weft/appd.toml", "/var/lib/weft/apps/org.example.mine/wapp.toml"):
        machine.run("test", "-f", kept)
    left = machine.run(*FIND).stdout.split()
    assert f"/var/lib/weft-apps/{TICKER}" in left
    assert not [name for name in left if name.startswith(("/usr/", "/run/"))]

    purged = machine.run("dpkg", "--purge", "weft-runtime")

    assert purged.stderr == ""
    assert machine.run(*FIND).stdout == ""
    for user in ("weft", "weft-compile"):
        assert machine.run("getent", "passwd", user).stdout.startswith(f"{user}:")


def _show(machine: Container, *properties: str, unit: str = "weft-appd.service") -> str:
    shown = machine.run("systemctl", "show", f"--property={','.join(properties)}", unit).stdout
    assert "MainPID=0\n" not in shown
    return shown


def _states(machine: Container, *units: str) -> set[str]:
    return set(machine.run("systemctl", "is-active", *units, check=False).stdout.split())


def _process(machine: Container, session: str) -> str:
    """The PID of a session's process, as the daemon knows it and the kernel has it."""
    sessions = json.loads(machine.run("weftctl", "list", "--json").stdout)
    [pid] = (str(each["pid"]) for each in sessions if each["session_id"] == int(session))
    machine.run("test", "-d", f"/proc/{pid}")
    return pid


def _starts(entry: dict[str, object], text: str) -> bool:
    return str(entry["MESSAGE"]).startswith(text)
