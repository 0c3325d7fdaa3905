# SPDX-License-Identifier: Apache-2.0
"""What a session's process is given: arguments, environment, descriptors, signals, directories, and no more."""

import os
from pathlib import Path

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import FAKE_RUNTIME, Appd, eventually
from tests.packages import APP_ID
from weft_runtime.protocol import Error, ErrorCode, LaunchApp, Subscribe

RUNNING = "ready(); wait()"
ORDINARY_SIGNALS = 2**31 - 1  # the C library has two of its own behind them

# What systemd tells the daemon, and what nobody has a use for.
NOT_FOR_APPS = {
    "WATCHDOG_USEC": "60000000",
    "WATCHDOG_PID": "1",
    "LISTEN_PID": "1",
    "LISTEN_FDS": "1",
    "LISTEN_FDNAMES": "control",
    "JOURNAL_STREAM": "8:1234",
    "INVOCATION_ID": "0123456789abcdef0123456789abcdef",
    "STATE_DIRECTORY": "",
    "MAINPID": "1",
    "SECRET": "of the daemon",
    "LD_LIBRARY_PATH": "/nonexistent",
    "PYTHONPATH": "/nonexistent",
    "WEFT_LOG_LEVEL": "info",
}
FOR_APPS = {
    "CACHE_DIRECTORY": "/nonexistent",
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "WEFT_BACKGROUND": "1",
    "WEFT_ENGINE": "pulley",
    "XDG_CACHE_HOME": "/nonexistent",
}


def pid_of(appd: Appd, session: int) -> int:
    pid = appd.sessions[session].pid
    assert pid is not None
    return pid


def arguments(pid: int) -> list[str]:
    """The command line, which is empty for a moment in the middle of execve(2)."""

    def read() -> list[str]:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]

    eventually(lambda: bool(read()), "the program is executed")
    return read()


def status(pid: int, name: str) -> str:
    """A line of proc(5)'s status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


@pytest.fixture
def shell_runtime(tmp_path: Path) -> str:
    """A runtime that, other than Python, changes nothing about its signals."""
    runtime = tmp_path / "runtime"
    runtime.write_text("#!/bin/sh\necho READY\nexec sleep 1000\n")
    runtime.chmod(0o755)
    return str(runtime)


def test_its_arguments_are_the_app_and_the_session(appd: Appd) -> None:
    session = appd.run_app(RUNNING)
    assert arguments(pid_of(appd, session))[-3:] == [str(FAKE_RUNTIME), APP_ID, "1"]


def test_its_environment_is_what_is_meant_for_it_and_nothing_else(start: Make) -> None:
    appd = start(**NOT_FOR_APPS, **FOR_APPS)
    pid = pid_of(appd, appd.run_app(RUNNING))
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")[:-1]
    assert sorted(variables) == sorted(
        [
            *(f"{name}={value}" for name, value in FOR_APPS.items()),
            *(f"{name}={appd.environ[name]}" for name in ("PATH", "XDG_RUNTIME_DIR", "WEFT_APP_STORE")),
            "WEFT_LOG=stderr", "WEFT_LOG_LEVEL=warning", "WEFT_REPORT_FD=3", "WEFT_SUPERVISED=1",
        ]
    )  # fmt: skip


def test_the_store_of_the_settings_is_the_store_of_the_app(make: Make, tmp_path: Path) -> None:
    appd = make()
    del appd.environ["WEFT_APP_STORE"]
    appd.config.write_text(f'app_store = "{appd.store}"\n')
    appd.start()
    pid = pid_of(appd, appd.run_app(RUNNING))
    assert f"WEFT_APP_STORE={appd.store}\0" in Path(f"/proc/{pid}/environ").read_text()


def test_its_descriptors_are_its_streams_and_its_report(start: Make) -> None:
    appd = start(WEFT_APPD_WS_PORT="0")
    for _ in range(3):
        appd.connect().ask(Subscribe(None))
        appd.websocket()
    appd.run_app(RUNNING)
    session = appd.run_app("note('descriptors', descriptors()); ready(); wait()")
    found = appd.note(session, "descriptors")
    assert sorted(found) == ["0", "1", "2", "3"], found
    assert found.pop("0") == "/dev/null"
    assert all(target.startswith("pipe:") for target in found.values())
    assert len(set(found.values())) == 3


def test_it_reads_nothing_on_its_standard_input(appd: Appd) -> None:
    session = appd.run_app("note('input', sys.stdin.read()); ready(); wait()")
    assert appd.note(session, "input") == ""


def test_it_leads_a_process_group_and_is_killed_before_the_daemon_when_memory_runs_out(appd: Appd) -> None:
    pid = pid_of(appd, appd.run_app(RUNNING))
    assert os.getpgid(pid) == pid
    daemon = int(Path(f"/proc/{appd.process.pid}/oom_score_adj").read_text())
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == min(1000, daemon + 200)


def test_no_signal_is_blocked_or_ignored_in_it(start: Make, shell_runtime: str) -> None:
    appd = start(WEFT_RUNTIME_BIN=shell_runtime)
    pid = pid_of(appd, appd.run_app(""))
    assert int(status(pid, "SigBlk"), 16) == 0
    assert int(status(pid, "SigIgn"), 16) & ORDINARY_SIGNALS == 0


def test_a_signal_that_the_daemon_was_told_to_ignore_still_ends_it(make: Make, shell_runtime: str) -> None:
    appd = make(WEFT_RUNTIME_BIN=shell_runtime)
    appd.start(wrapper=["nohup"])
    pid = pid_of(appd, appd.run_app(""))
    assert int(status(pid, "SigIgn"), 16) & ORDINARY_SIGNALS == 0


@pytest.mark.parametrize(
    ("capabilities", "option"),
    [
        (["fs:rw:app-data"], "--preopen"),
        (["fs:read:app-data"], "--preopen-ro"),
        (["fs:read:app-data", "fs:rw:app-data", "fs:rw:app-data"], "--preopen"),
    ],
)
def test_app_data_is_a_directory_of_its_own(make: Make, capabilities: list[str], option: str) -> None:
    appd = make()
    root = appd.directory / "somewhere/data"
    appd.environ["WEFT_DATA_ROOT"] = str(root)
    appd.start()
    appd.install(RUNNING, capabilities=capabilities)
    pid = pid_of(appd, appd.launch())
    assert arguments(pid)[-2:] == [option, f"{root}/{APP_ID}::/data"]
    assert [path.stat().st_mode & 0o777 for path in (root, root / APP_ID)] == [0o700, 0o700]
    # What is there stays there.
    (root / APP_ID / "kept").touch()
    appd.launch()
    assert (root / APP_ID / "kept").exists()


def test_app_data_of_a_user_is_in_the_home_and_documents_are_too(make: Make) -> None:
    appd = make()
    home = appd.directory / "home"
    (home / "Documents").mkdir(parents=True)
    appd.environ["HOME"] = str(home)
    appd.start()
    appd.install(RUNNING, capabilities=["fs:read:xdg-documents", "fs:rw:app-data"])
    assert arguments(pid_of(appd, appd.launch()))[-4:] == [
        "--preopen", f"{home}/.local/share/weft/data/{APP_ID}::/data",
        "--preopen-ro", f"{home}/Documents::/xdg/documents",
    ]  # fmt: skip
    appd.install(RUNNING, app_id="org.example.writer", capabilities=["fs:rw:xdg-documents"])
    assert arguments(pid_of(appd, appd.launch("org.example.writer")))[-2:] == [
        "--preopen", f"{home}/Documents::/xdg/documents",
    ]  # fmt: skip
    (home / "Documents").rmdir()
    assert arguments(pid_of(appd, appd.launch("org.example.writer")))[-1] == "3"


def test_app_data_of_a_service_is_in_its_state_directory(make: Make) -> None:
    appd = make()
    state = appd.directory / "state"
    appd.environ |= {"HOME": str(appd.directory), "STATE_DIRECTORY": str(state)}
    appd.expected_files = set()
    appd.start()
    appd.install(RUNNING, capabilities=["fs:rw:app-data"])
    assert arguments(pid_of(appd, appd.launch()))[-1] == f"{state}/data/{APP_ID}::/data"


def test_without_a_capability_there_is_no_directory(make: Make) -> None:
    appd = make()
    root = appd.directory / "data"
    appd.environ |= {"WEFT_DATA_ROOT": str(root), "HOME": str(appd.directory)}
    appd.start()
    pid = pid_of(appd, appd.run_app(RUNNING))
    assert arguments(pid)[-1] == "1"
    assert not root.exists()


def refusal(appd: Appd, capability: str) -> str:
    appd.install(RUNNING, capabilities=["sys:notifications", capability])
    answer = appd.control.ask(LaunchApp(APP_ID, 0))
    assert isinstance(answer, Error)
    assert answer.code == ErrorCode.CAPABILITY_REFUSED
    assert not appd.children
    return answer.message


@pytest.mark.parametrize(
    "capability", ["fs:rw:everything", "net:fetch:", "net:fetch", "FS:RW:APP-DATA", "\n"]
)
def test_an_unknown_capability_refuses_the_launch(appd: Appd, capability: str) -> None:
    shown = capability.replace("\n", r"\x0a")
    assert refusal(appd, capability) == f"unknown capability '{shown}'"


def test_no_place_for_app_data_refuses_the_launch(appd: Appd) -> None:
    assert refusal(appd, "fs:rw:app-data") == "there is no data root: the setting data_root is empty"


def test_a_link_in_the_place_of_app_data_refuses_the_launch(make: Make) -> None:
    appd = make()
    (appd.directory / "data").mkdir()
    (appd.directory / "data" / APP_ID).symlink_to("/etc")
    appd.environ["WEFT_DATA_ROOT"] = str(appd.directory / "data")
    appd.start()
    path = appd.directory / "data" / APP_ID
    assert refusal(appd, "fs:rw:app-data") == f"cannot make the data directory '{path}': Not a directory"


def test_capabilities_that_come_to_nothing_are_named(appd: Appd) -> None:
    names = ["net:fetch:example.org", "sys:clipboard:read", "hw:gpu:render"]
    appd.install(RUNNING, capabilities=names)
    session = appd.launch()
    shown = f"notice: capabilities that this release does not serve: {', '.join(names)}"
    assert appd.find("does not serve", session) == shown
