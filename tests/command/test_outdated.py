# SPDX-License-Identifier: Apache-2.0
"""Runs that follow a plan, and whose runtime is replaced by another release before they end: nothing of the two is mixed."""

import json
import os
import select
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import wasmtime

from tests.command.guests import guest, leave, writing
from tests.command.harness import WAIT_SECONDS
from tests.command.test_remembered import settle
from tests.command.thin import Supervisor, end_of, plan_of
from tests.packages import APP_ID, install
from weft_runtime.appd.child import Child
from weft_runtime.errors import ExitStatus
from weft_runtime.thin import outdated

READY = b"READY\n"
REPOSITORY = Path(__file__).resolve().parents[2]
MUCH = 64 * 4096
"""More bytes than a pipe takes: who writes so many waits for a reader."""

SCRIPT = f"""#!{sys.executable} -B
import sys
sys.path[:] = [{{code!r}}, *(path for path in sys.path if path != {str(REPOSITORY)!r}), {sysconfig.get_path("purelib")!r}]
from weft_runtime.runtime.main import main_wasmtime
main_wasmtime()
"""

ENDS = [
    (leave(3), 3, "exited", "the app exited with status 3"),
    ("unreachable", 134, "trapped", "the app trapped in _start: wasm `unreachable` instruction executed; the runtime was replaced"),
]  # fmt: skip


class Release:
    """A copy of the runtime, to be replaced."""

    def __init__(self, directory: Path) -> None:
        self.code = directory / "code"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / "weft_runtime", self.code / "weft_runtime", ignore=ignored)
        self.program = directory / "weft-runtime-wasmtime"
        self.program.write_text(SCRIPT.format(code=os.fspath(self.code)))
        self.program.chmod(0o755)

    def replace(self) -> None:
        """By one whose modules do not fit to those of this one."""
        for file in self.code.rglob("*.py"):
            new = file.with_name("new")
            new.write_text("raise RuntimeError('this is of another release')\n")
            new.rename(file)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path / "release")


@pytest.mark.parametrize(("body", "status", "event", "reason"), ENDS)
def test_a_session_of_a_release_that_is_gone_ends_with_a_reason(
    store: Path, tmp_path: Path, release: Release, body: str, status: int, event: str, reason: str
) -> None:
    module = guest(writing(1, MUCH // 4096) + body)
    install(store, module)
    code = tmp_path / "compiled"
    code.write_bytes(wasmtime.Module(wasmtime.Engine(), module).serialize())
    environment = {"PATH": "/usr/bin:/bin", "WEFT_APP_STORE": str(store), "WEFT_LOG": "stderr"}

    def replace(child: Child) -> None:
        assert select.select([child.stdout], [], [], WAIT_SECONDS)[0]
        assert os.read(child.stdout, len(READY)) == READY
        release.replace()

    with Supervisor(release.program, environment) as supervisor, code.open("rb") as file:
        end = end_of(supervisor.follow(plan_of(store, release.program), file.fileno()), replace)
    report = json.loads(end.report)
    assert (end.status, end.stderr, report["event"], report["exit_status"]) == (status, "", event, status)
    assert report["reason"].startswith(reason)
    # Where it was, as the engine says it.
    assert ("<wasm function " in report["detail"]) == (event == "trapped")
    assert len(end.stdout) == MUCH


@pytest.mark.parametrize(("body", "status", "event", "reason"), ENDS)
def test_a_service_of_a_release_that_is_gone_ends_with_a_reason(
    store: Path, tmp_path: Path, release: Release, body: str, status: int, event: str, reason: str
) -> None:
    install(store, guest(writing(1, MUCH // 4096) + body))
    environment = {
        "PATH": "/usr/bin:/bin", "WEFT_APP_STORE": str(store), "WEFT_LOG": "stderr",
        "CACHE_DIRECTORY": str(tmp_path / "cache"), "JOURNAL_STREAM": "",
    }  # fmt: skip
    command = [os.fspath(release.program), "--service", APP_ID]
    for _ in range(3):
        settle()
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == status
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(len(READY)) == READY
        release.replace()
        rest, told = process.stdout.read(), process.stderr.read().decode()
    assert process.returncode == status
    assert told.rpartition(f": {APP_ID}: ")[2].startswith(reason)
    assert "Traceback" not in told
    assert len(rest or b"") == MUCH


def test_what_is_told_here_is_told_alike_there() -> None:
    assert outdated.TRAP_STATUS == ExitStatus.TRAP
    assert outdated.OS_STATUS == ExitStatus.OS_ERROR


@pytest.mark.parametrize("text", ["", "plain ü", 'a "name"', "C:\\\\u0041\\", "one\ntwo"])
def test_a_text_is_what_it_was_once_the_report_is_read(text: str) -> None:
    reader, writer = os.pipe()
    if os.fork() == 0:
        outdated.report(writer, 5, "trapped", text, text)
    os.close(writer)
    with open(reader, "rb") as file:
        said = json.loads(file.read())
    assert (said["reason"], said["detail"], said["exit_status"]) == (text, text, 5)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 5
