# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.appd.plans: what a daemon remembers of a launch, and for which engine."""

import hashlib
import os
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from tests.packages import APP_ID, install
from weft_runtime import code_cache, store
from weft_runtime.appd import settings
from weft_runtime.appd.plans import Plans
from weft_runtime.appd.settings import Places
from weft_runtime.code_cache import Caches, Key
from weft_runtime.ids import AppId
from weft_runtime.integrity import SETTLED_NS
from weft_runtime.manifest import Manifest

ENGINES = [hashlib.sha256(name).digest() for name in (b"an engine", b"another one")]


class Device:
    """A daemon's plans, for one app whose code for two engines is in the cache."""

    def __init__(self, directory: Path) -> None:
        self.made_by: bytes | None = ENGINES[0]
        self.parsed = 0
        apps = directory / "apps"
        module = install(apps, b"\0asm\1\0\0\0") / "app.wasm"
        environ = {"WEFT_APP_STORE": str(apps), "CACHE_DIRECTORY": str(directory / "cache")}
        self.settle()
        for engine in ENGINES:
            code = hashlib.sha512(engine).digest() * 9
            sealed, module_fd = os.memfd_create("code"), os.open(module, os.O_RDONLY)
            key = Key(engine, hashlib.sha256(module.read_bytes()).digest())
            os.write(sealed, code + code_cache.trailer(code, key))
            cache = Caches(directory / "nowhere", directory / "cache")
            assert cache.own is not None
            os.close(code_cache.keep(cache.own, code_cache.find(cache, module_fd, engine), sealed))
            os.close(sealed)
            os.close(module_fd)
        self.settle()
        places = Places(None, directory, directory, directory / "data", None)
        file = directory / "appd.toml"
        file.touch()
        config = settings.load(file, environ)
        self.plans = Plans(config, places, environ, self.parse, lambda: self.made_by)

    def settle(self) -> None:
        """Wait until what was changed just now cannot be changed again without a trace."""
        time.sleep(2 * SETTLED_NS / 1e9)

    def parse(self, fd: int, source: str) -> Manifest:
        self.parsed += 1
        return store.parse_file(fd, source)

    def code(self) -> bytes | None:
        """Of the engine that it is for: its digest."""
        found = self.plans.find(AppId(APP_ID))
        if found.code is None:
            assert found.plan is None
            return None
        fd = found.code.open()
        assert fd is not None
        key = code_cache.key_of(fd)
        os.close(fd)
        return None if key is None else key.engine


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    # Beside the daemon's program there is the runtime.
    monkeypatch.setattr(sys, "argv", [os.fspath(Path(sysconfig.get_path("scripts"), "weft-appd"))])
    return Device(tmp_path)


def test_what_was_decided_is_remembered(device: Device) -> None:
    assert device.code() == ENGINES[0]
    before = device.parsed
    assert before
    assert [device.code() for _ in range(3)] == [ENGINES[0]] * 3
    assert device.parsed == before


def test_a_fork_server_with_another_engine_gets_the_code_for_that(device: Device) -> None:
    for engine in (*ENGINES, ENGINES[0]):
        device.made_by = engine
        assert device.code() == engine


def test_without_a_fork_server_nothing_is_followed(device: Device) -> None:
    assert device.code() == ENGINES[0]
    device.made_by = None
    assert device.code() is None
    device.made_by = ENGINES[0]
    assert device.code() == ENGINES[0]
