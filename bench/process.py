# SPDX-License-Identifier: Apache-2.0
"""What a running process has cost so far, from /proc."""

from pathlib import Path
from typing import NamedTuple

NANO = 1e-9


class Memory(NamedTuple):
    """KiB of a process in memory."""

    rss_kib: int
    """All of it."""
    pss_kib: int
    """Its share of that: a page that two have counts half. It falls when others start the same program."""
    own_kib: int
    """What it has written since it was forked: nobody shares it."""


def cpu_s(pid: int) -> float:
    """CPU seconds of the first thread, to the nanosecond: the clock ticks of proc_pid_stat(5) are too coarse."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) * NANO


def wake_ups(pid: int) -> int:
    """How often the first thread has gone to sleep, and so was woken."""
    return _field(Path(f"/proc/{pid}/status"), "voluntary_ctxt_switches:")


def memory(pid: int) -> Memory:
    file = Path(f"/proc/{pid}/smaps_rollup")
    return Memory(*(_field(file, name) for name in ("Rss:", "Pss:", "Private_Dirty:")))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid: int) -> bytes:
    """As it calls itself: its arguments, a zero byte after each."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _field(file: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(name))
