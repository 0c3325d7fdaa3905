# SPDX-License-Identifier: Apache-2.0
"""The life of the package on one device: reload, upgrade, removal, return and purge, each after the one before."""

from typing import NamedTuple

import pytest

from tests.deb import LATER, built_deb
from tests.system.appd import TICKER, UNIT, eventually, show
from tests.system.container import Container
from tests.system.package import (
    PACKAGE,
    apt,
    complaints,
    install,
    launch,
    processes,
    service,
    sessions,
    until_running,
)

pytestmark = pytest.mark.sessions

CONFIG = "/etc/weft/appd.toml"
EDIT = "max_sessions = 3"
APP = service(TICKER)
MEASURED = ("cpu", "memory", "memory_peak")  # of a session, other at each moment
# Where installing any package leaves something, and whatever runs.
ELSEWHERE = (
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd",
    "/var/cache/apt",
    "/var/cache/debconf",
    "/var/log",
)


class Before(NamedTuple):
    """What has to be the same after an upgrade."""

    daemon: str
    sessions: list[dict[str, object]]
    service: str
    invocations: list[str]


@pytest.fixture(scope="module")
def device(pristine: Container, files: set[str]) -> Container:
    """Instead of the usual one: what was there before the installation is known."""
    install(pristine, built_deb())
    return pristine


@pytest.fixture(scope="module")
def files(pristine: Container) -> set[str]:
    """All files before the installation."""
    return found(pristine)


@pytest.fixture(scope="module")
def before(device: Container) -> Before:
    """Two sessions and a service, for the tests up to the upgrade."""
    for _ in range(2):
        launch(device, TICKER)
    device.run("systemctl", "enable", "--now", "--quiet", APP)
    return now(device)


def found(container: Container) -> set[str]:
    listed = container.run("find", "/", "-xdev", "-print0").stdout.split("\0")
    return {path for path in listed if not path.startswith(ELSEWHERE)}


def now(container: Container) -> Before:
    units = ("weft-appd.socket", UNIT, APP)
    return Before(
        show(container, "MainPID"),
        [{key: value for key, value in each.items() if key not in MEASURED} for each in sessions(container)],
        show(container, "MainPID", APP),
        [show(container, "InvocationID", unit) for unit in units],
    )


def is_heard(container: Container) -> bool:
    """Whether what sessions say comes to the journal from now on."""

    def lines() -> int:
        return len(container.journal("WEFT_EVENT=output", f"_SYSTEMD_UNIT={UNIT}"))

    count = lines()
    eventually(lambda: lines() >= count + 2)
    return True


def test_a_reload_touches_no_app(device: Container, before: Before) -> None:
    device.run("systemctl", "reload", UNIT)
    assert now(device) == before
    assert is_heard(device)


def test_an_upgrade_touches_no_app(device: Container, before: Before) -> None:
    device.run("sh", "-c", f"echo '{EDIT}' >>{CONFIG}")
    printed = install(device, built_deb(version=LATER))
    assert f"Unpacking {PACKAGE} ({LATER}) over (" in printed
    assert now(device) == before
    assert show(device, "NRestarts") == "0"
    assert is_heard(device)
    # Nobody is told that something did not work.
    assert "version before" not in printed
    assert "conffile" not in printed.lower()


def test_the_daemon_is_the_new_one_after_an_upgrade(device: Container) -> None:
    assert len(device.journal("WEFT_EVENT=reloaded")) == 2
    told = device.run("weft-appd", "--reload").stdout
    assert told == f"reloaded, weft-appd {LATER} is running\n"


def test_an_upgrade_keeps_what_the_operator_wrote(device: Container) -> None:
    assert device.run("tail", "--lines=1", CONFIG).stdout == f"{EDIT}\n"
    # The daemon has read it when it was reloaded: two sessions run, and there is room for one more.
    launch(device, TICKER)
    refused = device.run("weftctl", "launch", TICKER, check=False)
    assert refused.returncode
    assert "max_sessions" in refused.stderr


def test_a_removal_keeps_what_the_next_installation_needs(device: Container) -> None:
    device.run("sh", "-c", "echo kept >/var/lib/weft/data/mine")
    apt(device, "remove", PACKAGE)
    assert processes(device) == set()
    for unit in (UNIT, "weft-appd.socket", APP):
        assert show(device, "ActiveState", unit) == "inactive"
    install(device, built_deb())
    assert show(device, "ActiveState") == "active"
    assert device.run("tail", "--lines=1", CONFIG).stdout == f"{EDIT}\n"
    assert device.run("cat", "/var/lib/weft/data/mine").stdout == "kept\n"
    device.run("stat", f"/var/lib/private/weft-apps/{TICKER}")
    # And what ran when the package was removed runs again.
    until_running(device, *[TICKER] * 3)


def test_a_purge_leaves_nothing_but_the_users(device: Container, files: set[str]) -> None:
    apt(device, "purge", PACKAGE)
    assert found(device) - files == set()
    assert files - found(device) == set()
    assert processes(device) == set()
    # systemd keeps a note on a unit that it has known, and this run of the tests may have a drop-in.
    left = device.run(
        "find", "/run", "-path", "/run/systemd/units", "-prune", "-o", "-path", "*weft*", "-print"
    ).stdout.splitlines()
    assert [path for path in left if not path.startswith(f"/run/systemd/system/{UNIT}.d")] == []
    assert device.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "weft*").stdout == ""
    for user in ("weft", "weft-compile"):
        assert device.run("getent", "passwd", user).stdout.endswith(":/nonexistent:/usr/sbin/nologin\n")


def test_nothing_unexpected_was_logged(device: Container) -> None:
    """The last one: of all that the tests above have brought about, only what they meant to."""
    assert complaints(device, "max_sessions") == []
