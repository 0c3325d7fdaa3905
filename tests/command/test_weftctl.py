# SPDX-License-Identifier: Apache-2.0
"""weftctl against a real weft-appd that runs real apps."""

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence

import pytest

from tests.command.device import OTHER_ID, PROGRAMS, STAYS, Background, Device, Done
from tests.command.guests import guest, leave, say
from tests.command.harness import RUN_SECONDS, eventually
from tests.packages import APP_ID, install, manifest
from tests.unit.needs import ROOT
from weft_runtime.ctl.checks import CHECKS

WRITES_READY = 'ready = "guest"'


# launch


def test_launch_prints_the_number_and_returns_when_the_app_is_ready(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    done = appd.ctl("launch", APP_ID)
    assert (done.status, done.stdout) == (0, "1\n")
    assert re.fullmatch(rf"weftctl: session 1 of {APP_ID} is ready after \d+\.\d{{3}} s\n", done.stderr)
    assert appd.session(1)["state"] == "running"
    assert appd.launch() == 2


def test_launch_as_json_is_the_session(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    done = appd.ctl("launch", APP_ID, "--json")
    (session,) = done.json
    assert (session["session_id"], session["app_id"], session["state"]) == (1, APP_ID, "running")
    assert done.stderr == ""
    assert session.items() <= appd.session(1).items()


def test_launch_without_waiting_returns_before_the_app_is_ready(appd: Device) -> None:
    install(appd.store, guest(STAYS), toml=manifest(runtime=WRITES_READY))
    assert appd.ctl("launch", "--no-wait", APP_ID) == Done(0, "1\n", "")
    assert appd.ctl("launch", "--no-wait", APP_ID, "--json").json[0]["state"] == "starting"


@pytest.mark.parametrize(
    ("code", "status", "end"),
    [
        ("", 0, "the app exited with status 0"),
        (leave(3), 3, "the app exited with status 3"),
        ("unreachable", 134, "exited with status 134: the app trapped in _start: unreachable: .*"),
    ],
)
def test_launch_and_wait_ends_as_the_app_does(appd: Device, code: str, status: int, end: str) -> None:
    install(appd.store, guest(code))
    done = appd.ctl("launch", "--wait", APP_ID)
    assert (done.status, done.stdout) == (status, "1\n")
    assert re.fullmatch(f"weftctl: session 1 of {APP_ID} has ended: {end}\n", done.stderr)


def test_launch_and_wait_tells_a_signal_as_a_shell_does(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    waiting = appd.begin("launch", APP_ID, "-w", "--json")
    eventually(lambda: appd.ctl("list", "--json").json != [], "it is launched")
    os.kill(int(str(appd.session(1)["pid"])), signal.SIGKILL)
    done = waiting.wait()
    assert done.status == 137
    assert (done.json[0]["signal"], done.json[0]["exit_status"]) == ("SIGKILL", None)


def test_an_app_that_ends_before_it_is_ready(appd: Device) -> None:
    install(appd.store, guest(leave(3)), toml=manifest(runtime=WRITES_READY))
    done = appd.ctl("launch", APP_ID)
    assert (done.status, done.stdout) == (3, "1\n")
    assert done.stderr == (
        f"weftctl: session 1 of {APP_ID} ended before READY: the app exited with status 3\n"
    )


def test_an_app_that_ends_well_before_it_is_ready_is_a_failure_too(appd: Device) -> None:
    install(appd.store, guest(""), toml=manifest(runtime=WRITES_READY))
    assert appd.ctl("launch", APP_ID).status == 1
    assert appd.ctl("launch", APP_ID, "--wait").status == 0


def test_an_app_that_is_nowhere(appd: Device) -> None:
    done = appd.ctl("launch", APP_ID)
    assert done.status == 166
    assert done.stderr == (
        f"weftctl: package '{APP_ID}' not found in any package store; searched: '{appd.store}'\n"
    )


def test_an_app_that_is_in_the_callers_own_store_only(appd: Device) -> None:
    own = appd.directory / "home/.local/share/weft/apps"
    own.mkdir(parents=True)
    install(own, guest(""))
    done = appd.ctl("launch", APP_ID)
    assert (done.status, done.stdout) == (166, "")
    assert done.stderr == (
        f"weftctl: '{APP_ID}' is installed in your own store '{own}', which this daemon does not read"
        " [see WEFT_APP_STORE, and HOME, where it runs]\n"
    )


@pytest.mark.parametrize(
    ("toml", "status", "complaint"),
    [
        ("[package]\n", 165, "runtime is missing"),
        (
            manifest().replace("[runtime]", 'capabilities = ["root"]\n[runtime]'),
            177,
            "unknown capability 'root'",
        ),
    ],
)
def test_a_package_that_cannot_be_launched(appd: Device, toml: str, status: int, complaint: str) -> None:
    install(appd.store, guest(""), toml=toml)
    done = appd.ctl("launch", APP_ID)
    assert (done.status, done.stdout) == (status, "")
    assert complaint in done.stderr


def test_a_daemon_without_a_runtime(device: Device) -> None:
    device.start(WEFT_RUNTIME_BIN="/nonexistent")
    install(device.store, guest(""))
    done = device.ctl("launch", APP_ID)
    assert done.status == 169
    assert "the runtime '/nonexistent' is no executable program" in done.stderr


def test_ctrl_c_while_waiting_leaves_the_app_alone(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    waiting = appd.begin("launch", "--wait", APP_ID)
    assert waiting.line() == "1"
    eventually(lambda: appd.session(1)["state"] == "running", "it runs")
    done = waiting.interrupt()
    assert done.status == 130
    assert done.stderr == f"weftctl: session 1 of {APP_ID} goes on [end it with 'weftctl stop 1']\n"
    assert appd.session(1)["state"] == "running"


def test_launches_of_one_app_at_the_same_time_do_not_get_mixed_up(appd: Device) -> None:
    for status in range(5):
        install(appd.store, guest(leave(status)), app_id=f"org.example.exits{status}")
    started = [
        (index % 5, appd.begin("launch", "--json", "-w", f"org.example.exits{index % 5}"))
        for index in range(10)
    ]
    ended = [(status, waiting.wait()) for status, waiting in started]
    assert [done.status for _, done in ended] == [status for status, _ in ended]
    assert {str(done.json[0]["app_id"])[-1] for status, done in ended if status == 4} == {"4"}
    assert len({done.json[0]["session_id"] for _, done in ended}) == 10


def test_the_end_of_the_daemon_ends_the_waiting(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    waiting = appd.begin("launch", "--wait", APP_ID)
    assert waiting.line() == "1"
    # Its compiler would outlive it for a moment, in which the daemon still answers: then all is told as of any other end.
    eventually(lambda: appd.session(1)["state"] == "running", "it runs")
    appd.stop()
    done = waiting.wait()
    assert done.status == 171
    assert "has ended, and weft-appd with it" in done.stderr
    assert "weftctl: lost weft-appd: " in done.stderr


# list, status, apps, stop


def test_list_shows_what_lives_and_on_demand_what_has_ended(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    install(appd.store, guest(leave(3)), app_id=OTHER_ID)
    assert appd.ctl("list") == Done(0, "", "weftctl: no session is running\n")
    assert appd.ctl("list", "--json") == Done(0, "[]\n", "")
    appd.launch()
    appd.launch(OTHER_ID, "--no-wait")
    eventually(lambda: appd.session(2)["state"] == "stopped", "the second has ended")
    header, row = appd.ctl("list").stdout.splitlines()
    assert header.split() == ["ID", "KIND", "APP", "VERSION", "STATE", "SINCE", "REASON"]
    assert re.fullmatch(rf"1   session  {APP_ID}  1\.2\.3    running  \d\d:\d\d:\d\d  -", row)
    header, first, second = appd.ctl("list", "--all").stdout.splitlines()
    assert first.split()[:5] == ["1", "session", APP_ID, "1.2.3", "running"]
    assert re.fullmatch(
        rf"2   session  {OTHER_ID}  1\.2\.3    stopped  \d\d:\d\d:\d\d  the app exited with status 3", second
    )
    # Every column begins where its name does.
    assert second.index("the app exited") == header.index("REASON")
    assert [item["session_id"] for item in appd.ctl("list", "--json").json] == [1]
    assert [item["session_id"] for item in appd.ctl("list", "-a", "--json").json] == [1, 2]


def test_status_tells_all(appd: Device) -> None:
    install(appd.store, guest(say("in\n") + leave(3)))
    appd.ctl("launch", "--wait", APP_ID)
    when = r"\w{3} \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    shown = appd.ctl("status", "1").stdout
    assert re.fullmatch(
        rf"""Session:    1
App:        {APP_ID}
Version:    1\.2\.3
State:      stopped
PID:        -
Launched:   {when}, \d+ s ago, by .+
Ready:      {when}, after \d+\.\d+ s
Stopped:    {when}, \d+ s ago, after \d+\.\d+ s
Result:     3
Reason:     the app exited with status 3
CPU:        \d+\.\d+ s
Package:    {appd.store}/{APP_ID}
Signature:  the package is not signed; policy '\w+'
""",
        shown,
    ), shown
    assert {
        "session_id", "app_id", "state", "pid", "launched", "ready", "stopped", "exit_status",
        "signal", "reason", "kind", "version", "installed_version",
    } <= set(appd.session(1))  # fmt: skip


def test_status_of_no_session(appd: Device) -> None:
    assert appd.ctl("status", "9") == Done(
        166,
        "",
        "weftctl: there is no session 9 ['weftctl list --all' shows those that weft-appd remembers,"
        " 'weftctl logs 9' what there was before]\n",
    )


def test_apps_lists_what_can_be_launched_and_shows_hostile_names_harmless(appd: Device) -> None:
    assert appd.ctl("apps") == Done(0, "", "weftctl: no app is installed\n")
    install(appd.store, guest(""), toml=manifest().replace('"A test"', '"\\u001b[2J\\u202eevil\\n"'))
    install(appd.store, guest(""), app_id=OTHER_ID, toml=manifest(OTHER_ID).replace("A test", "日本語"))
    done = appd.ctl("apps")
    assert done.stdout.splitlines() == [
        "APP                NAME                     VERSION",
        rf"{APP_ID}    \x1b[2J\u{{202e}}evil\x0a  1.2.3",
        f"{OTHER_ID}  日本語                   1.2.3",
    ]
    done = appd.ctl("apps", "--json")
    assert done.stdout.isascii()
    assert {item["app_id"]: item["name"] for item in done.json} == {
        APP_ID: "\x1b[2J\u202eevil\n",
        OTHER_ID: "日本語",
    }


def test_stop_ends_a_session(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    appd.launch()
    done = appd.ctl("stop", "1")
    assert done.status == 0
    assert re.fullmatch(
        rf"session 1 of {APP_ID} stopped: terminated by .* \(uid .*: stopped by SIGTERM\n",
        done.stdout,
    )
    assert appd.ctl("stop", "1").stdout.startswith(f"session 1 of {APP_ID} had ended already: ")
    assert appd.ctl("stop", "2").status == 166


def test_stop_ends_all_sessions_of_an_app_at_the_same_time(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    install(appd.store, guest(STAYS), app_id=OTHER_ID)
    for _ in range(3):
        appd.launch()
    appd.launch(OTHER_ID)
    done = appd.ctl("stop", APP_ID, "--json")
    assert done.status == 0
    assert [(item["session_id"], item["state"]) for item in done.json] == [
        (1, "stopped"), (2, "stopped"), (3, "stopped")
    ]  # fmt: skip
    assert [item["session_id"] for item in appd.ctl("list", "--json").json] == [4]
    assert appd.ctl("stop", APP_ID) == Done(
        166, "", f"weftctl: no session of {APP_ID} is running [see 'weftctl list']\n"
    )


# watch


def test_status_without_a_number_is_that_of_the_daemon(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    appd.launch()
    assert appd.daemon is not None
    eventually(lambda: appd.ctl("status", "--json").json[0]["fork_server"] is not None, "it has started")
    (found,) = appd.ctl("status", "--json").json
    assert (found["pid"], found["live"], found["starting"]) == (appd.daemon.pid, 1, 0)
    assert (found["socket"], found["log"]) == (str(appd.socket), "stderr")
    assert (found["runtime"], found["runtime_problem"]) == (str(PROGRAMS / "weft-runtime-wasmtime"), None)
    limits = found["limits"]
    assert isinstance(limits, dict)
    assert limits["stop_grace"] == "1"
    rows = dict(line.split(": ", 1) for line in appd.ctl("status").stdout.splitlines())
    assert rows["Sessions"].strip() == "1, 0 of them starting"
    assert rows["Runtime"].strip() == found["runtime"]
    assert rows["Since"].endswith(" ago")
    assert rows["Fork server"].strip().startswith(f"pid {found['fork_server']}, ")


def test_status_tells_where_there_is_no_fork_server(device: Device) -> None:
    device.start(WEFT_FORK_SERVER="false")
    assert "Fork server:  none, each session executes the runtime\n" in device.ctl("status").stdout
    assert device.ctl("status", "--json").json[0]["fork_server"] is None


def test_status_says_why_no_app_can_run(device: Device) -> None:
    device.start(WEFT_RUNTIME_BIN="/nonexistent")
    assert "none: the runtime '/nonexistent' is no executable program" in device.ctl("status").stdout


WATCHING = "weftctl: watching, Ctrl-C ends it\n"


def until_watching(watching: Background) -> None:
    eventually(lambda: watching.stderr == WATCHING, "it watches")


def test_watch_tells_what_happens(appd: Device) -> None:
    install(appd.store, guest(leave(3)))
    install(appd.store, guest(STAYS), app_id=OTHER_ID)
    appd.launch(OTHER_ID)
    text, lines = appd.begin("watch"), appd.begin("watch", "--json")
    for watching in (text, lines):
        until_watching(watching)
    appd.ctl("launch", "-w", APP_ID)
    appd.ctl("stop", "1")
    clock = r"\d\d:\d\d:\d\d"
    seen = [text.line() for _ in range(4)]
    assert re.fullmatch(rf"{clock}  launched  2       {APP_ID}", seen[0])
    assert re.fullmatch(rf"{clock}  ready     2       {APP_ID}", seen[1])
    assert re.fullmatch(rf"{clock}  stopped   2       {APP_ID} +  the app exited with status 3", seen[2])
    # Launched before anybody watched.
    assert re.fullmatch(rf"{clock}  stopped   1       {OTHER_ID} +  terminated by .*", seen[3])
    events = [json.loads(lines.line()) for _ in range(4)]
    assert [(item["event"], item["session_id"], item["app_id"]) for item in events] == [
        ("launched", 2, APP_ID), ("ready", 2, APP_ID), ("stopped", 2, APP_ID), ("stopped", 1, OTHER_ID)
    ]  # fmt: skip
    assert (events[2]["exit_status"], events[2]["reason"]) == (3, "the app exited with status 3")
    for watching in (text, lines):
        assert watching.interrupt() == Done(130, "", WATCHING)


def test_watch_ends_with_the_daemon(appd: Device) -> None:
    watching = appd.begin("watch")
    until_watching(watching)
    appd.stop()
    assert watching.wait() == Done(
        171,
        "",
        f"{WATCHING}weftctl: lost weft-appd: it closed the connection [see 'journalctl _UID=$(id -u weft) + _PID=1 UNIT=weft-appd.service']\n",
    )


# What is wrong around it


COMMANDS = (
    ["list"], ["launch", APP_ID], ["stop", "1"], ["status", "1"], ["status", APP_ID], ["status"], ["apps"], ["watch"],
    ["restart", "1"], ["restart", APP_ID], ["top", "--once"], ["top", "--json"],
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_daemon(device: Device, command: Sequence[str]) -> None:
    done = device.ctl(*command, env={"WEFT_APPD_SOCKET": str(device.socket)})
    assert done == Done(
        171,
        "",
        f"weftctl: weft-appd is not running: nobody listens on '{device.socket}'"
        " [start it: 'systemctl start weft-appd', or run weft-appd]\n",
    )


def test_no_permission(appd: Device, powerless: Sequence[str]) -> None:
    appd.socket.chmod(0)
    done = appd.ctl("list", wrapper=powerless)
    assert done.status == 177
    assert re.fullmatch(
        rf"weftctl: permission denied on '{appd.socket}'"
        r" \[become a member: 'usermod -aG \w+ USER' as root, then log in again\]\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    "args",
    [
        [], ["frobnicate"], ["list", "x"], ["list", "--al"], ["launch"], ["launch", "X"], ["launch", "1"],
        ["launch", "--no-wait", "--wait", APP_ID], ["launch", "--follow", "--no-wait", APP_ID],
        ["launch", "--wait-stable", "0", APP_ID], ["launch", "--wait-stable", "x", APP_ID],
        ["launch", "--wait-stable", "nan", APP_ID], ["launch", "--wait-stable", "1", "--wait", APP_ID],
        ["stop", ""], ["stop", "-1"], ["status", "x"], ["status", "18446744073709551616"], ["restart"],
        ["logs", "-n", "x", "1"], ["logs", "../x"], ["top", "--sort", "x"], ["top", "--interval", "0"],
        ["history", "1"], ["history", "-n", "-1"],
    ],
)  # fmt: skip
def test_a_wrong_command_line(device: Device, args: list[str]) -> None:
    done = device.ctl(*args)
    assert (done.status, done.stdout) == (164, "")
    assert re.fullmatch(r"weftctl: .+ \[see weftctl.* --help\]\n", done.stderr)


def test_output_that_nobody_reads_or_that_cannot_be_written(appd: Device) -> None:
    install(appd.store, guest(""))
    reader, writer = os.pipe()
    os.close(reader)
    done = appd.ctl("apps", stdout=writer)
    os.close(writer)
    assert done == Done(141, "", "")
    with open("/dev/full", "wb") as full:
        done = appd.ctl("apps", stdout=full)
    assert done == Done(171, "", "weftctl: cannot write to standard output: No space left on device\n")


@pytest.mark.parametrize(
    ("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)], ids=str
)
def test_colour_on_a_terminal_only_and_not_for_those_who_want_none(
    appd: Device, env: Mapping[str, str], coloured: bool
) -> None:
    install(appd.store, guest(STAYS))
    appd.launch()
    assert "\x1b" not in appd.ctl("list").stdout
    ours, theirs = pty.openpty()
    with open(theirs, "wb", buffering=0) as terminal:
        assert appd.ctl("list", env={"TERM": "xterm", **env}, stdout=terminal).status == 0
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert ("\x1b[32mrunning\x1b[0m" in shown) == coloured
    assert ("\x1b" in shown) == coloured


def test_version_and_help(device: Device) -> None:
    assert re.fullmatch(r"weftctl \d+\.\d+\.\d+\n", device.ctl("--version").stdout)
    for args in (
        [],
        ["list"],
        ["launch"],
        ["stop"],
        ["status"],
        ["apps"],
        ["logs"],
        ["watch"],
        ["doctor"],
        ["restart"],
        ["top"],
        ["history"],
    ):
        done = device.ctl(*args, "--help")
        assert (done.status, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: weftctl ")


# doctor


def statuses(done: Done) -> dict[object, object]:
    return {item["check"]: item["status"] for item in done.json}


def test_doctor_on_a_device_where_all_is_well(appd: Device) -> None:
    install(appd.store, guest(""))
    done = appd.ctl("doctor", "--json")
    found = statuses(done)
    assert list(found) == list(CHECKS)
    assert "problem" not in found.values(), done.stdout
    assert done.status == 0
    texts = {item["check"]: item["what"] for item in done.json}
    assert texts["packages"] == f"1 app in {appd.store}"
    assert re.fullmatch(r"weft-runtime-wasmtime \S+ \(wasmtime \S+\)", str(texts["engine"]))
    shown = appd.ctl("doctor").stdout.splitlines()
    assert len(shown) <= len(CHECKS) + 5
    assert shown[0].startswith("versions     ok    weftctl ")


def test_a_finding_has_its_keys_and_those_of_the_first_release(appd: Device) -> None:
    for item in appd.ctl("doctor", "--json").json:
        assert list(item) == ["check", "status", "what", "why", "mend", "verdict", "text", "advice"]
        assert item["verdict"] == ("wrong" if item["status"] == "problem" else item["status"])
        assert item["text"] == (f"{item['what']}: {item['why']}" if item["why"] else item["what"])
        assert item["advice"] == item["mend"]


def test_doctor_says_what_is_wrong_and_what_to_do(device: Device) -> None:
    for app_id in ("org.example.a", "org.example.b"):
        install(device.store, guest(""), app_id=app_id, toml="[package]\n")
    env = {
        "WEFT_APPD_SOCKET": str(device.socket),
        "WEFT_RUNTIME_BIN": "/nonexistent",
        "WEFT_READY_TIMEOUT": "soon",
    }
    done = device.ctl("doctor", "--json", env=env)
    assert done.status == 1
    wrong = [item for item in done.json if item["status"] == "problem"]
    assert [item["check"] for item in wrong] == ["settings", "engine", "socket", "packages", "packages"]
    assert "$WEFT_READY_TIMEOUT is 'soon'" in str(wrong[0]["what"])
    assert wrong[1]["what"] == "the runtime '/nonexistent' is no program"
    assert str(wrong[2]["what"]).endswith(f"on '{device.socket}'")
    assert wrong[2]["mend"] == "weft-appd"
    assert all("runtime is missing" in str(item["what"]) for item in wrong[3:])
    assert all(item["mend"] for item in wrong)
    assert device.ctl("doctor", env=env).status == 1


def test_doctor_sees_settings_that_the_daemon_has_not_taken_over(appd: Device) -> None:
    env = {"WEFT_APPD_SOCKET": str(appd.socket), "WEFT_STOP_GRACE": "7"}
    found = [item for item in appd.ctl("doctor", "--json", env=env).json if item["check"] == "settings"]
    assert [item["status"] for item in found] == ["note"]
    assert "' in weft-appd, '7' in its settings" in str(found[0]["why"])
    assert "stop_grace is '" in str(found[0]["why"])


# Completion


def complete(device: Device, *words: str) -> set[str]:
    """What bash offers for the last of `words`, after weftctl."""
    script = """
        set -u
        source "$1"
        [[ $(complete -p weftctl) == *"-F _weftctl weftctl" ]] || exit 9
        shift
        COMP_WORDS=(weftctl "$@")
        COMP_CWORD=$#
        _weftctl
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", ROOT / "completion/weftctl.bash", *words],
        env=device.environ, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
        timeout=RUN_SECONDS, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return set(done.stdout.split())


def test_completion_offers_sessions_and_apps(appd: Device) -> None:
    install(appd.store, guest(STAYS))
    install(appd.store, guest(""), app_id=OTHER_ID)
    appd.launch()
    appd.ctl("launch", "-w", OTHER_ID)
    assert complete(appd, "launch", "") == {APP_ID, OTHER_ID}
    assert complete(appd, "launch", "--wait", "org.example.o") == {OTHER_ID}
    assert complete(appd, "launch", APP_ID, "") == set()
    assert complete(appd, "stop", "") == {"1", APP_ID}
    assert complete(appd, "restart", "") == {"1", APP_ID}
    assert complete(appd, "status", "") == {"1", "2", APP_ID, OTHER_ID}
    assert complete(appd, "history", "") == {APP_ID, OTHER_ID}
    assert complete(appd, "top", "--sort", "c") == {"cpu"}
    assert complete(appd, "top", "--sort", "cpu", "") == set()
    assert (
        complete(appd, "logs", "") == complete(appd, "logs", "-n", "5", "") == {"1", "2", APP_ID, OTHER_ID}
    )
    assert complete(appd, "logs", "-n", "") == set()
    assert complete(appd, "list", "") == set()


def test_completion_is_silent_without_a_daemon(device: Device) -> None:
    assert complete(device, "l") == {"list", "launch", "logs"}
    assert complete(device, "launch", "") == set()
    assert complete(device, "launch", "--f") == {"--follow"}
