# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.appd.cgroups that need no kernel; the others boot one (tests/system, tests/vm)."""

import os
from pathlib import Path

import pytest

from weft_runtime.appd import cgroups
from weft_runtime.appd.cgroups import STEPS_A_TURN, Limits, Removal, SessionGroup, SessionGroups, in_units


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0K"),
        (128 * 1024**2, "128.0M"),
        (1536 * 1024**2, "1.5G"),
        (5000 * 1024**4, "5000.0T"),
    ],
)
def test_bytes_are_shown_as_by_systemd(size: int, text: str) -> None:
    assert in_units(size) == text


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ("low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\n", None),
        ("max 3\noom 1\noom_kill 2\noom_group_kill 1\n", "out of memory: it needed more than 64.0M"),
        ("max 0\noom 0\noom_kill 1\n", "out of memory: the device has no more"),
        ("", None),
    ],
)
def test_the_kernels_counts_say_whose_memory_was_out(
    tmp_path: Path, events: str, reason: str | None
) -> None:
    for name, text in {
        "memory.events": events,
        "memory.max": "67108864\n",
        "memory.peak": "67100000\n",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\n",
    }.items():
        (tmp_path / name).write_text(text)
    usage = SessionGroup(tmp_path).usage(is_killed=True)
    assert (usage.cpu_seconds, usage.memory_peak, usage.out_of_memory) == (1.5, 67100000, reason)


def test_a_process_that_was_not_killed_had_memory(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 1\n")
    assert SessionGroup(tmp_path).usage(is_killed=False).out_of_memory is None


def test_what_no_controller_counts_is_not_told(tmp_path: Path) -> None:
    assert SessionGroup(tmp_path).usage(is_killed=True) == (0, None, None)


@pytest.fixture
def fake_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that stands for a delegated group with all controllers: what is written there can be read."""
    monkeypatch.setattr(cgroups, "_write", lambda path, text: Path(path).write_text(text))
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return tmp_path


def test_the_daemon_has_more_weight_than_any_session_and_compilers_have_less(fake_base: Path) -> None:
    group = SessionGroups(fake_base).make(1, Limits(None, None, None))
    usual = 100  # of cgroups that say nothing, as those of sessions
    assert not (group.path / "cpu.weight").exists()
    assert int((fake_base / "supervisor/cpu.weight").read_text()) >= 50 * usual
    assert 0 < int((fake_base / "compiler/cpu.weight").read_text()) < usual


def test_without_a_cpu_controller_no_weight_is_written(fake_base: Path) -> None:
    (fake_base / "cgroup.controllers").write_text("memory pids\n")
    SessionGroups(fake_base)
    assert not list(fake_base.rglob("cpu.weight"))


def test_a_session_can_make_few_groups_below_its_own(fake_base: Path) -> None:
    (fake_base / "cgroup.controllers").write_text("\n")  # these limits need none
    group = SessionGroups(fake_base).make(1, Limits(None, None, None))
    written = {path.name: path.read_text() for path in group.path.iterdir()}
    assert {name: int(text) <= 100 for name, text in written.items()} == {
        "cgroup.max.descendants": True,
        "cgroup.max.depth": True,
    }


def test_a_limit_that_is_none_is_not_written(fake_base: Path) -> None:
    groups = SessionGroups(fake_base)
    group, other = groups.make(1, Limits(1024, None, None)), groups.make(2, Limits(None, 50, 9))
    assert (group.path / "memory.max").read_text() == "1024"
    assert not (group.path / "cpu.max").exists()
    assert not (other.path / "memory.max").exists()
    assert (other.path / "cpu.max").read_text() == "50000 100000"
    assert (other.path / "pids.max").read_text() == "9"


@pytest.mark.parametrize("leaf", ["supervisor", "compiler"])
def test_nobody_can_make_groups_below_the_other_leaves(fake_base: Path, leaf: str) -> None:
    SessionGroups(fake_base)
    assert (fake_base / leaf / "cgroup.max.descendants").read_text() == "0"


def remove(path: Path) -> int:
    """Remove a tree of empty groups; in how many turns."""
    removal, turns = Removal(SessionGroup(path)), 1
    while removal.work() is not None:
        turns += 1
    assert not path.exists()
    return turns


def test_groups_below_a_session_are_removed_depth_first(tmp_path: Path) -> None:
    group = tmp_path / "session-1"
    (group / "a/b/c").mkdir(parents=True)
    (group / "a/d").mkdir()
    (group / "e").mkdir()
    assert remove(group) <= 2


def test_a_large_tree_is_removed_in_many_short_turns(tmp_path: Path) -> None:
    group = tmp_path / "session-1"
    for number in range(50):
        for name in "abc":
            (group / str(number) / name).mkdir(parents=True)
    assert remove(group) > 200 / STEPS_A_TURN


def test_a_tree_that_is_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    group = tmp_path / "session-1"
    group.mkdir()
    fd = os.open(group, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert remove(group) > 1000 / STEPS_A_TURN


def test_a_group_that_is_not_empty_is_tried_again_later_and_later(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    group = tmp_path / "session-1"
    (group / "a/b").mkdir(parents=True)
    held = group / "a/b/process"
    held.touch()  # a directory with a file cannot be removed, as a group with a process cannot
    removal = Removal(SessionGroup(group))
    delays = [removal.work() for _ in range(20)]
    assert None not in delays
    assert delays[0] == cgroups.RETRY_S.start
    assert delays[-1] == cgroups.RETRY_S.longest
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    held.unlink()
    while removal.work() is not None:
        pass
    assert not group.exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
