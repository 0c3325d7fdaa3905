# SPDX-License-Identifier: Apache-2.0
"""A place where the real weft-appd runs, and weftctl drives it."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from tests.command.guests import say, sleep
from tests.command.harness import RUN_SECONDS, WAIT_SECONDS, eventually
from tests.packages import APP_ID
from tests.unit.needs import tool
from weft_runtime.client import DaemonClient
from weft_runtime.errors import WeftError
from weft_runtime.protocol import QueryRunning

PROGRAMS = Path(sys.executable).parent
OTHER_ID = "org.example.other"

STAYS = say("in\n") + sleep(3600 * 10**9)
"""Code of an app that says so and stays."""


class Done(NamedTuple):
    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> list[dict[str, object]]:
        """Standard output: an array, or an object a line."""
        values = [json.loads(line) for line in self.stdout.splitlines()]
        return values[0] if values and isinstance(values[0], list) else values


class Device:
    """One place: the environment that daemon and commands share; `wrapper` is put before each of them."""

    def __init__(self, directory: Path, store: Path) -> None:
        tool("weftctl", "weft-runtime")
        for name in ("home", "run"):
            (directory / name).mkdir()
        self.directory = directory
        self.store = store
        self.wrapper: Sequence[str] = ()
        self.environ = {
            "PATH": f"{PROGRAMS}:/usr/bin:/bin",
            "HOME": str(directory / "home"),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "WEFT_APP_STORE": str(store),
            "WEFT_APPD_WS_PORT": "off",
            "WEFT_STOP_GRACE": "1",
            "TZ": "UTC",
        }
        self.socket = directory / "run/weft/appd.sock"
        """The daemon's, as this process gets there."""
        self.saved = directory / "run/weft/last-session.json"
        """The list of the apps that the next daemon starts again."""
        self.daemon: subprocess.Popen[bytes] | None = None
        self.log = directory / "appd.log"
        self._begun: list[Background] = []

    def start(self, **environ: str) -> None:
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [*self.wrapper, tool("weft-appd", "weft-runtime")], env={**self.environ, **environ},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.wait_until_it_serves()

    def wait_until_it_serves(self) -> None:
        daemon = self.daemon
        assert daemon is not None
        eventually(lambda: self._is_served() or daemon.poll() is not None, "weft-appd serves")
        assert daemon.poll() is None, self.log.read_text()

    def _is_served(self) -> bool:
        # A weftctl a look would take more of the CPU than the start of the daemon.
        try:
            with DaemonClient(self.socket, timeout=WAIT_SECONDS) as daemon:
                daemon.ask(QueryRunning())
        except WeftError:
            return False
        return True

    def stop(self) -> None:
        """End the daemon, if it runs, as systemd does, and assert that it ends well."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            daemon.send_signal(signal.SIGTERM)
            try:
                status = daemon.wait(WAIT_SECONDS)
            finally:
                daemon.kill()
                daemon.wait()
            assert status == 0, self.log.read_text()
            assert "Traceback" not in self.log.read_text()

    def close(self) -> None:
        """End everything."""
        for begun in self._begun:
            begun.process.kill()
            begun.process.communicate()
        self.stop()

    def ctl(
        self,
        *args: str,
        env: Mapping[str, str] = {},
        wrapper: Sequence[str] = (),
        stdout: int | IO[bytes] = subprocess.PIPE,
    ) -> Done:
        done = subprocess.run(
            [*self.wrapper, *wrapper, PROGRAMS / "weftctl", *args], env={**self.environ, **env},
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, timeout=RUN_SECONDS,
        )  # fmt: skip
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        out, err = (data.decode(errors="surrogateescape") for data in (done.stdout or b"", done.stderr))
        return Done(done.returncode, out, err)

    def run(self, program: str, *args: str) -> Done:
        """Run another program than weftctl to its end."""
        done = subprocess.run(
            [*self.wrapper, PROGRAMS / program, *args], env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=RUN_SECONDS,
        )  # fmt: skip
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def begin(self, *args: str) -> "Background":
        path = self.directory / f"stderr-{len(self._begun)}"
        with path.open("wb") as stderr:
            process = subprocess.Popen(
                # A shell that runs the tests in the background has them ignore Ctrl-C.
                [*self.wrapper, "env", "--default-signal=INT", PROGRAMS / "weftctl", *args],
                env=self.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
        self._begun.append(Background(process, path))
        return self._begun[-1]

    def launch(self, *args: str) -> int:
        done = self.ctl("launch", *(args or (APP_ID,)))
        assert done.status == 0, done.stderr
        return int(done.stdout)

    def session(self, number: int) -> dict[str, object]:
        return self.ctl("status", str(number), "--json").json[0]


class Background:
    """A weftctl that goes on."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        self.process = process
        self._stderr = stderr

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def line(self) -> str:
        """The next line of standard output."""
        assert self.process.stdout is not None
        fd, line = self.process.stdout.fileno(), b""
        while not line.endswith(b"\n"):
            assert select.select([fd], [], [], WAIT_SECONDS)[0], f"no line, {line!r}, {self.stderr}"
            byte = os.read(fd, 1)
            assert byte, f"ended without a line: {line!r}, {self.stderr}"
            line += byte
        return line.decode().removesuffix("\n")

    def interrupt(self) -> Done:
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> Done:
        """Its end; standard output is what has not been read before."""
        try:
            stdout, _ = self.process.communicate(timeout=WAIT_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
        assert "Traceback" not in self.stderr, self.stderr
        return Done(self.process.returncode, stdout.decode(), self.stderr)
