# SPDX-License-Identifier: Apache-2.0
"""The order of the tests, which of them one worker runs in a row, and what tests of several folders ask for."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

LONGEST = (
    # The first makes the package and the second the roots, each release a worker; what comes then needs both.
    "tests/package/test_build.py", "tests/system/test_appd.py", "tests/system/test_doctor.py", "tests/system/test_minute.py",
    "tests/package/test_install.py", "tests/pack/test_new.py", "tests/system/test_stopped.py", "tests/system/test_installed_earlier.py",
    "tests/coverage/test_floors.py",
    "tests/lint/test_linters.py", "tests/command/test_both_ways.py", "tests/command/test_remembered.py",
    "tests/appd/test_forkless.py", "tests/package/test_chroot.py",
    "tests/system/test_installed_compiling.py",
    "tests/system/test_installed_views.py", "tests/system/test_neighbours.py", "tests/system/test_bench.py",
    "tests/system/test_installed_journal.py", "tests/system/test_cgroups.py", "tests/system/test_journal_stopped.py",
    "tests/appd/test_fork_server.py", "tests/appd/test_faults.py", "tests/appd/test_fairness.py",
    "tests/command/test_weftctl.py", "tests/command/test_weftctl_journal.py", "tests/command/test_weftctl_views.py",
    "tests/pack/test_compile.py", "tests/command/test_compiling.py", "tests/appd/test_blocking.py",
    "tests/appd/test_persistence.py", "tests/appd/test_reload.py", "tests/appd/test_connections.py",
    "tests/appd/test_compiling.py", "tests/bench/test_bench.py",
)  # fmt: skip
"""Files that take longer than others, the longest first. Begun last, each would be waited for by all other workers."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest at the beginning."""
    ranks = {file: rank for rank, file in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """Who tests a package that he builds has no pytest-xdist, perhaps."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.schedule import FilesAndReleases  # noqa: PLC0415

    # In the order of the collection, not the file with the most tests first.
    config.option.loadscopereorder = False
    return FilesAndReleases(config, log)


@pytest.fixture
def place_of_all() -> Iterator[Path]:
    """A directory that everybody gets into; into pytest's own nobody does, and each start of pytest sees to that."""
    with tempfile.TemporaryDirectory(prefix="weft-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)
