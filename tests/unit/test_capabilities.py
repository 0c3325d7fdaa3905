# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.capabilities: what a data directory has to be."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from weft_runtime.capabilities import Grant, resolve
from weft_runtime.errors import Problem, WeftError

NOBODY = 65534
IS_ROOT = os.geteuid() == 0


@contextmanager
def data(mode: int, *, is_ours: bool) -> Iterator[Path]:
    """A directory of that mode, of this process's user for the time, who is not root, or of root."""
    with tempfile.TemporaryDirectory(prefix="weft-test-") as name:
        Path(name).chmod(0o755)
        directory = Path(name, "data")
        directory.mkdir()
        if IS_ROOT and is_ours:
            os.chown(directory, NOBODY, NOBODY)
        directory.chmod(mode)
        if IS_ROOT:
            os.seteuid(NOBODY)
        try:
            yield directory
        finally:
            if IS_ROOT:
                os.seteuid(0)
            directory.chmod(0o755)


def refusal(directory: Path) -> str:
    with pytest.raises(WeftError) as caught:
        resolve(["fs:rw:app-data"], lambda: directory, None)
    assert caught.value.problem is Problem.NOT_PERMITTED
    return str(caught.value)


def test_a_directory_that_can_be_written_is_granted() -> None:
    with data(0o700, is_ours=True) as directory:
        grants = resolve(["fs:rw:app-data"], lambda: directory, None)
    assert grants.directories == (Grant(directory, "/data", True),)


def test_a_directory_of_the_wrong_mode_is_named_with_what_mends_it() -> None:
    with data(0o500, is_ours=True) as directory:
        message = refusal(directory)
    assert message == (
        f"cannot write to the data directory '{directory}': its mode is 500 [chmod u+rwx '{directory}']"
    )


@pytest.mark.skipif(not IS_ROOT, reason="only root can make what belongs to somebody else")
def test_a_directory_of_somebody_else_is_named_with_what_mends_it() -> None:
    with data(0o755, is_ours=False) as directory:
        message = refusal(directory)
    assert message == (
        f"cannot write to the data directory '{directory}': it belongs to the user 0, not to {NOBODY}"
        f" [chown -R {NOBODY}:{os.getegid()} '{directory}']"
    )


def test_who_only_reads_may_have_one_that_cannot_be_written() -> None:
    with data(0o555, is_ours=False) as directory:
        grants = resolve(["fs:read:app-data"], lambda: directory, None)
    assert grants.directories == (Grant(directory, "/data", False),)
