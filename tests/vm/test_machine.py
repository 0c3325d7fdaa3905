# SPDX-License-Identifier: Apache-2.0
"""The virtual machine itself: what the other tests build on."""

import pytest

from tests.vm.machine import Machine


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 134", 134), ("kill -9 $$", -9)])
def test_the_end_of_a_command_is_passed_on(machine: Machine, script: str, status: int) -> None:
    ended = machine.run("sh", "-c", f"cat; echo err >&2; {script}", check=False, input="in\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "in\n", "err\n")


def test_the_kernel_has_the_controllers_that_containers_may_lack(machine: Machine) -> None:
    assert {"cpu", "memory", "pids"} <= set(machine.sh("cat /sys/fs/cgroup/cgroup.controllers").split())


def test_a_memory_limit_is_real_here(machine: Machine) -> None:
    eater = "x = bytearray(256 << 20)"
    limited = ("systemd-run", "--quiet", "--wait", "--unit=eater", "--property=MemoryMax=64M")
    assert machine.run(*limited, "python3", "-c", eater, check=False).returncode != 0
    assert machine.sh("systemctl show --value --property=Result eater").strip() == "oom-kill"
    machine.run("systemctl", "reset-failed", "eater")


def test_there_is_no_network(machine: Machine) -> None:
    assert machine.sh("ls /sys/class/net").split() == ["lo"]
