# SPDX-License-Identifier: Apache-2.0
"""What a running process has cost so far, from /proc."""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

NANO = 1e-9
_CUTIME = 16 - 3
"""Of proc_pid_stat(5), counted from the field after the name, which is the third; the next one is cstime."""


class Memory(NamedTuple):
    """KiB of a process in memory."""

    rss_kib: int
    """All of it."""
    pss_kib: int
    """Its share of that: a page that two have counts half. It falls when others start the same program."""
    own_kib: int
    """What it has written since it was forked: nobody shares it."""


def cpu_s(pid: int) -> float:
    """CPU seconds of its threads, to the nanosecond: the clock ticks of proc_pid_stat(5) are too coarse."""
    spent = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            spent += int((thread / "schedstat").read_text().split()[0])
    return spent * NANO


def reaped_cpu_s(pid: int) -> float:
    """CPU seconds of all its children that it has collected, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, fields[_CUTIME : _CUTIME + 2])) / os.sysconf("SC_CLK_TCK")


def wake_ups(pid: int) -> int:
    """How often the first thread has gone to sleep, and so was woken."""
    return _field(Path(f"/proc/{pid}/status"), "voluntary_ctxt_switches:")


def memory(pid: int) -> Memory:
    file = Path(f"/proc/{pid}/smaps_rollup")
    return Memory(*(_field(file, name) for name in ("Rss:", "Pss:", "Private_Dirty:")))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_spare(pid: int) -> bool:
    """Whether it waits to become a session, as it calls itself."""
    return b"(spare)" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _field(file: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(name))
