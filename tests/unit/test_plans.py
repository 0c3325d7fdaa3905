# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.appd.plans: what is remembered is for the engine that it was decided for."""

import hashlib
from pathlib import Path

import pytest

from tests.packages import APP_ID
from tests.unit.test_decision import ENGINE, Device
from weft_runtime import policy
from weft_runtime.appd.plans import Plans
from weft_runtime.appd.settings import load, places
from weft_runtime.ids import AppId
from weft_runtime.store import parse_file


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device(tmp_path)
    monkeypatch.setattr(policy, "CONFIG_FILE", device.config)
    return device


def test_a_plan_for_another_engine_is_not_followed(device: Device) -> None:
    """As after an upgrade, when the new engine's fork server has said hello."""
    environ = {
        "WEFT_APP_STORE": str(device.stores[1]), "CACHE_DIRECTORY": str(device.caches.own),
        "STATE_DIRECTORY": str(device.directory), "WEFT_DATA_ROOT": str(device.data), "HOME": str(device.home),
        "RUNTIME_DIRECTORY": str(device.directory),
    }  # fmt: skip
    config = device.directory / "appd.toml"
    config.touch()
    config_settings = load(config, environ)
    engine: bytes | None = ENGINE
    plans = Plans(config_settings, places(config_settings, environ), environ, parse_file, lambda: engine)
    app_id = AppId(APP_ID)
    plans.find(app_id)  # which makes the data directory
    assert plans.find(app_id).code is not None
    assert plans.find(app_id) is plans.find(app_id)
    engine = hashlib.sha256(b"another engine").digest()
    assert plans.find(app_id).code is None
    engine = None
    assert plans.find(app_id).code is None
