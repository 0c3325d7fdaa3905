# SPDX-License-Identifier: Apache-2.0
"""sd_notify against a real datagram socket, and the tap that finds the READY of an app in its output."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.command.guests import FOREVER, IO, guest, leave, put, say, writing
from tests.command.harness import WAIT_SECONDS, Run, Running, Start, bytes_in, eventually, fill_pipe, stop
from tests.packages import install, manifest

GUEST_MODE = manifest(runtime='ready = "guest"')
READY = "READY=1\nSTATUS=the app is running (version 1.2.3)"


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.env = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.setblocking(False)

    def __enter__(self) -> "Manager":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def messages(self) -> list[str]:
        """The messages since the last call; each must be UTF-8, which is what systemd takes."""
        found: list[str] = []
        while True:
            try:
                message = self._socket.recv(65536).decode()
            except BlockingIOError:
                return found
            if not _is_delay(message):
                found.append(message)

    def next(self) -> str:
        self._socket.settimeout(WAIT_SECONDS)
        try:
            while _is_delay(message := self._socket.recv(65536).decode()):
                pass
            return message
        finally:
            self._socket.setblocking(False)


def _is_delay(message: str) -> bool:
    """Whether it is the plea for more time of a compiler that a busy machine has made slow."""
    return message.startswith("EXTEND_TIMEOUT_USEC=")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """A service manager that listens on a path, and one that listens on an abstract address."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}/notify"
    with Manager(address) as listening:
        yield listening


@pytest.fixture
def one_manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(str(tmp_path / "notify")) as listening:
        yield listening


@pytest.mark.parametrize(("options", "env"), [(["--sd-notify"], {}), ([], {"WEFT_SD_NOTIFY": "1"})])
def test_ready_and_the_end_are_mirrored(
    store: Path, run: Run, manager: Manager, options: list[str], env: dict[str, str]
) -> None:
    install(store, guest(""))
    done = run(*options, env=manager.env | env)
    assert (done.status, done.stdout) == (0, b"READY\n")
    assert manager.messages() == [READY, "STOPPING=1\nSTATUS=the app exited with status 0 (version 1.2.3)"]


@pytest.mark.parametrize("value", [None, "", "0", "no", "false", "OFF"])
def test_nothing_is_mirrored_unless_asked(
    store: Path, run: Run, one_manager: Manager, value: str | None
) -> None:
    install(store, guest(""))
    done = run(env=one_manager.env | {"WEFT_SD_NOTIFY": value})
    assert (done.status, one_manager.messages()) == (0, [])


def test_a_wrong_wish_is_refused(store: Path, run: Run, one_manager: Manager) -> None:
    install(store, guest(""))
    done = run(env=one_manager.env | {"WEFT_SD_NOTIFY": "maybe"})
    assert (done.status, done.stdout) == (178, b"")
    assert done.end == "err: $WEFT_SD_NOTIFY is 'maybe': expected a boolean, 1 or 0"


def test_ready_is_sent_after_the_line_and_before_start_ends(
    store: Path, start: Start, one_manager: Manager
) -> None:
    install(store, guest(say("in\n") + FOREVER))
    done = stop(lambda: start("--sd-notify", env=one_manager.env, until=b"in\n"), SIGTERM)
    assert done.status == -SIGTERM
    assert one_manager.messages()[-2:] == [
        READY,
        "STOPPING=1\nSTATUS=stopped by SIGTERM while running _start (version 1.2.3)",
    ]


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (
            guest("", ready="unreachable"),
            134,
            "the app trapped in weft_ready: unreachable: wasm `unreachable`",
        ),
        (guest("", section=leave(3)), 3, "the app exited with status 3 in its start section, before READY"),
        (b"junk", 165, "err"),
    ],
)
def test_without_ready_only_the_end_is_told(
    store: Path, run: Run, one_manager: Manager, content: bytes, status: int, reason: str
) -> None:
    package = install(store, content)
    done = run("--sd-notify", env=one_manager.env)
    [message] = one_manager.messages()
    if reason == "err":
        reason = f"{package}/app.wasm is text, not a WebAssembly module"
    assert done.status == status
    assert message.startswith(f"STOPPING=1\nSTATUS={reason[:200]}")
    assert message.count("\n") == 1


def test_an_error_before_the_package_is_told_too(run: Run, one_manager: Manager) -> None:
    assert run("--sd-notify", env=one_manager.env).status == 166
    assert [message.partition("\n")[0] for message in one_manager.messages()] == ["STOPPING=1"]


def test_a_status_is_one_short_line_of_utf8(tmp_path: Path, run: Run, one_manager: Manager) -> None:
    hostile = tmp_path / "Läden\nREADY=1\n€"
    done = run("--sd-notify", env=one_manager.env | {"WEFT_APP_STORE": str(hostile)})
    [message] = one_manager.messages()
    assert done.status == 166
    assert message.startswith("STOPPING=1\nSTATUS=package ")
    assert message.count("\n") == 1
    assert len(message) <= len("STOPPING=1\nSTATUS=") + 200


def test_a_status_beyond_latin_1(store: Path, run: Run, one_manager: Manager) -> None:
    install(store, guest(""), toml=manifest(module="ä€.wasm"))
    run("--sd-notify", env=one_manager.env)
    [message] = one_manager.messages()
    assert message.startswith("STOPPING=1\nSTATUS=ä€.wasm not found at ")


def test_without_a_socket_the_wish_is_a_debug_message(store: Path, run: Run) -> None:
    install(store, guest(""))
    done = run("--sd-notify")
    assert (done.status, len(done.log)) == (0, 4)
    done = run("--sd-notify", "--log-level", "debug")
    assert done.status == 0
    assert done.log[0] == "debug: notification was asked for, but there is no $NOTIFY_SOCKET: not notifying"


@pytest.mark.parametrize("address", ["/nowhere/notify", "@weft-nobody", "relative", "vsock:2:1", "/" * 200])
def test_a_socket_that_is_not_there_is_a_warning(store: Path, run: Run, address: str) -> None:
    install(store, guest(leave(9)), toml=GUEST_MODE)
    done = run("--sd-notify", env={"NOTIFY_SOCKET": address})
    assert done.status == 9
    warnings = [line for line in done.log if line.startswith("warning: cannot notify")]
    assert len(warnings) == 1
    assert ", ignoring: " in warnings[0]


def test_a_manager_that_is_gone_is_a_warning(store: Path, start: Start, tmp_path: Path) -> None:
    install(store, guest(say("in\n") + FOREVER))

    def begin() -> Running:
        with Manager(str(tmp_path / "notify")) as manager:
            running = start("--sd-notify", env=manager.env, until=b"in\n")
        (tmp_path / "notify").unlink()
        return running

    done = stop(begin, SIGTERM)
    assert done.log[-2:] == [
        "warning: cannot notify the service manager, ignoring: Connection refused",
        "notice: stopped by SIGTERM while running _start",
    ]


def test_without_the_library_the_wish_is_a_warning(
    store: Path, run_plain: Run, one_manager: Manager
) -> None:
    install(store, guest(""))
    done = run_plain("--sd-notify", env=one_manager.env)
    assert (done.status, done.stdout) == (0, b"READY\n")
    assert [
        line
        for line in done.log
        if line.startswith("warning: cannot notify the service manager, ignoring: ")
    ]


# Guest mode: with the mirror on, the runtime listens in on the app's output.


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        (["READY\n"], 1),
        (["RE", "AD", "Y", "\n"], 1),
        (["noise\nREADY\nmore\n"], 1),
        (["READY\n", "READY\n"], 1),
        (["\t READY \r\n"], 1),
        (["\u00a0READY\u3000\n"], 1),
        (["READY"], 1),
        (["noise\nREADY"], 1),
        (["READY!\n"], 0),
        (["ready\n"], 0),
        (["NOT READY\n"], 0),
        (["READY\x00\n"], 0),
        (["\ufeffREADY\n"], 0),
        ([], 0),
    ],
)
def test_the_line_of_the_app_is_found_and_passes_unchanged(
    store: Path, run: Run, one_manager: Manager, written: list[str], sent: int
) -> None:
    install(store, guest("".join(map(say, written)) + leave(9)), toml=GUEST_MODE)
    done = run("--sd-notify", env=one_manager.env)
    assert (done.status, done.stdout) == (9, "".join(written).encode())
    assert one_manager.messages() == [READY] * sent + [
        "STOPPING=1\nSTATUS=the app exited with status 9 (version 1.2.3)"
    ]
    assert done.log.count("info: the app is ready") == sent


def test_ready_is_told_while_the_app_runs(store: Path, start: Start, one_manager: Manager) -> None:
    install(store, guest(say("READY\n") + FOREVER), toml=GUEST_MODE)
    running = start("--sd-notify", env=one_manager.env)
    assert one_manager.next() == READY
    eventually(lambda: "]: the app is ready" in running.stderr, "logged")


@pytest.mark.parametrize("end", [leave(0), leave(9), "unreachable", ""])
def test_every_end_brings_out_all_that_was_written(
    store: Path, run: Run, one_manager: Manager, end: str
) -> None:
    app = put("0123456789abcde\n") + writing(1, times=200, size=65536) + say("\nlast words") + end
    install(store, guest(app), toml=GUEST_MODE)
    done = run("--sd-notify", env=one_manager.env)
    assert len(done.stdout) == 200 * 65536 + 11
    assert done.stdout.startswith(b"0123456789abcde\n")
    assert done.stdout.endswith(b"\nlast words")


def test_a_stop_brings_out_what_was_written(store: Path, start: Start, one_manager: Manager) -> None:
    app = put("x") + writing(1, times=10) + say("\nlast words") + say("in\n", fd=2) + FOREVER
    install(store, guest(app), toml=GUEST_MODE)

    def begin() -> Running:
        running = start("--sd-notify", env=one_manager.env, until=b"")
        eventually(lambda: "in\n" in running.stderr, "all is written")
        return running

    assert stop(begin, SIGTERM).stdout.endswith(b"\nlast words")


def test_an_output_that_breaks_is_an_errno_for_the_app(
    store: Path, start: Start, one_manager: Manager
) -> None:
    install(store, guest(say("READY\n") + writing(1, times=-1)), toml=GUEST_MODE)
    running = start("--sd-notify", env=one_manager.env)
    assert running.process.stdout is not None
    running.process.stdout.close()
    assert running.process.wait(WAIT_SECONDS) == IO  # the engine's word for EPIPE


def test_a_full_disk_is_an_errno_for_the_app(store: Path, run: Run, one_manager: Manager) -> None:
    install(store, guest(writing(1, times=-1)), toml=GUEST_MODE)
    with open("/dev/full", "wb") as full:
        done = run("--sd-notify", env=one_manager.env, stdout=full)
    assert done.status == IO


def test_an_output_that_does_not_block_loses_nothing(
    store: Path, start: Start, one_manager: Manager
) -> None:
    install(
        store,
        guest(say("in\n", fd=2) + put("x") + writing(1, times=100) + say("\nlast words") + leave(9)),
        toml=GUEST_MODE,
    )
    reader, writer = os.pipe()
    filling = fill_pipe(writer)
    os.set_blocking(writer, False)
    running = start("--sd-notify", until=b"", env=one_manager.env, stdout=writer)
    os.close(writer)
    # By then, what is descriptor 1 is the runtime's own pipe.
    eventually(lambda: "in\n" in running.stderr and has_ended_or_filled(running), "waiting for room")
    with open(reader, "rb") as file:
        received = file.read()
    assert (running.process.wait(WAIT_SECONDS), len(received)) == (9, len(filling) + 100 * 4096 + 11)


def has_ended_or_filled(running: Running) -> bool:
    """Whether the app has filled the pipe of the runtime's own that is its standard output."""
    if running.process.poll() is not None:
        return True
    with open(f"/proc/{running.process.pid}/fd/1", "rb", buffering=0, opener=_nonblocking) as pipe:
        return bytes_in(pipe.fileno()) == 65536


def _nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def test_a_line_without_an_end_costs_no_memory(store: Path, run: Run, one_manager: Manager) -> None:
    endless = put("x" * 64) + writing(1, times=2000, size=65536)
    install(store, guest(endless + say("\nREADY\n") + leave(9)), toml=GUEST_MODE)
    with open(os.devnull, "wb") as null:
        done = run("--sd-notify", env=one_manager.env, stdout=null, wrapper=["prlimit", "--data=300000000"])
    assert done.status == 9
    assert one_manager.messages()[0] == READY


@pytest.mark.parametrize(("mode", "options"), [("guest", []), ("host", ["--sd-notify"])])
def test_nothing_stands_between_where_nothing_must(
    store: Path, start: Start, one_manager: Manager, mode: str, options: list[str]
) -> None:
    install(store, guest(say("READY\n") + FOREVER), toml=manifest(runtime=f'ready = "{mode}"'))
    running = start(*options, env=one_manager.env)
    assert running.process.stdout is not None
    ours = os.fstat(running.process.stdout.fileno()).st_ino
    assert Path(f"/proc/{running.process.pid}/fd/1").stat().st_ino == ours
