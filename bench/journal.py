# SPDX-License-Identifier: Apache-2.0
"""A journal for the measured programs alone: a real systemd-journald, with nothing else to do.

The machine's own would take part in whatever happens there, keep the lines, and hold back a flood.
"""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from bench import process
from bench.measure import PRIVATE_RUN, BenchError, private_mounts, run

DAEMON = Path("/lib/systemd/systemd-journald")
TOOLS = ("unshare", "nsenter", "systemd-cat", "journalctl")
START_S = 60
POLL_S = 0.01

# Lines are kept in memory, as in /run of a machine without /var/log/journal, and all of them are taken.
SETTINGS = (
    "[Journal]\nStorage=volatile\nRuntimeMaxUse=512M\nRateLimitIntervalSec=0\nReadKMsg=no\nAudit=no\n"
    "ForwardToSyslog=no\nForwardToWall=no\nForwardToConsole=no\nForwardToKMsg=no\n"
)
CONFIGURED = (
    'd=/run/systemd/journald.conf.d; mkdir $d && printf %s "$1" >$d/bench.conf && shift && exec "$@"'
)


class Journal:
    """It runs as long as the context manager. Raises BenchError where it cannot."""

    def __init__(self) -> None:
        if lack := [tool for tool in TOOLS if shutil.which(tool) is None]:
            raise BenchError(f"no {' and no '.join(lack)} here")
        if not DAEMON.exists():
            raise BenchError(f"there is no {DAEMON}")
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - __exit__ closes it
        self._process = subprocess.Popen(
            [*private_mounts(), *shell(PRIVATE_RUN), *shell(CONFIGURED), SETTINGS, DAEMON],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._complaints,
        )
        # Each of the above executes the next one: the process is journald in the end.
        self.pid = self._process.pid
        try:
            self._await_socket()
        except BenchError:
            self.__exit__()
            raise
        users = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        self.what = "systemd-journald by itself, in a mount namespace, in memory"
        self.inside = ("nsenter", f"--target={self.pid}", "--mount", *users)
        """What to put before a command that is to log there."""

    def _await_socket(self) -> None:
        # Made last, of those that are used here.
        socket = Path(f"/proc/{self.pid}/root/run/systemd/journal/io.systemd.journal")
        deadline = time.monotonic() + START_S
        while not socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._complaints.seek(0)
                complaint = self._complaints.read().decode(errors="replace").strip()
                raise BenchError(f"systemd-journald does not start: {complaint}")
            time.sleep(POLL_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._complaints.close()

    @property
    def cpu_s(self) -> float:
        return process.cpu_s(self.pid)

    def sync(self) -> None:
        """Return when all that has been sent is in the journal."""
        self._run("journalctl", "--sync")

    def count(self, *matches: str) -> int:
        """How many entries match."""
        # A cat of messages: one has no line breaks in it.
        return self._run("journalctl", "--quiet", "--output=cat", *matches).count(b"\n")

    def _run(self, *command: str) -> bytes:
        return run([*self.inside, *command])


def shell(script: str) -> list[str]:
    """What to put before the arguments of a shell script, "$1" and so on."""
    return ["sh", "-c", script, "sh"]
