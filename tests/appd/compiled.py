# SPDX-License-Identifier: Apache-2.0
"""Compiled code that is there before the first session, so that already that one follows a plan."""

import os
import tempfile
import time
from pathlib import Path

import wasmtime

from tests import packages
from tests.appd.harness import Appd
from tests.packages import APP_ID
from weft_runtime import code_cache
from weft_runtime.code_cache import Caches
from weft_runtime.integrity import SETTLED_NS
from weft_runtime.runtime import engine
from weft_runtime.settings import EngineKind


def install(appd: Appd, module: bytes, *, app_id: str = APP_ID, toml: str | None = None) -> Path:
    """Put a package into the store of `appd`, and its code into the cache; the package's directory."""
    package = packages.install(appd.store, module, app_id=app_id, toml=toml)
    keep(appd.cache, package / "app.wasm")
    return package


def keep(cache: Path, module: Path) -> None:
    """Compile a module into a cache, and wait until nothing can be changed without a trace any more."""
    made_by = engine.compatibility(EngineKind.NATIVE)
    assert made_by is not None
    code = bytes(wasmtime.Module(wasmtime.Engine(), module.read_bytes()).serialize())
    time.sleep(2 * SETTLED_NS / 1e9)
    fd = os.open(module, os.O_RDONLY)
    try:
        found = code_cache.find(Caches(own=cache), fd, made_by)
        if found.entry is not None:
            os.close(found.entry.fd)
            return
        with tempfile.TemporaryFile() as sealed:
            sealed.write(code + code_cache.trailer(code, found.key))
            sealed.flush()
            os.close(code_cache.keep(cache, found, sealed.fileno()))
    finally:
        os.close(fd)
    time.sleep(2 * SETTLED_NS / 1e9)
