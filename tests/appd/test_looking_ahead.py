# SPDX-License-Identifier: Apache-2.0
"""Processes that wait and have loaded the app that was launched last: only what is still the same is used."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests import packages
from tests.appd.conftest import Make
from tests.appd.harness import REAL_RUNTIME, Appd, descriptors, eventually
from tests.appd.test_fork_server import spares_of, until_full, was_forked
from tests.appd.test_real_runtime import SLEEPING
from tests.packages import printing
from weft_runtime.appd.forkserver import SPARES
from weft_runtime.code_cache import ENTRY_SUFFIX


def code_in(pid: int) -> set[str]:
    """The files of compiled code that a process has mapped."""
    maps = []
    with contextlib.suppress(OSError):  # it has just ended
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.partition("/")[2] for line in maps if line.endswith(ENTRY_SUFFIX)}


def until_looked_ahead(appd: Appd) -> set[str]:
    """Wait until all that wait have loaded the app that was launched last, and the same code; the code."""
    code: list[set[str]] = []

    def all_have() -> bool:
        code[:] = [code_in(pid) for pid in spares_of(appd)]
        return len(code) == SPARES and bool(code[0]) and all(one == code[0] for one in code)

    until_full(appd)
    eventually(all_have, "the processes that wait have looked ahead")
    return code[0]


def ended(appd: Appd, app_id: str = packages.APP_ID) -> list[str]:
    """What a session of the app has written, once it has ended."""
    session = appd.launch(app_id)
    appd.until_stopped(session)
    appd.until_logged("ended ", session)
    return [line.removeprefix("info: ") for line in appd.messages(session) if line.startswith("info: ")]


@pytest.fixture
def ahead(start: Make, tmp_path: Path) -> Appd:
    """A daemon whose processes that wait have loaded an app which writes "one"."""
    appd = start(
        WEFT_RUNTIME_BIN=str(REAL_RUNTIME), WEFT_FORK_SERVER="true", CACHE_DIRECTORY=str(tmp_path / "cache")
    )
    packages.install(appd.store, printing("one\n"))
    # What was forked while the first one compiled has found no code, and goes first.
    for _ in range(2 * SPARES):
        until_full(appd)
        assert "one" in ended(appd)
    until_looked_ahead(appd)
    return appd


def test_a_process_that_waits_keeps_nothing_of_the_package_open(ahead: Appd) -> None:
    def open_files() -> list[str]:
        files = [file for pid in ahead.helpers for file in descriptors(pid).values()]
        return [file for file in files if file.startswith(os.fspath(ahead.store))]

    # While it looks, which the last launch may have made it do again, it has.
    eventually(lambda: not open_files(), lambda: f"it has closed {open_files()}")


def test_what_has_changed_since_it_looked_counts(ahead: Appd) -> None:
    package = ahead.store / packages.APP_ID
    (package / "app.wasm").write_bytes(printing("two\n"))
    assert "two" in ended(ahead)
    shutil.rmtree(package)
    packages.install(ahead.store, printing("three\n"))
    assert "three" in ended(ahead)
    toml = packages.manifest(runtime='ready = "export"')
    (package / "wapp.toml").write_text(toml)
    session = ahead.launch()
    assert ahead.until_stopped(session).signal is None
    ahead.until_logged("exports no weft_ready, but its manifest has runtime.ready = 'export'", session)


def test_another_app_finds_nothing_of_it(ahead: Appd) -> None:
    (code,) = until_looked_ahead(ahead)
    packages.install(ahead.store, SLEEPING, app_id="org.example.other")
    session = ahead.launch("org.example.other")
    ahead.until_ready(session)
    pid = ahead.sessions[session].pid
    assert pid is not None
    assert was_forked(pid)
    assert len(code_in(pid)) <= 1
    assert code not in code_in(pid)
    assert "one" in ended(ahead)


def test_where_one_has_ended_the_next_expect_no_app(ahead: Appd) -> None:
    """It may have been that app at which it ended."""
    os.kill(spares_of(ahead)[0], signal.SIGKILL)
    ahead.find("a process that waited for session")
    until_full(ahead)
    spares = spares_of(ahead)
    # The thread that waits for stop signals begins when they are done with looking.
    eventually(lambda: all(len([*Path(f"/proc/{pid}/task").iterdir()]) == 2 for pid in spares), "they wait")
    assert [code_in(pid) for pid in spares] == [set()] * SPARES
    assert "one" in ended(ahead)


@pytest.mark.parametrize("how", ["replaced", "overwritten", "cut"])
def test_code_that_must_not_be_used_is_told_of_once_by_the_session(ahead: Appd, how: str) -> None:
    (code,) = until_looked_ahead(ahead)
    good = Path("/", code)
    damaged = bytearray(good.read_bytes())
    damaged[1000] ^= 1
    if how == "replaced":
        replacement = good.with_name("damaged")
        replacement.write_bytes(damaged)
        replacement.rename(good)
    elif how == "overwritten":
        with good.open("r+b") as file:
            file.write(damaged)
    else:
        # The processes that wait have it mapped: to touch it beyond its end would be theirs.
        os.truncate(good, 1000)
    for _ in range(2 * SPARES):
        until_full(ahead)
        assert "one" in ended(ahead)
    assert ahead.log_text.count("ignoring this compiled code") == 1
    assert until_looked_ahead(ahead) == {code}
