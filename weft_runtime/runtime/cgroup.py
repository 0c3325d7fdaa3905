# SPDX-License-Identifier: Apache-2.0
"""Entering a control group that a supervisor has made."""

import os


def enter(procs: "str | os.PathLike[str]") -> None:
    """Move this process to the group whose cgroup.procs file `procs` is. Raises OSError."""
    fd = os.open(procs, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)
