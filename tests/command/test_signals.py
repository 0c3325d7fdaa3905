# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, SIGINT and SIGHUP end the process by that signal within a second, whatever it is doing."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import Signals
from typing import NamedTuple

import pytest

from tests.command.guests import (
    FOREVER,
    TEXT,
    guest,
    leave_on_error,
    path_open,
    say,
    sleep,
    slow_to_compile,
)
from tests.command.harness import Running, Start, bytes_in, eventually, fill_pipe, is_asleep, members, stop
from tests.packages import install, manifest

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LONGEST = 2**63 - 1
"""Nanoseconds: 292 years."""

FLOOD = f"(loop $l (drop (call $write (i32.const 1) (i32.const {TEXT}) (i32.const 4096))) (br $l))"
OPEN_FIFO = say("in\n") + leave_on_error(path_open("fifo"))


class Phase(NamedTuple):
    """Something that an app can be at when the signal comes."""

    where: str
    """How the log calls it."""
    module: Callable[[], bytes]
    until: bytes = b"READY\nin\n"
    """What is on standard output by then."""
    arrived: Callable[[Running], bool] = lambda running: True


def unread(running: Running) -> int:
    """How many bytes are in the pipe behind standard output."""
    assert running.process.stdout is not None
    return bytes_in(running.process.stdout.fileno())


def asleep(running: Running) -> bool:
    return is_asleep(running.process.pid)


def with_child(running: Running) -> bool:
    return len(members(running.process.pid)) == 2


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that is full and that nobody reads."""
    reader, writer = os.pipe()
    fill_pipe(writer)
    yield writer
    os.close(reader)
    os.close(writer)


PHASES = {
    "busy loop": Phase("running _start", lambda: guest(say("in\n") + FOREVER)),
    "asleep": Phase("running _start", lambda: guest(say("in\n") + sleep(LONGEST)), arrived=asleep),
    "asleep for ever": Phase("running _start", lambda: guest(say("in\n") + sleep(-1)), arrived=asleep),
    "blocked write": Phase(
        "running _start", lambda: guest(FLOOD), until=b"READY\n", arrived=lambda run: unread(run) == 65536
    ),
    "blocked open": Phase("running _start", lambda: guest(OPEN_FIFO), arrived=asleep),
    "start section": Phase(
        "running its start section", lambda: guest("", section=say("in\n") + FOREVER), until=b"in\n"
    ),
    "asleep in weft_ready": Phase(
        "running weft_ready",
        lambda: guest("", ready=say("in\n") + sleep(LONGEST)),
        until=b"in\n",
        arrived=asleep,
    ),
    "compiling": Phase("compiling", slow_to_compile, until=b"", arrived=with_child),
}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES.keys())
def test_a_signal_ends_the_process_by_itself(
    store: Path, tmp_path: Path, start: Start, phase: Phase, number: Signals
) -> None:
    install(store, phase.module())
    shared = tmp_path / "shared"
    shared.mkdir()
    os.mkfifo(shared / "fifo")

    def begin() -> Running:
        running = start("--preopen", f"{shared}::/", until=phase.until)
        eventually(lambda: phase.arrived(running), "in its phase")
        return running

    done = stop(begin, number)
    assert done.status == -number
    assert done.end == f"notice: stopped by {number.name} while {phase.where}"
    assert [line for line in done.log if "stopped" in line] == [done.end]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("how", ["ignore", "block"])
def test_a_signal_that_was_inherited_as_ignored_or_blocked_ends_it_all_the_same(
    store: Path, start: Start, number: Signals, how: str
) -> None:
    install(store, guest(say("in\n") + FOREVER))
    wrapper = ("env", f"--{how}-signal={number.name.removeprefix('SIG')}")
    done = stop(lambda: start(wrapper=wrapper, until=b"READY\nin\n"), number)
    assert (done.status, done.end) == (-number, f"notice: stopped by {number.name} while running _start")


def test_a_stop_at_any_moment_leaves_no_traceback_and_no_process(store: Path, start: Start) -> None:
    install(store, guest(FOREVER))
    for milliseconds in range(0, 200, 10):

        def begin(seconds: float = milliseconds / 1000) -> Running:
            running = start(until=b"")
            with pytest.raises(subprocess.TimeoutExpired):
                running.process.wait(seconds)
            return running

        done = stop(begin, signal.SIGTERM)
        assert done.status == -signal.SIGTERM
        # Before its first line has run, the process has no word in it.
        assert len([line for line in done.log if "stopped by SIGTERM while " in line]) <= 1


def test_a_stop_while_ready_cannot_be_written(store: Path, start: Start, full_pipe: int) -> None:
    install(store, guest(FOREVER))

    def begin() -> Running:
        running = start(until=b"", stdout=full_pipe)
        eventually(lambda: "compiled" in running.stderr and asleep(running), "about to say READY")
        return running

    done = stop(begin, signal.SIGTERM)
    assert done.status == -signal.SIGTERM
    # Neither the start section nor _start is running at that time.
    assert done.end.startswith("notice: stopped by SIGTERM while ")
    assert "start section" not in done.end
    assert "_start" not in done.end


@pytest.fixture
def deaf_manager(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Fills a service manager's queue, so that the next message waits, and returns its address."""
    path = str(tmp_path / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        manager.bind(path)
        other.setblocking(False)

        def fill() -> str:
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"X=1", path)
            return path

        yield fill


def test_a_stop_when_nobody_reads_the_log_the_report_and_the_notifications(
    store: Path, start: Start, full_pipe: int, deaf_manager: Callable[[], str]
) -> None:
    install(store, guest(FOREVER))
    env = {"NOTIFY_SOCKET": deaf_manager(), "WEFT_REPORT_FD": str(full_pipe)}
    done = stop(
        lambda: start("--sd-notify", env=env, stderr=full_pipe, pass_fds=[full_pipe]), signal.SIGTERM
    )
    assert done.status == -signal.SIGTERM


def test_the_log_line_of_a_stop_survives_a_report_that_nobody_reads(
    store: Path, start: Start, full_pipe: int
) -> None:
    install(store, guest(say("in\n") + FOREVER))
    env = {"WEFT_REPORT_FD": str(full_pipe)}
    done = stop(lambda: start(until=b"in\n", env=env, pass_fds=[full_pipe]), signal.SIGTERM)
    assert (done.status, done.end) == (-signal.SIGTERM, "notice: stopped by SIGTERM while running _start")


def test_the_log_line_of_a_stop_survives_output_and_notifications_that_nobody_reads(
    store: Path, start: Start, deaf_manager: Callable[[], str]
) -> None:
    install(store, guest(FLOOD), toml=manifest(runtime='ready = "guest"'))

    def begin() -> Running:
        running = start("--sd-notify", until=b"", env={"NOTIFY_SOCKET": deaf_manager()})
        eventually(lambda: unread(running) == 65536, "the pipe is full")
        return running

    done = stop(begin, signal.SIGTERM)
    reason = "notice: stopped by SIGTERM while running _start, before READY"
    assert (done.status, done.end) == (-signal.SIGTERM, reason)


def test_two_signals_are_one_stop(store: Path, start: Start) -> None:
    install(store, guest(FOREVER))

    def begin() -> Running:
        running = start()
        running.process.send_signal(signal.SIGINT)
        return running

    done = stop(begin, signal.SIGTERM)
    assert done.status in (-signal.SIGINT, -signal.SIGTERM)
    assert len([line for line in done.log if line.startswith("notice: stopped by ")]) == 1


def test_a_key_press_that_reaches_the_compiler_too_is_one_stop(store: Path, start: Start) -> None:
    install(store, slow_to_compile())
    running = start(until=b"")
    eventually(lambda: with_child(running), "compiling")
    os.killpg(running.process.pid, signal.SIGINT)
    done = running.wait()
    assert done.status == -signal.SIGINT
    assert [line.split(": ")[0] for line in done.log] == ["info", "notice"]


def test_a_stop_while_the_last_output_waits_for_its_reader(
    store: Path, start: Start, tmp_path: Path
) -> None:
    app = say("READY\n") + f"(drop (call $write (i32.const 1) (i32.const {TEXT}) (i32.const 131072)))"
    install(store, guest(app), toml=manifest(runtime='ready = "guest"'))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))

        def begin() -> Running:
            running = start("--sd-notify", env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
            eventually(lambda: unread(running) > 60000, "the pipe is full")
            return running

        done = stop(begin, signal.SIGTERM)
    assert done.status == -signal.SIGTERM


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can begin a PID namespace")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_process_of_a_container_ends_too(store: Path, start: Start, number: Signals) -> None:
    install(store, guest(say("in\n") + FOREVER))
    running = start(until=b"in\n", wrapper=("unshare", "--pid", "--fork", "--kill-child"))
    [first] = set(members(running.process.pid)) - {running.process.pid}
    os.kill(first, number)
    done = running.wait()
    # The kernel need not let such a process die by a signal: it then ends as a shell would say it.
    assert done.status in (-number, 128 + number)
    assert done.end == f"notice: stopped by {number.name} while running _start"


def test_other_signals_keep_their_meaning(store: Path, start: Start) -> None:
    install(store, guest(FOREVER))
    # A shell without job control has what it starts in the background ignore this one, the tests included.
    before = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    try:
        done = stop(start, signal.SIGQUIT)
    finally:
        signal.signal(signal.SIGQUIT, before)
    assert done.status == -signal.SIGQUIT
    assert "stopped" not in done.stderr
