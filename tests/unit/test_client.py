# SPDX-License-Identifier: Apache-2.0
"""Where tools look for the daemon."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weft_runtime.client import SYSTEM_SOCKET, DaemonClient, socket_path
from weft_runtime.errors import Problem, WeftError


def test_the_variable_wins() -> None:
    assert socket_path({"WEFT_APPD_SOCKET": "/x", "XDG_RUNTIME_DIR": "/run"}) == Path("/x")


def test_without_a_daemon_of_ones_own_it_is_that_of_the_system(tmp_path: Path) -> None:
    assert socket_path({"XDG_RUNTIME_DIR": str(tmp_path)}) == SYSTEM_SOCKET
    assert socket_path({}) == SYSTEM_SOCKET


def test_a_run_time_directory_of_somebody_else_is_passed_over(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give up the right to look everywhere")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    code = f"from weft_runtime.client import *; print(socket_path({{'XDG_RUNTIME_DIR': '{closed}'}}))"
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--"]
    done = subprocess.run([*drop, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{SYSTEM_SOCKET}\n", "")


def test_a_connection_that_fails_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(WeftError, match="weft-appd is not running: nobody listens on ") as caught:
        DaemonClient(tmp_path / "none", timeout=1)
    # The traceback still holds the client.
    assert caught.value.problem is Problem.OS_ERROR
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(WeftError, match=r"cannot connect to '.*': AF_UNIX path too long"):
        DaemonClient(tmp_path / ("x" * 200), timeout=1)
