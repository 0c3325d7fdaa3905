# SPDX-License-Identifier: Apache-2.0
"""Control groups of sessions below a real unit. What their limits do is tested in a virtual machine (tests/vm)."""

from pathlib import PurePosixPath

import pytest

from tests.system.appd import (
    CONFIG,
    TICKER,
    UNIT,
    ask,
    entries,
    eventually,
    launch,
    sessions,
    show,
    until_state,
)
from tests.system.container import Container

pytestmark = pytest.mark.sessions

# Leaves a process behind that is in no process group of the session and asks for no pardon.
BREEDER = """\
#!/bin/sh
trap '' TERM
setsid sleep 1000 &
echo READY
wait
"""

# Makes control groups of its own below its session's, enters the lowest, and ends; or waits, if it is to.
NESTER = """\
#!/bin/sh
base=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir -p "$base/a/b" "$base/c" && echo $$ >"$base/a/b/cgroup.procs"
echo READY
[ ! -e /run/nester-waits ] || sleep 1000
"""

# Names the groups of processes that belong to no session yet.
WAITING = """\
cd "$1" && for group in session-*; do
    for pid in $(cat "$group/cgroup.procs"); do
        tr '\\0' ' ' <"/proc/$pid/cmdline" | grep -qE -e '\\(spare\\)|--fork-server' && echo "$group"
    done
done
"""


def groups(container: Container) -> set[str]:
    """The daemon's and its sessions'. Where systemd puts the command of a reload, .control, is not of them.

    Nor are those in which a process waits for a session, or for compilers.
    """
    base = group(container)
    found = container.run("find", base, "-mindepth", "1", "-type", "d", "-printf", "%P\\n").stdout.split()
    waiting = container.run("sh", "-c", WAITING, "sh", base, check=False).stdout.split()
    return set(found) - {".control", "compiler", *waiting}


def group(container: Container) -> str:
    return f"/sys/fs/cgroup{show(container, 'ControlGroup')}"


def processes(container: Container, name: str) -> set[str]:
    return set(container.run("cat", f"{group(container)}/{name}/cgroup.procs").stdout.split())


def test_daemon_and_sessions_have_leaves_of_their_own(service: Container) -> None:
    first, second = launch(service, TICKER, TICKER)
    known = until_state(service, "running", first, second)
    assert groups(service) == {"supervisor", f"session-{first}", f"session-{second}"}
    assert show(service, "MainPID") in processes(service, "supervisor")
    for number in (first, second):
        assert str(known[number]["pid"]) in processes(service, f"session-{number}")
    shown = service.run("systemctl", "--no-pager", "--full", "status", UNIT).stdout
    for part in ("supervisor", f"session-{first}", f"session-{second}"):
        assert part in shown


def test_compilers_have_a_leaf_of_their_own(service: Container) -> None:
    def cpu_used() -> int:
        return int(service.run("cat", f"{group(service)}/compiler/cpu.stat").stdout.split()[1])

    before = cpu_used()
    (session,) = launch(service, TICKER)
    until_state(service, "running", session)
    assert cpu_used() > before
    assert processes(service, "compiler") == set()


@pytest.mark.once("it launches nothing")
def test_the_daemon_names_the_controllers_that_hold_the_limits(service: Container) -> None:
    (answer,) = ask(service, {"type": "QUERY_STATUS"})
    used = service.run("cat", f"{group(service)}/cgroup.subtree_control").stdout.split()
    assert sorted(answer["controllers"]) == sorted(used)


def test_the_group_of_a_session_goes_with_it(service: Container) -> None:
    (session,) = launch(service, TICKER)
    until_state(service, "running", session)
    ask(service, {"type": "TERMINATE_APP", "session_id": session})
    eventually(lambda: groups(service) == {"supervisor"})
    (entry,) = entries(service, f"WEFT_SESSION_ID={session}", "WEFT_EVENT=session-ended", at_least=1)
    # What the compiler used is in it, although the session's process did not wait for all of it.
    assert int(str(entry["WEFT_CPU_USEC"])) > 0


@pytest.mark.once("the runtime is a script, which offers no fork server")
def test_the_end_of_a_session_is_the_end_of_all_in_its_group(service: Container) -> None:
    service.write("/usr/local/bin/breeder", BREEDER, 0o755)
    service.write(CONFIG, 'runtime_bin = "/usr/local/bin/breeder"\n')
    service.run("systemctl", "reload", UNIT)
    (session,) = launch(service, TICKER)
    until_state(service, "running", session)
    eventually(lambda: len(processes(service, f"session-{session}")) == 2)
    ask(service, {"type": "TERMINATE_APP", "session_id": session})
    eventually(lambda: groups(service) == {"supervisor"})
    # systemd, to which it fell, may still have to collect it.
    eventually(lambda: service.run("pgrep", "sleep", check=False).stdout == "")


@pytest.mark.once("the runtime is a script, which offers no fork server")
def test_groups_that_a_runtime_made_below_its_sessions_go_with_it(service: Container) -> None:
    service.write("/usr/local/bin/nester", NESTER, 0o755)
    service.write("/run/nester-waits", "")
    service.write(CONFIG, 'runtime_bin = "/usr/local/bin/nester"\n')
    service.run("systemctl", "reload", UNIT)
    first, second = launch(service, TICKER, TICKER)
    until_state(service, "running", first, second)
    assert groups(service) >= {f"session-{first}", f"session-{first}/a/b", f"session-{second}/c"}
    service.run("rm", "/run/nester-waits")
    until_state(service, "stopped", *launch(service, TICKER))
    ask(service, *({"type": "TERMINATE_APP", "session_id": session} for session in (first, second)))
    eventually(lambda: groups(service) == {"supervisor"})
    # A tree that a daemon before this one has left.
    service.run("mkdir", "-p", f"{group(service)}/session-99/a/b/c", f"{group(service)}/session-99/d")
    service.run("systemctl", "reload", UNIT)
    eventually(lambda: groups(service) == {"supervisor"})


@pytest.mark.once("the limit is that of the group, whoever is in it")
def test_a_session_cannot_make_many_groups(service: Container) -> None:
    (session,) = launch(service, TICKER)
    until_state(service, "running", session)
    path = f"{group(service)}/session-{session}"
    many = service.run("sh", "-c", f"cd {path} && mkdir $(seq 1000)", check=False)
    assert "Resource temporarily unavailable" in many.stderr
    assert 10 < len(groups(service)) < 100
    ask(service, {"type": "TERMINATE_APP", "session_id": session})
    eventually(lambda: groups(service) == {"supervisor"})


@pytest.mark.once("the runtime is a script, which offers no fork server")
@pytest.mark.parametrize(
    ("text", "reason"),
    [("#!/nonexistent/python3\n", "No such file or directory"), ("true\n", "Exec format error")],
    ids=["no interpreter", "no program"],
)
def test_a_runtime_that_cannot_be_executed_is_a_refused_launch(
    service: Container, text: str, reason: str
) -> None:
    service.write("/usr/local/bin/broken", text, 0o755)
    service.write(CONFIG, 'runtime_bin = "/usr/local/bin/broken"\n')
    service.run("systemctl", "reload", UNIT)
    (answer,) = ask(service, {"type": "LAUNCH_APP", "app_id": TICKER, "surface_id": 0})
    assert answer["type"] == "ERROR"
    assert answer["message"] == f"cannot start /usr/local/bin/broken: {reason}"
    eventually(lambda: groups(service) == {"supervisor"})


def test_a_reload_keeps_the_groups(service: Container) -> None:
    (session,) = launch(service, TICKER)
    until_state(service, "running", session)
    before = groups(service)
    service.run("systemctl", "reload", UNIT)
    assert groups(service) == before
    assert show(service, "MainPID") in processes(service, "supervisor")
    ask(service, {"type": "TERMINATE_APP", "session_id": session})
    eventually(lambda: groups(service) == {"supervisor"})


def test_after_a_crash_the_groups_are_made_anew(service: Container) -> None:
    (session,) = launch(service, TICKER)
    until_state(service, "running", session)
    eventually(
        lambda: TICKER in service.run("cat", "/var/lib/weft/appd/last-session.json", check=False).stdout
    )
    # As if the one before had left it behind.
    left_over = PurePosixPath(group(service), "session-99")
    service.run("mkdir", str(left_over))
    daemon = show(service, "MainPID")
    service.run("kill", "-KILL", daemon)
    eventually(
        lambda: show(service, "MainPID") not in ("0", daemon) and show(service, "ActiveState") == "active"
    )
    eventually(lambda: [each["state"] for each in sessions(service).values() if each["pid"]] == ["running"])
    (session,) = [number for number, each in sessions(service).items() if each["pid"]]
    assert groups(service) == {"supervisor", f"session-{session}"}


@pytest.mark.once("it launches nothing")
def test_a_limit_that_cannot_hold_is_told_once(service: Container) -> None:
    here = set(service.run("cat", f"{group(service)}/cgroup.controllers").stdout.split())
    missing = [name for name in ("cpu", "memory", "pids") if name not in here]
    told = [str(entry["MESSAGE"]) for entry in entries(service, "PRIORITY=5", at_least=bool(missing))]
    expected = f"no controller here for {', '.join(missing)}: sessions run without these limits"
    assert told == ([expected] if missing else [])


def test_without_delegation_there_are_no_groups_and_it_is_told(
    container: Container, installed: None
) -> None:
    container.write(f"/run/systemd/system/{UNIT}.d/plain.conf", "[Service]\nDelegate=no\n")
    container.run("systemctl", "daemon-reload")
    try:
        container.run("systemctl", "start", UNIT)
        (session,) = launch(container, TICKER)
        until_state(container, "running", session)
        assert groups(container) == set()
        (told,) = entries(container, "PRIORITY=5", at_least=1)
        assert told["MESSAGE"] == "the unit's control group is not delegated: sessions run without limits"
    finally:
        container.run("systemctl", "stop", UNIT)
        container.run("rm", "-rf", f"/run/systemd/system/{UNIT}.d", "/var/lib/weft/appd")
        container.run("systemctl", "daemon-reload")
