# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.manifests: what is remembered of a manifest, and for how long."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.packages import install
from weft_runtime import manifests
from weft_runtime.errors import Problem, WeftError
from weft_runtime.integrity import SETTLED_NS, Identity
from weft_runtime.manifest import Manifest
from weft_runtime.manifests import Manifests, NotRemembered, read

MODULE = b"\0asm\1\0\0\0"
WAIT_S = 10

T = TypeVar("T")


def by(look: Callable[[int, str], T], file: Path) -> T:
    fd = os.open(file, os.O_RDONLY)
    try:
        return look(fd, str(file))
    finally:
        os.close(fd)


def parse(known: Manifests, file: Path) -> Manifest:
    return by(known.parse, file)


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


def test_what_is_wrong_with_a_file_is_said_again_until_it_is_changed(file: Path) -> None:
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
    files = [
        install(tmp_path, MODULE, app_id=f"org.example.{name}") / "wapp.toml" for name in ("a", "b", "c")
    ]
    monkeypatch.setattr(manifests, "REMEMBERED_BYTES", 2 * files[0].stat().st_size)
    known = Manifests()
    first, *others = (remembered(known, file) for file in files)
    # For a list all of them are known still.
    assert [by(known.recall_listed, file) for file in files] == [("A test", "1.2.3")] * 3
    with pytest.raises(NotRemembered) as caught:
        by(known.recall, files[0])
    assert caught.value.directory == files[0].parent
    assert [by(known.recall, file) for file in files[1:]] == others
    assert parse(known, files[0]) == first
    monkeypatch.setattr(manifests, "LISTED_MAX", 2)
    remembered(known, files[1])
    known.keep(read(files[1].parent))
    with pytest.raises(NotRemembered):
        by(known.recall_listed, files[2])
    with pytest.raises(NotRemembered):
        by(known.recall, files[2])
    assert by(known.recall, files[1]) == others[0]


def test_what_was_read_elsewhere_is_recalled(file: Path) -> None:
    known = Manifests()
    with pytest.raises(NotRemembered):
        by(known.recall, file)
    os.utime(file)
    reading = read(file.parent)
    known.use(reading)
    assert by(known.recall, file) is reading.result
    known.use(None)
    with pytest.raises(NotRemembered):
        by(known.recall, file)
    known.use(reading._replace(identity=Identity(0, 0, 1, 0, 0)))
    with pytest.raises(NotRemembered):
        by(known.recall, file)
    known.keep(reading._replace(settled=True))
    assert by(known.recall, file) is reading.result
    assert by(known.recall_listed, file) == ("A test", "1.2.3")


def test_a_wrong_manifest_is_recalled_as_wrong(file: Path) -> None:
    known = Manifests()
    file.write_text("nonsense")
    known.keep(read(file.parent)._replace(settled=True))
    assert by(known.recall_listed, file) is None
    errors = []
    for _ in range(2):
        with pytest.raises(WeftError) as caught:
            by(known.recall, file)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    assert errors[0] is not errors[1]
    file.unlink()
    with pytest.raises(WeftError):
        read(file.parent)
