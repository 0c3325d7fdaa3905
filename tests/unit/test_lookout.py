# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.runtime.lookout: how long what was done ahead for an app is good."""

import gc
import os
import time
import weakref
from pathlib import Path

import pytest

from tests.packages import APP_ID, install, manifest
from weft_runtime.ids import AppId
from weft_runtime.runtime.app import Groundwork
from weft_runtime.runtime.lookout import Lookout
from weft_runtime.store import Package

MODULE, OTHER_MODULE = b"\0asm\1\0\0\0", b"\0asm\1\0\0\0\0"
LONG_AGO_NS = 10**15
APP = AppId.parse(APP_ID)


class Ground:
    """A runner: what it lays is the number of times that it has."""

    def __init__(self, code: Path) -> None:
        self.laid = 0
        self.code = code

    def lay(self, package: Package) -> Groundwork:
        assert os.pread(package.module_fd, len(MODULE), 0) == MODULE
        self.laid += 1
        return Groundwork(os.open(self.code, os.O_RDONLY), self.laid)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    code = tmp_path / "code"
    code.write_bytes(b"code")
    return Ground(code)


@pytest.fixture
def lookout(tmp_path: Path, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Lookout:
    install(tmp_path, MODULE)
    now = os.stat(tmp_path / APP_ID / "app.wasm").st_ctime_ns + LONG_AGO_NS
    monkeypatch.setattr("weft_runtime.runtime.lookout.time.time_ns", lambda: now)
    return Lookout([tmp_path], ground.lay)


def groundwork(lookout: Lookout) -> object:
    ahead = lookout.take(APP)
    assert ahead is not None
    os.close(ahead.package.module_fd)
    if ahead.groundwork is None:
        return None
    os.close(ahead.groundwork.code_fd)
    return ahead.groundwork.loaded


def test_it_is_laid_once_for_the_same_package(lookout: Lookout, ground: Ground) -> None:
    lookout.look(APP_ID)
    lookout.close()
    lookout.look(APP_ID)
    assert groundwork(lookout) == ground.laid == 1
    assert lookout.take(APP) is None


@pytest.mark.parametrize("change", ["module", "manifest", "package", "code", "code's end", "code's name"])
def test_it_is_laid_again_where_something_has_changed(
    lookout: Lookout, ground: Ground, tmp_path: Path, change: str
) -> None:
    lookout.look(APP_ID)
    package = tmp_path / APP_ID
    if change == "package":
        package.rename(tmp_path / "old")
        install(tmp_path, MODULE)
    elif change == "module":
        (package / "app.wasm").write_bytes(OTHER_MODULE)
    elif change == "code":
        ground.code.write_bytes(b"edoc")
    elif change == "code's end":
        os.truncate(ground.code, 1)
    elif change == "code's name":
        ground.code.rename(tmp_path / "kept")
        ground.code.write_bytes(b"code")
    else:
        (package / "wapp.toml").write_text(manifest(runtime='ready = "guest"'))
    lookout.look(APP_ID)
    assert groundwork(lookout) == ground.laid == 2


def test_code_that_has_changed_below_its_mapping_is_never_unloaded(tmp_path: Path) -> None:
    install(tmp_path, MODULE)
    code = tmp_path / "code"
    code.write_bytes(b"code")
    os.utime(code)

    class Loaded:
        pass

    lookout = Lookout([tmp_path], lambda _: Groundwork(os.open(code, os.O_RDONLY), Loaded()))
    laid: weakref.ref[object] | None = None
    deadline = time.monotonic() + 10
    while laid is None:  # until the files have not changed for long enough
        assert time.monotonic() < deadline
        lookout.look(APP_ID)
        if lookout._laid is not None:
            laid = weakref.ref(lookout._laid[1].loaded)
    os.truncate(code, 1)
    lookout.look("org.example.missing")
    assert lookout.take(APP) is None
    del lookout
    gc.collect()
    assert laid() is not None


def test_a_module_that_has_just_changed_is_looked_at_again(
    lookout: Lookout, tmp_path: Path, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = os.stat(tmp_path / APP_ID / "app.wasm").st_ctime_ns
    monkeypatch.setattr("weft_runtime.runtime.lookout.time.time_ns", lambda: changed)
    lookout.look(APP_ID)
    lookout.look(APP_ID)
    assert ground.laid == 2
    assert groundwork(lookout) is None


def test_nothing_is_there_for_another_app(lookout: Lookout) -> None:
    lookout.look(APP_ID)
    before = len([*Path("/proc/self/fd").iterdir()])
    assert lookout.take(AppId.parse("org.example.other")) is None
    assert len([*Path("/proc/self/fd").iterdir()]) == before - 2
    assert lookout.take(APP) is None


@pytest.mark.parametrize("app_id", ["org.example.missing", "no id", ""])
def test_what_is_wrong_is_not_told_here(lookout: Lookout, ground: Ground, app_id: str) -> None:
    lookout.look(APP_ID)
    lookout.look(app_id)
    assert lookout.take(APP) is None
    assert ground.laid == 1


def test_where_nothing_can_be_laid_the_package_is_open(tmp_path: Path) -> None:
    install(tmp_path, MODULE)
    lookout = Lookout([tmp_path], lambda package: None)
    lookout.look(APP_ID)
    assert groundwork(lookout) is None
