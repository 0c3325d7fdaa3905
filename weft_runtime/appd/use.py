# SPDX-License-Identifier: Apache-2.0
"""What a session uses at this moment: by its control group, or where it has none, by its process."""

import os
from pathlib import Path
from typing import NamedTuple

from weft_runtime.appd.cgroups import SessionGroup

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Use(NamedTuple):
    """None is "not known"."""

    memory: int | None = None
    """Bytes."""
    memory_peak: int | None = None
    cpu_seconds: float | None = None
    """All that it has used so far, on all CPUs."""


def of_session(pid: int | None, group: SessionGroup | None) -> Use:
    """What the session with the process `pid` uses, with all that is in its `group`. Reads files of the kernel only."""
    own = Use() if pid is None else _of_process(pid)
    if group is None:
        return own
    memory, peak, cpu = group.use()
    # Without the memory controller nobody counts what else is in the group.
    return Use(own.memory if memory is None else memory, peak, own.cpu_seconds if cpu is None else cpu)


def _of_process(pid: int) -> Use:
    """By proc(5)."""
    try:
        # The name, in parentheses, may hold anything.
        fields = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(") ")[2]
            .split()
        )
        return Use(int(fields[21]) * _PAGE, None, (int(fields[11]) + int(fields[12])) / _TICKS)
    except (OSError, ValueError, IndexError):
        return Use()  # it is just ending
