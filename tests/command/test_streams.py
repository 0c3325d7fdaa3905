# SPDX-License-Identifier: Apache-2.0
"""Standard streams: what the app reads and writes there, and what happens where they are broken."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from tests.command.guests import (
    BADF,
    IO,
    NOSPC,
    guest,
    leave,
    printing_file,
    put,
    say,
    writing,
)
from tests.command.harness import WAIT_SECONDS, Run, Running, Start, eventually, fill_pipe, is_asleep
from tests.packages import install, manifest, printing

GUEST_MODE = manifest(runtime='ready = "guest"')
READY_ENOSPC = "err: cannot write READY to standard output: No space left on device"


def shell(redirection: str) -> list[str]:
    """Runs a command with its standard streams redirected."""
    return ["sh", "-c", f'exec "$@" {redirection}', "sh"]


def test_what_the_app_writes_passes_unchanged(store: Path, run: Run) -> None:
    text = "\x00READY \r\n\x1b[31m\u202e no end of line"
    install(store, printing(text))
    assert run().stdout == b"READY\n" + text.encode()


def test_standard_error_is_the_apps_too(store: Path, run: Run) -> None:
    install(store, printing("to stderr\n", fd=2))
    done = run("--log-level", "emerg")
    assert (done.status, done.stdout, done.stderr) == (0, b"READY\n", "to stderr\n")


def test_a_lot_of_output_arrives_whole(store: Path, run: Run) -> None:
    install(store, guest(put("0123456789abcde\n") + writing(1, times=1000, size=65536)))
    done = run()
    assert done.status == 0
    assert len(done.stdout) == 6 + 1000 * 65536
    assert done.stdout[:22] == b"READY\n0123456789abcde\n"


def test_standard_input_is_empty(store: Path, tmp_path: Path, run: Run) -> None:
    install(store, guest(printing_file("(i32.const 0)") + leave("(i32.load (i32.const 8))")))
    (tmp_path / "input").write_bytes(b"secret")
    with (tmp_path / "input").open("rb") as stdin:
        done = run(stdin=stdin)
        assert stdin.tell() == 0
    assert (done.status, done.stdout) == (0, b"READY\n")


@pytest.mark.parametrize("fd", [3, 4, 5, 6, 7, 8, 9])
def test_no_descriptor_of_the_host_can_be_reached(store: Path, run: Run, fd: int) -> None:
    install(store, guest(writing(fd)))
    done = run(wrapper=shell(f"{fd}>&2"))
    assert (done.status, len(done.stderr.splitlines())) == (BADF, 4)


def test_a_reader_that_goes_away_is_an_errno_for_the_app(store: Path, start: Start) -> None:
    install(store, guest(writing(1, times=-1)))
    running = start()
    assert running.process.stdout is not None
    running.process.stdout.close()
    assert running.process.wait(WAIT_SECONDS) == IO  # the engine's word for EPIPE
    assert running.stderr.endswith(f": the app exited with status {IO}\n")


def test_a_reader_that_goes_away_does_not_end_an_app_that_minds_not(store: Path, start: Start) -> None:
    waiting = "(loop $l (br_if $l (i32.eqz (call $write (i32.const 1) (i32.const 1024) (i32.const 4096)))))"
    install(store, guest(waiting + say("still here\n", fd=2) + leave(7)))
    running = start()
    assert running.process.stdout is not None
    running.process.stdout.close()
    assert running.process.wait(WAIT_SECONDS) == 7
    assert "still here\n" in running.stderr


def test_nobody_reads_ready(store: Path, run: Run) -> None:
    install(store, guest(leave(9)))
    reader, writer = os.pipe()
    os.close(reader)
    done = run(stdout=writer)
    os.close(writer)
    assert (done.status, done.end) == (171, "err: cannot write READY to standard output: Broken pipe")


def test_a_full_disk_behind_standard_output(store: Path, run: Run) -> None:
    install(store, guest(leave(9)))
    with open("/dev/full", "wb") as full:
        done = run(stdout=full)
    assert (done.status, done.end) == (171, READY_ENOSPC)


def test_a_full_disk_is_an_errno_for_the_app(store: Path, run: Run) -> None:
    install(store, guest(writing(1)), toml=GUEST_MODE)
    with open("/dev/full", "wb") as full:
        assert run(stdout=full).status == NOSPC


def test_a_full_disk_behind_standard_error(store: Path, run: Run) -> None:
    install(store, guest(say("fine\n") + say("lost\n", fd=2) + leave(9)))
    with open("/dev/full", "wb") as full:
        done = run(stderr=full)
    assert (done.status, done.stdout) == (9, b"READY\nfine\n")


@pytest.mark.parametrize("redirection", [">&-", ">&- <&-", "<&- >&- 3>&- 4>&-", "1</dev/null"])
def test_standard_output_that_cannot_be_written_to(store: Path, run: Run, redirection: str) -> None:
    package = install(store, guest(say("app\n") + leave(9)))
    before = (package / "wapp.toml").read_bytes(), (package / "app.wasm").read_bytes()
    done = run(wrapper=shell(redirection))
    assert done.status == 171
    assert done.end in (
        "err: standard output is closed: READY could not be told",
        "err: cannot write READY to standard output: Bad file descriptor",
    )
    assert before == ((package / "wapp.toml").read_bytes(), (package / "app.wasm").read_bytes())


@pytest.mark.parametrize("redirection", ["2>&-", "2>&- <&-", "<&-", "2</dev/null"])
def test_other_streams_may_be_closed(store: Path, tmp_path: Path, run: Run, redirection: str) -> None:
    app = say("app\n") + say("gone\n", fd=2) + printing_file("(i32.const 0)") + leave(9)
    install(store, guest(app))
    done = run("--preopen", f"{tmp_path}::/", wrapper=shell(redirection))
    assert (done.status, done.stdout) == (9, b"READY\napp\n")


def test_all_streams_may_be_closed(store: Path, run: Run) -> None:
    install(store, guest(leave(9)))
    assert run(wrapper=shell("<&- >&- 2>&-")).status == 171


def test_a_log_that_nobody_reads_holds_nothing_up(store: Path, run: Run) -> None:
    install(store, guest(leave(9)))
    reader, writer = os.pipe()
    fill_pipe(writer)
    done = run(stderr=writer)
    os.close(reader)
    os.close(writer)
    assert (done.status, done.stdout) == (9, b"READY\n")


@pytest.mark.parametrize("mode", ["host", "guest"])
def test_a_pipe_that_does_not_block_loses_nothing(store: Path, start: Start, mode: str) -> None:
    """As it is where somebody else shares the pipe and has set O_NONBLOCK on it."""
    ready = say("in\n", fd=2) + say("READY\n") if mode == "guest" else ""
    install(store, guest(ready + say("after\n") + leave(9)), toml=manifest(runtime=f'ready = "{mode}"'))
    reader, writer = os.pipe()
    filling = fill_pipe(writer)
    os.set_blocking(writer, False)
    running = start(until=b"", stdout=writer)
    os.close(writer)
    arrived = "in\n" if mode == "guest" else "compiled"
    eventually(lambda: arrived in running.stderr and waits_or_has_ended(running), "waiting for room")
    with open(reader, "rb") as file:
        received = file.read()
    assert (running.process.wait(WAIT_SECONDS), received) == (9, filling + b"READY\nafter\n")


def waits_or_has_ended(running: Running) -> bool:
    return running.process.poll() is not None or is_asleep(running.process.pid)


def test_a_reader_that_stops_reading_for_a_while(store: Path, start: Start) -> None:
    install(store, guest(writing(1, times=100) + leave(9)))
    running = start()
    eventually(lambda: is_asleep(running.process.pid), "blocked in its write")
    received: list[bytes] = []
    assert running.process.stdout is not None
    reading = threading.Thread(
        target=lambda file: received.append(file.read()), args=[running.process.stdout]
    )
    reading.start()
    reading.join(WAIT_SECONDS)
    assert running.process.wait(WAIT_SECONDS) == 9
    assert [len(data) for data in received] == [100 * 4096]


def test_standard_output_may_be_a_file_that_is_appended_to(store: Path, tmp_path: Path, run: Run) -> None:
    install(store, guest(say("one\n") + say("two\n")))
    (tmp_path / "log").write_bytes(b"before\n")
    with (tmp_path / "log").open("ab") as log:
        assert run(stdout=log, stderr=subprocess.DEVNULL).status == 0
    assert (tmp_path / "log").read_bytes() == b"before\nREADY\none\ntwo\n"
