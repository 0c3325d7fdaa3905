# SPDX-License-Identifier: Apache-2.0
"""Runs the real weft-appd in a process of its own, talks to it, and says what is left of it."""

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from websockets.sync.client import ClientConnection, connect

from tests import packages
from tests.appd.client import Control
from tests.packages import APP_ID
from weft_runtime.appd.spares import SPARES
from weft_runtime.protocol import (
    LaunchAck,
    LaunchApp,
    QuerySessions,
    SessionInfo,
    Sessions,
    State,
)

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
FAKE_RUNTIME = Path(__file__).with_name("fake_runtime.py")
COVERAGE = os.environ.get("WEFT_COVERAGE")
REAL_RUNTIME = PROGRAMS / "weft-runtime-wasmtime"
NO_MODULE = b"\0asm\1\0\0\0"

CALLER = f"{pwd.getpwuid(os.geteuid()).pw_name} (uid {os.geteuid()}) pid {os.getpid()}"
"""A client in a test, as the log has it."""

WAIT_SECONDS = 30  # for what takes a fraction of a second on an idle machine
POLL_SECONDS = 0.01
SLACK_SECONDS = 4  # what a busy machine may add to a time that is promised
DESCRIPTORS_A_SESSION = 4  # its process, its two streams, its report
HELPERS = 1 + SPARES
DESCRIPTORS_A_HELPER = 5  # the same, and the socket of the fork server or the order of a spare process

_LOG_LINE = re.compile(
    r"weft-appd\[\d+\]: (?P<level>debug|info|notice|warning|err|crit): "
    r"(?:(?:[a-z0-9]+(?:\.[a-z0-9]+){2,}|'.*?')(?:\[(?P<session>\d+)\]|/(?P<writer>\d+))?: )?(?P<text>.*)"
)


class LogLine(NamedTuple):
    session: int | None
    level: str
    message: str


class Finished(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


class Appd:
    """One place for a daemon: its environment, its package store, its files; and the daemon that runs there."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.runtime = directory / "run"
        self.cache = directory / "cache"
        self.socket = self.runtime / "weft/appd.sock"
        self.config = directory / "appd.toml"
        self.program: Sequence[str] = (*_under_coverage(), os.fspath(PROGRAMS / "weft-appd"))
        self.environ: dict[str, str] = {
            "PATH": "/usr/bin:/bin",
            "XDG_RUNTIME_DIR": os.fspath(self.runtime),
            "WEFT_APP_STORE": os.fspath(self.store),
            # A session whose code is in there follows a plan.
            "CACHE_DIRECTORY": os.fspath(self.cache),
            "WEFT_RUNTIME_BIN": os.fspath(FAKE_RUNTIME),
            "WEFT_APPD_WS_PORT": "off",
            "WEFT_STOP_GRACE": "1",
            "WEFT_LOG": "stderr",
            # What coverage costs is no fault of a callback.
            "WEFT_LOOP_WATCH": "0" if COVERAGE else "1",
            "WEFT_FORK_SERVER": os.environ.get("WEFT_FORK_SERVER", "true"),
        } | dict(settings)
        self.expected_errors: list[str] = []
        """Parts of the lines at level `err` that a test provokes; any other fails it."""
        self.expected_files = {"weft/last-session.json"}
        """What may be below the runtime directory in the end."""
        self.process: subprocess.Popen[bytes]
        self._log_file = directory / "log"
        self._connections = ExitStack()
        self._own: Control | None = None
        self._idle: int | None = None
        for path in (self.store, self.runtime):
            path.mkdir(parents=True)
        self.config.touch()
        self._log_file.touch()

    # Its life

    def start(self, *, wrapper: Sequence[str] = (), pass_fds: Sequence[int] = ()) -> None:
        """Start the daemon and wait until it serves."""
        before = self._serving_count
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, *self.program, "--config", self.config],
                env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
                pass_fds=pass_fds,
            )  # fmt: skip
        eventually(
            lambda: self._serving_count > before or self.process.poll() is not None,
            "the daemon serves",
        )
        assert self.process.poll() is None, self.log_text
        if self._idle is None:
            assert not (self.runtime / "weft/last-session.json").exists()
            self._idle = self._steady_descriptors()

    def _steady_descriptors(self) -> int:
        """How many there are when what a start opens for a moment is closed, without those of the fork server."""
        counts: list[int] = []

        def are_steady() -> bool:
            held = descriptors(self.process.pid)
            # Those that the daemon knows: of one that is just being forked it has nothing yet.
            helpers = sum("[pidfd]" in each for each in held.values())
            if children(self.process.pid) and helpers < HELPERS:
                counts.clear()  # a fork server is starting, or a runtime that is none is still to be collected
            counts.append(len(held) - DESCRIPTORS_A_HELPER * helpers)
            return len(counts) >= 5 and len(set(counts[-5:])) == 1

        eventually(are_steady, "the daemon has started")
        return counts[-1]

    def run(self, *options: str, settings: Mapping[str, str] = {}) -> Finished:
        """Run the program to its end: it has another errand than to serve, or cannot."""
        done = subprocess.run(
            [*self.program, *options], env={**self.environ, **settings}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=WAIT_SECONDS, cwd=self.directory,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The process is stopped meanwhile: what happens in here comes to the daemon all at once."""
        # It may be just in a callback.
        self.expected_errors.append(" was held up: ")
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the daemon as a bug or a lack of memory does. Its sessions are ours then, and end too."""
        self.disconnect()
        sessions = self.children
        self.process.kill()
        self.process.wait()
        for pid in sessions:
            # One that was about to end by itself may be gone.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        # The fork server and what waits end by themselves.
        eventually(lambda: not kill_orphans(), "nothing is left of the daemon")

    def stop(self) -> float:
        """Ask the daemon to end as systemd does; how many seconds it took."""
        self.disconnect()
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"SIGTERM does not end it: {self.log_text}") from None
        took = time.monotonic() - begun
        assert status == 0, self.log_text
        return took

    def close(self) -> None:
        """End whatever runs and assert that no descriptor, no file and no odd line in the log is left of it."""
        try:
            self.disconnect()
            if self.process.poll() is None:
                self.check_descriptors()
                self.stop()
        finally:
            self.process.kill()
            self.process.wait()
        files = {
            os.fspath(path.relative_to(self.runtime))
            for path in self.runtime.rglob("*")
            if not path.is_dir()
        }
        numbers = {"weft/next-session"}
        assert files - numbers == self.expected_files - numbers
        self._check_log()

    def check_descriptors(self) -> None:
        """Assert that what the daemon holds open is what an idle one does, and what each child needs."""
        assert self._idle is not None
        idle, pid = self._idle, self.process.pid

        def as_expected() -> bool:
            children = DESCRIPTORS_A_SESSION * len(self.children) + DESCRIPTORS_A_HELPER * len(self.helpers)
            return len(descriptors(pid)) == idle + children

        # What clients have sent may be much work for it before it sees that they have gone.
        eventually(
            as_expected, lambda: f"descriptors are closed: {idle} when idle, now {descriptors(pid)}",
            4 * WAIT_SECONDS,
        )  # fmt: skip

    def _check_log(self) -> None:
        for line in self.log_text.splitlines():
            if any(part in line for part in self.expected_errors):
                continue
            if re.match(r"  +\d+: ", line):
                continue  # a backtrace, below the entry of a trap
            match = _LOG_LINE.fullmatch(line)
            assert match, f"this is no line of a log: {line}"
            # An error of a session is the app's own, as a trap.
            assert match["level"] not in ("crit", *(() if match["session"] else ("err",))), line

    # What it says

    @property
    def log_text(self) -> str:
        return self._log_file.read_text(errors="surrogateescape")

    @property
    def log(self) -> list[LogLine]:
        matches = (_LOG_LINE.fullmatch(line) for line in self.log_text.splitlines())
        return [
            LogLine(int(number) if (number := match["session"] or match["writer"]) else None, match["level"], match["text"])
            for match in matches if match
        ]  # fmt: skip

    def messages(self, session: int | None = None) -> list[str]:
        """The log lines about one session, or about none, each as "LEVEL: MESSAGE"."""
        return [f"{line.level}: {line.message}" for line in self.log if line.session == session]

    def find(self, part: str, session: int | None = None) -> str:
        """The one log line about `session` that holds `part`, which may still have to come."""
        self.until_logged(part, session)
        (found,) = (message for message in self.messages(session) if part in message)
        return found

    def until_logged(self, part: str, session: int | None = None) -> None:
        """Wait for such a line, and so for all lines before it.

        The log goes to a file, which the daemon does not wait for: an answer or a push may come before the lines that
        were logged before.
        """
        eventually(lambda: self.has(part, session), lambda: f"the log has {part!r}: {self.log_text}")

    def has(self, part: str, session: int | None = None) -> bool:
        return any(part in message for message in self.messages(session))

    @property
    def _serving_count(self) -> int:
        return sum(line.message.startswith("weft-appd ") and " serves " in line.message for line in self.log)

    # Its processes

    @property
    def children(self) -> list[int]:
        """Its children that are processes, not zombies, and belong to sessions."""
        return [pid for pid in self._processes if not is_helper(pid)]

    @property
    def helpers(self) -> list[int]:
        """Those that belong to no session: the fork server, and the processes that wait."""
        return [pid for pid in self._processes if is_helper(pid)]

    @property
    def _processes(self) -> list[int]:
        return [pid for pid in children(self.process.pid) if state_of(pid) not in "ZX"]

    # Its clients

    def connect(self) -> Control:
        """A new connection, closed at the latest with the daemon."""
        return self._connections.enter_context(closing(Control(self.socket, WAIT_SECONDS)))

    @property
    def port(self) -> int:
        return int((self.runtime / "weft/appd.wsport").read_text())

    def websocket(self, path: str = "/appd", **options: Any) -> ClientConnection:
        """A new WebSocket connection, closed at the latest with the daemon."""
        connecting = connect(
            f"ws://127.0.0.1:{self.port}{path}", open_timeout=WAIT_SECONDS, close_timeout=WAIT_SECONDS,
            compression=None, max_size=None, **options,
        )  # fmt: skip
        connection: ClientConnection = self._connections.enter_context(connecting)
        return connection

    @property
    def control(self) -> Control:
        """A connection for questions of the test itself."""
        if self._own is None:
            self._own = self.connect()
        return self._own

    def disconnect(self) -> None:
        """Close every connection of the test."""
        self._own = None
        self._connections.close()

    # Its sessions

    def install(self, behaviour: str, *, app_id: str = APP_ID, capabilities: Sequence[str] = ()) -> Path:
        """Put a package for the fake runtime into the store, or change the one that is there."""
        shutil.rmtree(self.store / app_id, ignore_errors=True)
        toml = packages.manifest(app_id)
        if capabilities:
            toml = toml.replace("[runtime]", f"capabilities = {json.dumps(list(capabilities))}\n[runtime]")
        package = packages.install(self.store, NO_MODULE, app_id=app_id, toml=toml)
        (package / "behaviour").write_text(behaviour)
        return package

    def note(self, session: int, name: str, app_id: str = APP_ID) -> Any:
        """What the fake runtime of a session has noted down, which may still have to come."""
        path = self.store / app_id / f"{name}-{session}"
        eventually(path.exists, f"{path} is there")
        return json.loads(path.read_text())

    def launch(self, app_id: str = APP_ID) -> int:
        answer = self.control.ask(LaunchApp(app_id, 0))
        assert isinstance(answer, LaunchAck), answer
        assert answer.app_id == app_id
        return answer.session_id

    def run_app(self, behaviour: str) -> int:
        """Install an app, launch it and wait until it is ready."""
        self.install(behaviour)
        session = self.launch()
        self.until_ready(session)
        return session

    @property
    def sessions(self) -> dict[int, SessionInfo]:
        answer = self.control.ask(QuerySessions())
        assert isinstance(answer, Sessions)
        return {session.session_id: session for session in answer.sessions}

    def until_ready(self, *sessions: int) -> None:
        def all_ready() -> bool:
            known = self.sessions
            return all(known[session].ready is not None for session in sessions)

        eventually(all_ready, lambda: f"ready: {sessions}, {self.log_text}")

    def until_stopped(self, session: int) -> SessionInfo:
        eventually(lambda: self.sessions[session].state is State.STOPPED, f"session {session} is stopped")
        return self.sessions[session]


def _under_coverage() -> Sequence[str]:
    """What is put before a program of which is measured what the tests reach (tools/coverage)."""
    if COVERAGE is None:
        return ()
    options = ("--branch", "--parallel-mode", "--include=*/weft_runtime/*", f"--data-file={COVERAGE}/appd")
    return (sys.executable, "-m", "coverage", "run", *options)


def listens(path: Path) -> bool:
    """Whether somebody takes connections there; the socket is there a moment before that."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(os.fspath(path)) == 0


def eventually(
    condition: Callable[[], bool], what: str | Callable[[], str], seconds: float = WAIT_SECONDS
) -> None:
    """Wait until `condition` holds; `what` says what was waited for in vain."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not: {what if isinstance(what, str) else what()}")
        time.sleep(POLL_SECONDS)


def children(pid: int) -> list[int]:
    """All children of a process, zombies included; none of one that is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def state_of(pid: int) -> str:
    """The letter of proc(5) for what a process is doing; X for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def is_helper(pid: int) -> bool:
    """Whether a child of the daemon is its fork server, or a process that waits for a session."""
    with contextlib.suppress(OSError):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        return arguments[-1] in (b"--fork-server", b"(spare)")
    return False


def is_gone(pid: int) -> bool:
    return state_of(pid) == "X"


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = os.fspath(entry.readlink())
    return found


def memory(pid: int) -> int:
    """Bytes of memory that a process alone has in use."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no RssAnon of {pid}")


def cpu_seconds(pid: int) -> float:
    """What a process has used of CPUs so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kill_orphans() -> list[int]:
    """End all our children, and name those that had not ended by themselves: orphans of a daemon come to us."""
    alive = [pid for pid in children(os.getpid()) if state_of(pid) not in "ZX"]
    for pid in children(os.getpid()):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return alive
