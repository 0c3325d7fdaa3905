# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.manifests: what is remembered of a manifest, and for how long."""

import os
import time
from pathlib import Path

import pytest

from tests.packages import install
from weft_runtime import manifests
from weft_runtime.errors import Problem, WeftError
from weft_runtime.integrity import SETTLED_NS
from weft_runtime.manifest import Manifest
from weft_runtime.manifests import Manifests

MODULE = b"\0asm\1\0\0\0"
WAIT_S = 10


def parse(known: Manifests, file: Path) -> Manifest:
    fd = os.open(file, os.O_RDONLY)
    try:
        return known.parse(fd, str(file))
    finally:
        os.close(fd)


def remembered(known: Manifests, file: Path) -> Manifest:
    """What is said of a file once that is remembered."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        values = parse(known, file)
        if parse(known, file) is values:
            return values
    pytest.fail(f"{file} is parsed again and again")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return install(tmp_path, MODULE) / "wapp.toml"


def test_a_file_that_is_the_same_is_not_parsed_again(file: Path) -> None:
    known = Manifests()
    values = remembered(known, file)
    assert values == parse(Manifests(), file)


def test_a_changed_file_is_parsed_again(file: Path) -> None:
    known = Manifests()
    before, status = remembered(known, file), file.stat()
    file.write_text(file.read_text().replace("1.2.3", "3.2.1"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    after = parse(known, file)
    assert after != before
    assert after == parse(Manifests(), file)


def test_a_file_that_was_changed_just_now_is_not_remembered(file: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        known = Manifests()
        os.utime(file)
        values = parse(known, file)
        if time.time_ns() - file.stat().st_ctime_ns < SETTLED_NS:
            assert parse(known, file) is not values
            return
    pytest.fail("this process is held up again and again")


def test_what_is_wrong_with_a_file_is_not_remembered(file: Path) -> None:
    known = Manifests()
    text = file.read_text()
    remembered(known, file)
    file.write_text("nonsense")
    for _ in range(2):
        with pytest.raises(WeftError) as caught:
            parse(known, file)
        assert caught.value.problem is Problem.MANIFEST_INVALID
    file.write_text(text)
    assert parse(known, file) == parse(Manifests(), file)


def test_no_more_are_remembered_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "REMEMBERED_MAX", 2)
    known = Manifests()
    files = [
        install(tmp_path, MODULE, app_id=f"org.example.{name}") / "wapp.toml" for name in ("a", "b", "c")
    ]
    first = remembered(known, files[0])
    for file in files[1:]:
        remembered(known, file)
    assert parse(known, files[0]) is not first
