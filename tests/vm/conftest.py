# SPDX-License-Identifier: Apache-2.0
"""One virtual machine for all tests, with weft-appd installed and running in it."""

import signal
from collections.abc import Generator, Iterator

import pytest

from tests.deb import built_deb
from tests.vm import appd
from tests.vm.machine import Machine, missing


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    # Whoever asks for these tests wants them: nothing is skipped.
    if lack := missing():
        pytest.fail(f"missing: {', '.join(lack)} [make test-vm installs what it needs]", pytrace=False)
    # Whoever gives up on a test run sends SIGTERM: end as by Ctrl-C, so that the machine goes too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    files = tmp_path_factory.mktemp("root")
    appd.write_files(files)
    with Machine(built_deb(), files) as machine:
        yield machine
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def device(machine: Machine) -> Iterator[Machine]:
    """A machine whose daemon has the settings of the package and no session, before and after."""
    yield machine
    if machine.is_alive:
        appd.reset(machine)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the journal of a failed test's machine: it is gone when somebody looks."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        machine = item.funcargs.get("machine")
        if isinstance(machine, Machine) and machine.is_alive:
            journal = machine.run("journalctl", "--no-pager", "--lines=100", check=False).stdout
            report.sections.append(("journal of the machine", journal))
    return report
