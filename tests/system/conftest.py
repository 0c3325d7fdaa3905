# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests on a booted systemd, of both releases, with our code and the engine inside."""

import os
import signal
import sysconfig
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.deb import built_deb
from tests.system import appd, package
from tests.system.container import Container, Suite, missing

FORKLESS = "_forkless"
"""In the names of tests of a daemon without a fork server."""

# The host's packages come last: what the release has itself, as python3-systemd, is built for its Python.
LAUNCHER = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/opt/weft/src")
sys.path.append("/opt/weft/site")

from weft_runtime.runtime.main import main_wasmtime

sys.exit(main_wasmtime())
"""


@pytest.fixture(scope="module", autouse=True)
def gate() -> Iterator[None]:
    """Without root and tools there is nothing to test on: a skip for a developer, a failure in CI."""
    if lack := missing():
        reason = f"system tests lack: {', '.join(lack)} [packages: mmdebstrap, systemd-container]"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    # Whoever gives up on a test run sends SIGTERM: end as by Ctrl-C, so that containers are powered off.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the journal of a failed test's container: it is gone when somebody looks."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, Container) and value.is_alive:
                journal = value.run("journalctl", "--no-pager", "--lines=100", check=False).stdout
                report.sections.append((f"journal of {value.suite}", journal))
    return report


@contextmanager
def booted(suite: Suite) -> Iterator[Container]:
    """Boot a release that sees our code, the engine, and a program that runs both."""
    # The first process of root's leaves what it has compiled: the Python of a release cannot use what another one has left.
    overlays = {
        Path(__file__).resolve().parents[2]: Path("/opt/weft/src"),
        Path(sysconfig.get_path("purelib")): Path("/opt/weft/site"),
    }
    with Container(suite, overlays=overlays) as container:
        container.write("/usr/local/bin/weft-runtime-wasmtime", LAUNCHER, 0o755)
        appd.set_fork_server(container)
        yield container


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the fork server run only those tests again whose meaning depends on it."""
    items[:] = [item for item in items if not _is_forkless(item) or _has_sessions(item)]


def _has_sessions(item: pytest.Item) -> bool:
    return bool(item.get_closest_marker("sessions")) and not item.get_closest_marker("once")


def _is_forkless(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and hasattr(item, "callspec") and (
        FORKLESS in str(item.callspec.params.get("suite"))
    )  # fmt: skip


@pytest.fixture(scope="module", params=[*Suite, *(f"{suite}{FORKLESS}" for suite in Suite)], ids=str)
def suite(request: pytest.FixtureRequest) -> Iterator[Suite]:
    """Each release; for tests of sessions once more, where the daemon is told to do without its fork server."""
    name, forkless, _ = str(request.param).partition(FORKLESS)
    with pytest.MonkeyPatch.context() as patch:
        if forkless:
            patch.setenv("WEFT_FORK_SERVER", "false")
        yield Suite(name)


@pytest.fixture(scope="module")
def container(suite: Suite) -> Iterator[Container]:
    """A container that all tests of a module share."""
    with booted(suite) as container:
        yield container


@pytest.fixture(scope="module")
def pristine(suite: Suite) -> Iterator[Container]:
    """A container with nothing of ours, that all tests of a module share."""
    with package.booted(suite) as container:
        yield container


@pytest.fixture(scope="module")
def just_installed(pristine: Container) -> Container:
    """The same, in which the Debian package is installed, just now."""
    package.install(pristine, built_deb())
    return pristine


@pytest.fixture(scope="module")
def device(suite: Suite) -> Iterator[Container]:
    """A container in which the Debian package was installed before it booted, that all tests of a module share."""
    with package.device(suite) as container:
        yield container


@pytest.fixture
def boot() -> Iterator[Callable[[Suite], Container]]:
    """A factory of containers that belong to one test alone."""
    with ExitStack() as stack:
        yield lambda suite: stack.enter_context(booted(suite))


@pytest.fixture(scope="module")
def installed(container: Container) -> None:
    """weft-appd from this tree is a unit of the container."""
    appd.install(container)


@pytest.fixture
def service(container: Container, installed: None) -> Iterator[Container]:
    """A daemon that runs as a service, and has never run before."""
    container.write(appd.CONFIG, "")
    container.run("systemctl", "start", appd.UNIT)
    yield container
    container.run("systemctl", "stop", appd.UNIT)
    container.run("rm", "-rf", "/var/lib/weft/appd")
