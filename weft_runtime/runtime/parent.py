# SPDX-License-Identifier: Apache-2.0
"""A process that does not outlive its parent."""

import select
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (prctl(2)). A parent that has ended before does not count."""
    import ctypes  # noqa: PLC0415 - the engine brings it, which is loaded later, or not at all

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def has_reader(pipe: int) -> bool:
    """Whether anybody can read what is written to a pipe (poll(2))."""
    waiting = select.poll()
    waiting.register(pipe, 0)
    return not any(events & select.POLLERR for _, events in waiting.poll(0))
