# SPDX-License-Identifier: Apache-2.0
"""What does not answer: standard error that nobody reads, and whatever stands in place of the daemon's files."""

import fcntl
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import WAIT_SECONDS, Appd, eventually, listens
from tests.appd.test_persistence import BOTH, RUNNING, apps, launch_both, saved, until_apps, until_saved
from tests.packages import APP_ID
from weft_runtime import __version__, limits
from weft_runtime.protocol import (
    LaunchApp,
    QueryRunning,
    Reload,
    Reloaded,
    RunningApps,
    State,
    TerminateApp,
)


class Unread:
    """A pipe that nobody reads until it is asked what is in there."""

    def __init__(self) -> None:
        self.source, self.sink = os.pipe()
        fcntl.fcntl(self.sink, fcntl.F_SETPIPE_SZ, 4096)

    def lines(self, until: bytes) -> list[str]:
        """What was written up to the end of the line that has `until`."""
        data = b""
        deadline = time.monotonic() + 4 * WAIT_SECONDS
        while until not in data or not data.endswith(b"\n"):
            left = deadline - time.monotonic()
            assert left > 0, data[-2000:]
            if select.select([self.source], [], [], left)[0]:
                data += os.read(self.source, 1 << 20)
        return data.decode().splitlines()

    def close(self) -> None:
        os.close(self.source)
        os.close(self.sink)


@pytest.fixture
def unread() -> Iterator[Unread]:
    pipe = Unread()
    yield pipe
    pipe.close()


@contextmanager
def running(appd: Appd, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon of `appd` with that standard error; it serves."""
    process = subprocess.Popen(
        [*appd.program, "--config", appd.config], env=appd.environ, stdin=subprocess.DEVNULL,
        stdout=stderr, stderr=stderr, cwd=appd.directory,
    )  # fmt: skip
    appd.process = process
    try:
        eventually(lambda: listens(appd.socket), "it listens")
        yield process
    finally:
        appd.disconnect()
        process.terminate()
        process.wait(WAIT_SECONDS)
        appd.expected_files = {
            os.fspath(file.relative_to(appd.runtime)) for file in appd.runtime.rglob("*") if file.is_file()
        }


LAUNCHES = 60


def test_a_standard_error_that_nobody_reads_holds_nobody_up(make: Make, unread: Unread) -> None:
    appd = make()
    appd.install("say(b'x' * 2000 + b'\\n'); ready(); wait()")
    with running(appd, unread.sink) as process:
        begun = time.monotonic()
        for _ in range(LAUNCHES):
            session = appd.launch()
            appd.until_ready(session)
            appd.control.ask(TerminateApp(session))
        # A wait of 250 ms a line, as there once was, would make minutes of it.
        assert time.monotonic() - begun < WAIT_SECONDS * 2
        assert appd.control.ask(Reload()) == Reloaded(__version__)
        assert appd.control.ask(QueryRunning()) == RunningApps(())
        lines = unread.lines(b"reloaded, ")
        for part in ("launched by", "ready after", "ended by SIGTERM", "ending it", "x" * 2000):
            assert sum(part in line for line in lines) == LAUNCHES, part
        assert sum(" on" in line and "reloaded, " in line for line in lines) == 1
        numbers = [int(match[1]) for line in lines if (match := re.search(r"\[(\d+)\]: launched", line))]
        assert numbers == list(range(1, LAUNCHES + 1))
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0


def test_what_is_lost_is_counted_and_told_once(make: Make, unread: Unread) -> None:
    appd = make(WEFT_LOG_LINES="1000000")
    count = limits.LOG_ENTRIES.value + 2000
    appd.install(f"ready(); until('go'); say(b'line\\n' * {count}); until('end')")
    with running(appd, unread.sink):
        session = appd.launch()
        appd.until_ready(session)
        (appd.store / APP_ID / "go").touch()
        # The answer to this comes behind all the reading of what the app wrote before it ended.
        (appd.store / APP_ID / "end").touch()
        appd.until_stopped(session)
        assert appd.control.ask(Reload()) == Reloaded(__version__)
        lines = unread.lines(b"were lost")
        (told,) = [line for line in lines if "were lost" in line]
        lost = re.search(r"warning: (\d+) entries of the log were lost: standard error did not read$", told)
        assert lost
        # Those of the app; besides, what the daemon has to say of its end, of the fork server and of the reload.
        before = sum(line.endswith(": line") for line in lines)
        assert count - before <= int(lost[1]) <= count - before + 8


def test_it_ends_in_time_although_nobody_reads(make: Make, unread: Unread) -> None:
    appd = make()
    appd.install("say(b'x' * 10000 + b'\\n'); ready(); wait()")
    with running(appd, unread.sink) as process:
        appd.until_ready(appd.launch())
        appd.disconnect()
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0


# Files

OURS = ["last-session.json", ".last-session.json.new", "restore-attempts", ".restore-attempts.new", "appd.wsport",
        ".appd.wsport.new"]  # fmt: skip


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(path))


def put_link(path: Path) -> None:
    path.symlink_to("../elsewhere")


def put_link_to_fifo(path: Path) -> None:
    if not Path("../fifo").exists():
        os.mkfifo("../fifo")
    path.symlink_to("../fifo")


def put_directory(path: Path) -> None:
    (path / "below").mkdir(parents=True)


def put_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize("put", [put_fifo, put_socket, put_link, put_link_to_fifo, put_directory, put_huge])
def test_whatever_stands_in_place_of_its_files_it_starts_saves_and_stops(
    make: Make, put: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    appd = make(WEFT_APPD_WS_PORT="0")
    appd.install(RUNNING)
    appd.start()
    appd.stop()
    path = saved(appd)
    path.unlink()
    monkeypatch.chdir(path.parent)
    for name in OURS:
        put(Path(name))  # the path of a socket is short
    appd.expected_errors.append("is no list of apps to start again")
    appd.start()
    why = "it is not JSON" if put is put_huge else "it is not a regular file"
    assert f"'{path}' is no list of apps to start again: {why}" in appd.find("is no list of apps")
    appd.until_ready(appd.launch())
    if put is not put_directory:
        appd.websocket().close()
    until_saved(appd, f'["{APP_ID}"]'.encode())
    assert appd.stop() < WAIT_SECONDS / 2
    assert not (path.parent.parent / "elsewhere").exists()
    appd.expected_files = {
        os.fspath(file.relative_to(appd.runtime)) for file in appd.runtime.rglob("*") if not file.is_dir()
    }


@pytest.mark.parametrize("setting", ["config", "token", "runtime"])
def test_a_fifo_in_place_of_what_an_operator_names_holds_nothing_up(make: Make, setting: str) -> None:
    appd = make(WEFT_APPD_WS_PORT="0")
    fifo = appd.directory / "fifo"
    os.mkfifo(fifo)
    if setting == "runtime":
        fifo.chmod(0o755)
        appd.environ["WEFT_RUNTIME_BIN"] = os.fspath(fifo)
        appd.install(RUNNING)
        appd.start()
        answer = appd.control.ask(LaunchApp(APP_ID, 0))
        assert type(answer).__name__ == "Error"
        assert appd.control.ask(QueryRunning()) == RunningApps(())
        appd.expected_files = {"weft/last-session.json"}
        return
    options = ["--config", os.fspath(fifo)] if setting == "config" else []
    settings = {"WEFT_APPD_WS_TOKEN_FILE": os.fspath(fifo)} if setting == "token" else {}
    done = appd.run("--check", *options, settings=settings)
    assert done.status == 178
    assert "not a regular file" in done.stderr


# A disk that is full, or does not answer

STUCK = """
import os, sys
real = os.fsync
def wait_for(fd):
    while os.path.exists({flag!r}):
        __import__("time").sleep(0.01)
    real(fd)
os.fsync = wait_for
sys.argv[0] = "weft-appd"
from weft_runtime.appd.main import main
sys.exit(main())
"""


@pytest.fixture
def stuck(make: Make) -> Iterator[Appd]:
    """A daemon whose disk does not answer while the file `stuck` is there."""
    appd = make()
    flag = appd.directory / "stuck"
    appd.program = (sys.executable, "-c", STUCK.format(flag=os.fspath(flag)))
    yield appd
    flag.unlink(missing_ok=True)


def test_a_disk_that_does_not_answer_holds_nobody_up(stuck: Appd) -> None:
    appd = stuck
    appd.start()
    appd.install(RUNNING)
    (appd.directory / "stuck").touch()
    session = appd.launch()
    appd.until_ready(session)
    told = appd.find("cannot save the list of running apps")
    assert "the disk has not answered for 10 s; the apps that run now will not be started again" in told
    # A process that is replaced waits for all its threads.
    appd.expected_errors = ["the disk of the state directory does not answer"]
    answer = appd.control.ask(Reload())
    assert "the disk of the state directory does not answer" in str(answer)
    assert appd.sessions[session].state is State.RUNNING
    (appd.directory / "stuck").unlink()
    appd.find("is kept in")
    until_saved(appd, f'["{APP_ID}"]'.encode())
    assert appd.control.ask(Reload()) == Reloaded(__version__)


def test_it_ends_in_time_although_the_disk_does_not_answer(stuck: Appd) -> None:
    appd = stuck
    appd.start()
    launch_both(appd)
    until_saved(appd, BOTH)
    (appd.directory / "stuck").touch()
    appd.launch()
    assert appd.stop() < WAIT_SECONDS / 2
    assert saved(appd).read_bytes() == BOTH
    appd.expected_files.add("weft/.last-session.json.new")


def test_at_a_start_it_serves_although_the_disk_does_not_answer_and_the_list_stays(stuck: Appd) -> None:
    appd = stuck
    appd.start()
    launch_both(appd)
    until_saved(appd, BOTH)
    appd.stop()
    (appd.directory / "stuck").touch()
    appd.start()
    third = appd.launch()
    appd.until_ready(third)
    time.sleep(0.5)
    assert saved(appd).read_bytes() == BOTH
    (appd.directory / "stuck").unlink()
    until_apps(appd, APP_ID, APP_ID, "org.example.other")
    expected = json.dumps([APP_ID, APP_ID, "org.example.other"], separators=(",", ":")).encode()
    until_saved(appd, expected)


def fill(put: Callable[[], object]) -> None:
    """Until that raises an exception."""
    while True:
        put()


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    path = tmp_path / "volume"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_list_that_cannot_be_replaced_is_started_and_kept(make: Make, volume: Path, how: str) -> None:
    appd = make()
    runtime = appd.directory / "runtime"
    appd.environ |= {"STATE_DIRECTORY": os.fspath(volume), "RUNTIME_DIRECTORY": os.fspath(runtime)}
    appd.expected_files = set()
    appd.start()
    launch_both(appd)
    path = volume / "last-session.json"
    eventually(lambda: path.exists() and path.read_bytes() == BOTH, "it is saved")
    appd.kill()
    if how == "full":
        with (volume / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            fill(lambda: file.write(bytes(4096)))
    else:
        subprocess.run(["mount", "-o", "remount,ro", volume], check=True)
    appd.start()
    until_apps(appd, APP_ID, "org.example.other")
    told = appd.find("cannot count the starts of the last session")
    assert f"'{runtime}/restore-attempts' has the number until the device is off" in told
    third = appd.launch()
    told = appd.find("cannot save the list of running apps")
    assert f"'{path}'" in told
    assert path.read_bytes() == BOTH
    if how == "full":
        (volume / "filler").unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", volume], check=True)
    appd.find("is kept in")
    eventually(lambda: json.loads(path.read_bytes()).count(APP_ID) == 2, "the list of now is saved")
    assert appd.sessions[third].app_id == APP_ID


def test_attempts_are_counted_beside_where_the_state_is_read_only(make: Make, volume: Path) -> None:
    appd = make()
    runtime = appd.directory / "runtime"
    appd.environ |= {"STATE_DIRECTORY": os.fspath(volume), "RUNTIME_DIRECTORY": os.fspath(runtime)}
    appd.expected_files = set()
    appd.start()
    launch_both(appd)
    path = volume / "last-session.json"
    eventually(lambda: path.exists() and path.read_bytes() == BOTH, "it is saved")
    appd.kill()
    subprocess.run(["mount", "-o", "remount,ro", volume], check=True)
    for number in (1, 2, 3):
        appd.start()
        until_apps(appd, APP_ID, "org.example.other")
        eventually(lambda: appd.log_text.count("has the number") >= number, "it is counted")  # noqa: B023
        appd.kill()
    appd.expected_errors = ["did not last 60 s"]
    appd.start()
    appd.find("did not last 60 s")
    assert apps(appd) == []
    appd.launch()
    appd.find("cannot save")
    assert path.read_bytes() == BOTH


# The service manager


def test_a_service_manager_that_does_not_read_holds_nobody_up(make: Make, tmp_path: Path) -> None:
    appd = make()
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = tmp_path / "notify"
    manager.bind(os.fspath(address))
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    with pytest.raises(BlockingIOError):
        fill(lambda: sender.sendto(b"X=1", os.fspath(address)))
    appd.environ |= {"NOTIFY_SOCKET": os.fspath(address), "WATCHDOG_USEC": "200000"}
    appd.install(RUNNING)
    appd.start()
    begun = time.monotonic()
    for _ in range(10):
        appd.until_ready(appd.launch())
    assert time.monotonic() - begun < WAIT_SECONDS
    heard: list[bytes] = []

    def read() -> None:
        manager.settimeout(WAIT_SECONDS)
        while b"STATUS=10 sessions, 0 of them starting, 1 client" not in heard:
            heard.append(manager.recv(1000))

    reader = threading.Thread(target=read)
    reader.start()
    reader.join(WAIT_SECONDS)
    heard = [message for message in heard if message != b"X=1"]
    assert heard[0].startswith(b"READY=1\n")
    assert b"WATCHDOG=1" in heard
    appd.find("does not read its notifications")
    manager.close()
    sender.close()
    appd.environ.pop("NOTIFY_SOCKET")
