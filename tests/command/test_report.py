# SPDX-License-Identifier: Apache-2.0
"""$WEFT_REPORT_FD: one line of JSON about the end, for a supervisor, out of the reach of the app."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from signal import SIGTERM
from typing import NamedTuple

import pytest

from tests.command.guests import BADF, FOREVER, IO, guest, leave, named, say, writing
from tests.command.harness import Run, Start, stop
from tests.packages import install

UNREACHABLE = "the app trapped in _start: unreachable: wasm `unreachable` instruction executed"


class Report(NamedTuple):
    """A pipe for the report."""

    reader: int
    writer: int

    @property
    def env(self) -> Mapping[str, str]:
        return {"WEFT_REPORT_FD": str(self.writer)}

    def ends(self) -> list[bytes]:
        """What has been written so far, without what was to be said while the module was compiled."""
        return [line for line in self.lines() if json.loads(line) != {"event": "compiling"}]

    def lines(self) -> list[bytes]:
        """What has been written so far."""
        try:
            return os.read(self.reader, 65536).splitlines(keepends=True)
        except BlockingIOError:
            return []


@pytest.fixture
def report() -> Iterator[Report]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield Report(reader, writer)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("content", "event", "status", "reason", "problem"),
    [
        (guest(""), "exited", 0, "the app exited with status 0", None),
        (guest(leave(3)), "exited", 3, "the app exited with status 3", None),
        (guest("unreachable"), "trapped", 134, UNREACHABLE, None),
        (named(b"f\n\"}{"), "trapped", 134, UNREACHABLE, None),
        (b"", "package-invalid", 165, "{}/app.wasm is empty", "module-invalid"),
    ],
)  # fmt: skip
def test_the_report_is_one_line_with_event_status_and_reason(
    store: Path,
    run: Run,
    report: Report,
    content: bytes,
    event: str,
    status: int,
    reason: str,
    problem: str | None,
) -> None:
    package = install(store, content)
    done = run(env=report.env, pass_fds=[report.writer])
    [line] = report.ends()
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "event": event, "exit_status": status, "signal": None, "reason": reason.format(package),
        "problem": problem,
    }  # fmt: skip
    assert done.status == status


def test_a_stop_is_reported(store: Path, start: Start, report: Report) -> None:
    install(store, guest(say("in\n") + FOREVER))
    done = stop(lambda: start(until=b"in\n", env=report.env, pass_fds=[report.writer]), SIGTERM)
    assert done.status == -SIGTERM
    assert json.loads(report.lines()[-1]) == {
        "event": "stopped", "exit_status": 143, "signal": "SIGTERM",
        "reason": "stopped by SIGTERM while running _start", "problem": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "env", "event", "status"),
    [
        (["nonsense"], {}, "usage", 164),
        (["org.example.app", "7"], {}, "package-not-found", 166),
        (["org.example.app", "7"], {"WEFT_SD_NOTIFY": "maybe"}, "settings-invalid", 178),
        (["org.example.app", "7"], {"WEFT_LOG": "nowhere"}, "settings-invalid", 178),
        (["org.example.app", "7"], {"WEFT_LOG_LEVEL": "loud"}, "settings-invalid", 178),
    ],
)
def test_what_fails_early_is_reported_too(
    run: Run, report: Report, args: list[str], env: dict[str, str], event: str, status: int
) -> None:
    done = run(args=args, env={**report.env, **env}, pass_fds=[report.writer])
    assert done.status == status
    [line] = report.ends()
    found = json.loads(line)
    assert (found["event"], found["exit_status"], found["signal"]) == (event, status, None)
    assert f"err: {found['reason']}" == done.end


def test_a_missing_engine_is_reported(store: Path, run_bare: Run, report: Report) -> None:
    install(store, guest(""))
    done = run_bare(program="weft-runtime-wasmtime", env=report.env, pass_fds=[report.writer])
    [line] = report.ends()
    assert (done.status, json.loads(line)["event"]) == (169, "engine-missing")


def test_the_app_cannot_reach_the_report(store: Path, run: Run, report: Report) -> None:
    install(store, guest(writing(report.writer)))
    assert run(env=report.env, pass_fds=[report.writer]).status == BADF
    assert len(report.ends()) == 1


@pytest.mark.parametrize("value", ["", "0", "1", "2", "-1", "x", "3.0", "\uff19", " 9", "999", "1" * 30])
def test_what_is_no_descriptor_is_refused(store: Path, run: Run, value: str) -> None:
    install(store, guest(""))
    done = run(env={"WEFT_REPORT_FD": value})
    assert (done.status, done.stdout) == (178, b"")
    assert (
        done.end
        == f"err: $WEFT_REPORT_FD is '{value}': expected the number of an open descriptor, 3 or above"
    )


@pytest.mark.parametrize("how", ["read only", "nobody reads", "full disk"])
def test_a_report_that_cannot_be_written_changes_nothing(store: Path, run: Run, how: str) -> None:
    install(store, guest(leave(9)))
    match how:
        case "read only":
            fd = os.open("/dev/null", os.O_RDONLY)
        case "nobody reads":
            reader, fd = os.pipe()
            os.close(reader)
        case _:
            fd = os.open("/dev/full", os.O_WRONLY)
    done = run(env={"WEFT_REPORT_FD": str(fd)}, pass_fds=[fd])
    os.close(fd)
    assert (done.status, done.stdout) == (9, b"READY\n")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_what_runs_no_app_reports_nothing(run: Run, report: Report, option: str) -> None:
    assert run(args=[option], env=report.env, pass_fds=[report.writer]).status == 0
    assert report.lines() == []


WRITES_UNTIL_IT_CANNOT = (
    "(loop $on (local.set $errno (call $write (i32.const 1) (i32.const 0) (i32.const 8)))"
    " (br_if $on (i32.eqz (local.get $errno))))"
)


@pytest.mark.parametrize(
    ("end", "status", "how"),
    [
        (leave("(local.get $errno)"), IO, f"the app exited with status {IO}"),
        ("unreachable", 134, UNREACHABLE),
    ],
)
def test_an_app_whose_supervisor_has_gone_is_not_blamed(
    store: Path, start: Start, end: str, status: int, how: str
) -> None:
    install(store, guest(WRITES_UNTIL_IT_CANNOT + end))
    reader, writer = os.pipe()
    running = start(env={"WEFT_REPORT_FD": str(writer)}, pass_fds=(writer,))
    assert running.process.stdout is not None
    os.close(reader)
    running.process.stdout.close()
    running.process.stdout = None
    os.close(writer)
    done = running.wait()
    assert done.status == status
    assert [line for line in done.log if "weft-appd has gone" in line] == [
        f"notice: weft-appd has gone and took no output any more; {how}"
    ]
    assert not any(line.startswith(("warning: the app", "err: ")) for line in done.log)


def test_an_app_whose_output_alone_is_not_read_is_to_blame(
    store: Path, start: Start, report: Report
) -> None:
    install(store, guest(WRITES_UNTIL_IT_CANNOT + leave("(local.get $errno)")))
    running = start(env=report.env, pass_fds=(report.writer,))
    assert running.process.stdout is not None
    running.process.stdout.close()
    running.process.stdout = None
    done = running.wait()
    assert (done.status, done.end) == (IO, f"warning: the app exited with status {IO}")
