# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.appd.cgroups that need no kernel; the others boot one (tests/system, tests/vm)."""

from pathlib import Path

import pytest

from weft_runtime.appd.cgroups import SessionGroup, in_units


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
    usage = SessionGroup(tmp_path).usage()
    assert (usage.cpu_seconds, usage.memory_peak, usage.out_of_memory) == (1.5, 67100000, reason)


def test_what_no_controller_counts_is_not_told(tmp_path: Path) -> None:
    assert SessionGroup(tmp_path).usage() == (0, None, None)
