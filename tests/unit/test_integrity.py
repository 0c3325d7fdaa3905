# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.integrity: whose files and directories are safe to take something from."""

import os
import stat
from pathlib import Path

import pytest

from tests.unit.needs import missing
from weft_runtime.integrity import Identity, settled_at, unsafe, unsafe_above

US = os.geteuid()
STRANGER = 54321


def status_of(path: Path, mode: int) -> os.stat_result:
    path.chmod(mode)
    return path.lstat()


def test_a_file_of_the_owner_that_only_the_owner_writes_is_safe(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert unsafe(status_of(file, 0o644), US) is None
    assert unsafe(status_of(file, 0o600), STRANGER, US) is None


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_what_others_can_write_is_not(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    file.touch()
    assert unsafe(status_of(file, mode), US) == f"can be written by others: its mode is {mode:o}"


def test_what_belongs_to_another_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    complaint = unsafe(status_of(file, 0o600), STRANGER, STRANGER + 1, STRANGER)
    assert complaint == f"belongs to the user {US}, not to {STRANGER} or {STRANGER + 1}"


def test_what_is_no_file_is_not_a_file_and_what_is_no_directory_no_directory(tmp_path: Path) -> None:
    file, fifo, link = tmp_path / "file", tmp_path / "fifo", tmp_path / "link"
    file.touch(0o600)
    os.mkfifo(fifo, 0o600)
    link.symlink_to(file)
    tmp_path.chmod(0o700)
    for other in (tmp_path, fifo, link):
        assert unsafe(other.lstat(), US) == "is not a regular file"
    for other in (file, fifo, link):
        assert unsafe(other.lstat(), US, is_directory=True) == "is not a directory"
    assert unsafe(tmp_path.lstat(), US, is_directory=True) is None


def test_a_time_without_a_fraction_may_be_one_of_whole_seconds(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    identity = Identity.of(file.stat())
    assert identity.settled_at == settled_at(identity.changed) > identity.changed
    second = 1_000_000_000
    assert settled_at(5 * second) - 5 * second > second > settled_at(5 * second + 1) - 5 * second


@pytest.fixture
def above(tmp_path: Path) -> Path:
    """A directory that a test may give to others, below none but root's."""
    if US != 0:
        missing("only root can give a directory to another user")
    # pytest's own directories above it are root's then, and /tmp is sticky.
    directory = tmp_path / "above"
    directory.mkdir()
    return directory


def test_the_directories_above_may_be_of_each_of_the_owners(above: Path) -> None:
    assert unsafe_above(f"{above}/file", 0) is None
    os.chown(above, STRANGER, STRANGER)
    assert unsafe_above(f"{above}/file", 0, STRANGER) is None
    assert unsafe_above(f"{above}/file", 0) == f"'{above}' belongs to the user {STRANGER}, not to 0"


def test_a_directory_far_above_counts_too(above: Path) -> None:
    os.chown(above, STRANGER, STRANGER)
    (above / "a/b").mkdir(parents=True)
    assert unsafe_above(f"{above}/a/b/file", 0) == f"'{above}' belongs to the user {STRANGER}, not to 0"


def test_a_sticky_directory_is_safe_where_an_owner_has_it(above: Path) -> None:
    above.chmod(0o777)
    assert unsafe_above(f"{above}/file", 0) == f"'{above}' can be written by others: its mode is 777"
    above.chmod(0o1777)
    assert unsafe_above(f"{above}/file", 0) is None


@pytest.mark.parametrize("mode", [0o1777, 0o1755])
def test_a_sticky_directory_of_anybody_else_is_not(above: Path, mode: int) -> None:
    """Its owner can rename and remove in there what belongs to others: sticky does not bind the owner."""
    above.chmod(mode)
    os.chown(above, STRANGER, STRANGER)
    assert stat.S_IMODE(above.stat().st_mode) == mode
    assert unsafe_above(f"{above}/file", 0) == f"'{above}' belongs to the user {STRANGER}, not to 0"


def test_a_link_above_is_no_directory(above: Path) -> None:
    (above / "real").mkdir()
    (above / "link").symlink_to("real")
    assert unsafe_above(f"{above}/link/file", 0) == f"'{above}/link' is not a directory"


def test_the_identity_changes_with_the_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    before = Identity.of(file.stat())
    assert Identity.of(file.stat()) == before
    file.write_text("longer")
    assert Identity.of(file.stat()) != before
