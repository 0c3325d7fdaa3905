# SPDX-License-Identifier: Apache-2.0
"""What the limits of sessions and services do where the kernel has the controllers for them."""

from tests.vm.appd import (
    BUSY,
    EATER,
    TICKER,
    UNIT,
    Group,
    configure,
    eventually,
    launch,
    show,
    use_runtime,
    weftctl,
)
from tests.vm.machine import Machine
from weft_runtime.errors import ExitStatus

MIB = 1 << 20

# Starts as many processes as it may.
FORKER = """\
#!/usr/bin/python3 -I
import os, signal

print("READY", flush=True)
count = 0
try:
    while os.fork():
        count += 1
except OSError as error:
    print(f"{error.strerror} after {count}", flush=True)
signal.pause()
"""

# Has a child and a grandchild that have left its process group, and that SIGTERM does not end.
BREEDER = """\
#!/bin/sh
trap '' TERM
setsid sh -c 'setsid sleep 86400 & exec sleep 86400' &
echo READY
wait
"""


def test_the_unit_has_the_controllers_and_each_session_a_group(device: Machine) -> None:
    first, second = launch(device, TICKER), launch(device, TICKER)
    unit = Group(device)
    assert unit.read("cgroup.controllers").split() == ["cpu", "memory", "pids"]
    assert unit.leaves == {"supervisor", f"session-{first}", f"session-{second}"}
    assert show(device, "MainPID") in device.sh(f"cat {unit.path}/supervisor/cgroup.procs").split()
    processes = Group(device, first, TICKER).read("cgroup.procs").split()
    assert processes == [str(weftctl(device, "status", str(first))["pid"])]
    # What an operator sees of it.
    tree = device.run("systemctl", "--no-pager", "--full", "status", UNIT).stdout
    for part in ("supervisor", f"session-{first}", f"session-{second}"):
        assert f"─{part}\n" in tree
    notices = device.journal(f"_SYSTEMD_INVOCATION_ID={show(device, 'InvocationID')}", "PRIORITY=5")
    assert [entry["MESSAGE"] for entry in notices] == []


def test_the_limits_are_the_documented_ones_until_they_are_set(device: Machine) -> None:
    before = Group(device, launch(device, TICKER), TICKER)
    assert before.read("memory.max") == str(512 * MIB)
    assert before.read("cpu.max") == "200000 100000"
    assert before.read("pids.max") == "64"
    configure(device, 'memory_max = "96M"\ncpu_quota = "50%"\ntasks_max = "20"\n')
    after = Group(device, launch(device, TICKER), TICKER)
    assert after.read("memory.max") == str(96 * MIB)
    assert after.read("cpu.max") == "50000 100000"
    assert after.read("pids.max") == "20"
    configure(device, 'memory_max = "infinity"\ncpu_quota = "infinity"\ntasks_max = "infinity"\n')
    without = Group(device, launch(device, TICKER), TICKER)
    assert without.read("memory.max") == "max"
    assert without.read("cpu.max") == "max 100000"
    assert without.read("pids.max") == "max"


def test_a_session_that_takes_too_much_memory_ends_alone(device: Machine) -> None:
    configure(device, 'memory_max = "128M"\n')
    daemon = show(device, "MainPID")
    other = launch(device, TICKER)
    ended = device.run("weftctl", "launch", "--json", "--wait", EATER, check=False)
    assert ended.returncode == 128 + 9
    (session,) = (item for item in weftctl(device, "list", "--all") if item["app_id"] == EATER)
    assert (session["state"], session["signal"]) == ("stopped", "SIGKILL")
    assert session["reason"] == "out of memory: it needed more than 128.0M"

    # Numbers begin again with each daemon, of which there were others before.
    (entry,) = device.journal(f"WEFT_APP_ID={EATER}", "WEFT_EVENT=session-ended")
    assert entry["PRIORITY"] == "4"
    assert entry["WEFT_REASON"] == session["reason"]
    assert 120 * MIB < int(str(entry["WEFT_MEMORY_PEAK"])) <= 128 * MIB
    assert int(str(entry["WEFT_CPU_USEC"])) > 0
    assert "memory peak 128.0M" in str(entry["MESSAGE"])
    explained = device.run("journalctl", "--no-pager", "-x", f"WEFT_APP_ID={EATER}").stdout
    assert f"Subject: App {EATER} has ended (session {session['session_id']})" in explained
    # The kernel's own account names the group that it chose from.
    kernel = "\n".join(str(entry["MESSAGE"]) for entry in device.journal("_TRANSPORT=kernel"))
    assert f"/{UNIT}/session-{session['session_id']}" in kernel

    assert show(device, "MainPID") == daemon
    assert show(device, "ActiveState") == "active"
    assert weftctl(device, "status", str(other))["state"] == "running"
    assert not Group(device, session["session_id"], EATER).is_there


def test_compilers_have_a_bound_of_their_own(device: Machine) -> None:
    unit = Group(device)
    assert unit.read("compiler/memory.max") == str((2048 + 512) * MIB)
    assert unit.read("compiler/memory.oom.group") == "0"
    assert unit.read("compiler/pids.max") == "512"


def test_a_compiler_that_takes_too_much_memory_ends_alone(device: Machine) -> None:
    daemon = show(device, "MainPID")
    other = launch(device, BUSY)
    # No code of any app, and a bound that no compiler can do with.
    device.sh("rm -rf /var/cache/weft/appd/code /var/cache/weft/system/code")
    device.sh(f"echo 4M > {Group(device).path}/compiler/memory.max")
    ended = device.run("weftctl", "launch", "--json", "--wait", TICKER, check=False)
    assert ended.returncode == ExitStatus.DATA
    told = [entry["MESSAGE"] for entry in device.journal(f"WEFT_APP_ID={TICKER}", "PRIORITY=3")]
    assert len(told) == 1
    assert "too costly to compile: its control group has no more memory" in str(told[0])
    assert show(device, "MainPID") == daemon
    assert weftctl(device, "status", str(other))["state"] == "running"
    # A reload sets the usual bound again.
    configure(device, "")
    launch(device, TICKER)


def test_a_session_has_no_more_processes_than_it_may(device: Machine) -> None:
    use_runtime(device, FORKER)
    configure(device, 'tasks_max = "20"\n')
    number = launch(device, TICKER)
    session = Group(device, number, TICKER)
    eventually(lambda: session.read("pids.current") == "20" and session.keys("pids.events")["max"] > 0)
    said = device.journal(f"WEFT_SESSION_ID={number}", "WEFT_STREAM=stdout")
    assert "Resource temporarily unavailable after 19" in [entry["MESSAGE"] for entry in said]
    # The daemon lives, and others can still have processes of their own.
    assert show(device, "ActiveState") == "active"
    launch(device, TICKER)
    weftctl(device, "stop", str(number))
    assert not session.is_there


def test_a_busy_session_gets_its_share_of_the_processor(device: Machine) -> None:
    def used_of_wall(session: Group) -> float:
        """The processors that a session has used on average, over at least five seconds."""
        samples: list[tuple[float, int]] = []

        def enough() -> bool:
            uptime = float(device.sh("cut -d' ' -f1 /proc/uptime"))
            samples.append((uptime, session.keys("cpu.stat")["usage_usec"]))
            return samples[-1][0] - samples[0][0] > 5

        eventually(enough)
        (begin, used_before), *_, (end, used) = samples
        return (used - used_before) / 1e6 / (end - begin)

    configure(device, 'cpu_quota = "50%"\n')
    number = launch(device, BUSY)
    limited = Group(device, number, BUSY)
    assert 0.2 < used_of_wall(limited) < 0.65
    assert limited.keys("cpu.stat")["nr_throttled"] > 0
    weftctl(device, "stop", str(number))
    # The same app with the usual limit: more than a thread can use.
    configure(device, "")
    assert used_of_wall(Group(device, launch(device, BUSY), BUSY)) > 0.7


def test_the_end_of_a_session_is_the_end_of_all_of_it(device: Machine) -> None:
    use_runtime(device, BREEDER)
    number = launch(device, TICKER)
    session = Group(device, number, TICKER)
    eventually(lambda: len(session.read("cgroup.procs").split()) == 3)
    weftctl(device, "stop", str(number))
    eventually(lambda: Group(device).leaves == {"supervisor"})
    assert device.run("pgrep", "--exact", "sleep", check=False).stdout == ""


def test_no_group_is_left_of_sessions_that_have_ended(device: Machine) -> None:
    numbers = [launch(device, app_id) for app_id in (TICKER, BUSY, TICKER)]
    assert len(Group(device).leaves) == 1 + len(numbers)
    for number in numbers:
        weftctl(device, "stop", str(number))
    eventually(lambda: Group(device).leaves == {"supervisor"})


def test_a_service_that_takes_too_much_memory_ends_as_systemd_says(device: Machine) -> None:
    service, neighbour = f"weft-app@{EATER}.service", f"weft-app@{TICKER}.service"
    device.write(f"/run/systemd/system/{service}.d/test.conf", "[Service]\nMemoryMax=128M\nRestart=no\n")
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "start", neighbour)
    device.run("systemctl", "start", service)  # it is ready before it takes any memory
    eventually(lambda: show(device, "ActiveState", service) == "failed")
    assert show(device, "Result", service) == "oom-kill"
    assert show(device, "ActiveState", neighbour) == "active"
    assert show(device, "ActiveState") == "active"
    said = [str(entry["MESSAGE"]) for entry in device.journal(f"UNIT={service}")]
    assert f"{service}: Failed with result 'oom-kill'." in said
    device.run("systemctl", "stop", neighbour)


def test_the_daemon_gets_its_share_beside_sessions_that_compute_without_end(device: Machine) -> None:
    """A second hog stands for the daemon, in its group: it gets a whole CPU, and each session a part of the other."""
    first, *_ = [launch(device, BUSY) for _ in range(4)]
    unit, session = Group(device), Group(device, first, BUSY)
    stand_in = f"echo $$ >{unit.path}/supervisor/cgroup.procs; while :; do :; done"
    device.run("systemd-run", "--unit=stand-in", "sh", "-c", stand_in)

    def used(of_daemon: str, of_session: str) -> tuple[int, int]:
        return unit.keys(of_daemon)["usage_usec"], session.keys(of_session)["usage_usec"]

    try:
        begun = used("supervisor/cpu.stat", "cpu.stat")
        eventually(lambda: used("supervisor/cpu.stat", "cpu.stat")[0] - begun[0] > 10_000_000)
        ended = used("supervisor/cpu.stat", "cpu.stat")
        assert ended[0] - begun[0] > 2.5 * (ended[1] - begun[1])
        assert launch(device, TICKER) > first
    finally:
        device.run("systemctl", "stop", "stand-in", check=False)
