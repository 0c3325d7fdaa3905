# SPDX-License-Identifier: Apache-2.0
"""READY: who says it, when, once, in one write, and never for an app that cannot start."""

import socket
from pathlib import Path

import pytest

from tests.command.guests import guest, leave, say
from tests.command.harness import Run
from tests.packages import install, manifest, wat

HOST, EXPORT, GUEST = (manifest(runtime=f'ready = "{mode}"') for mode in ("host", "export", "guest"))
NOT_SENT = "instead of returning: READY was not sent"


def messages(connection: socket.socket) -> list[bytes]:
    """What was written to the other end, each write(2) on its own; it must be closed by now."""
    found = []
    while message := connection.recv(65536):
        found.append(message)
    return found


@pytest.mark.parametrize(
    ("toml", "written"),
    [
        (None, [b"section", b"made ready", b"READY\n", b"started", b"more"]),
        (EXPORT, [b"section", b"made ready", b"READY\n", b"started", b"more"]),
        (HOST, [b"section", b"READY\n", b"started", b"more"]),
        (GUEST, [b"section", b"started", b"more"]),
    ],
    ids=["default", "export", "host", "guest"],
)
def test_ready_is_one_write_between_the_writes_of_the_app(
    store: Path, run: Run, toml: str | None, written: list[bytes]
) -> None:
    content = guest(say("started") + say("more"), ready=say("made ready"), section=say("section"))
    install(store, content, toml=toml)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            done = run(stdout=theirs.fileno())
        assert (done.status, messages(ours)) == (0, written)


def test_without_weft_ready_the_default_is_host(store: Path, run: Run) -> None:
    install(store, guest(say("started"), section=say("section ")))
    assert run().stdout == b"section READY\nstarted"


def test_the_runtime_never_says_it_twice(store: Path, run: Run) -> None:
    install(store, guest(say("READY\n")), toml=HOST)
    # The second is the app's own: its bytes pass as they are.
    done = run()
    assert done.stdout == b"READY\nREADY\n"
    assert done.log.count("info: the app is ready") == 1


def test_in_guest_mode_the_bytes_are_the_apps_alone(store: Path, run: Run) -> None:
    install(store, guest(say("READY\n") + say("READY\n") + leave(3), ready=leave(4)), toml=GUEST)
    done = run()
    assert (done.status, done.stdout) == (3, b"READY\nREADY\n")


def test_ready_comes_before_start_has_ended(store: Path, run: Run) -> None:
    install(store, guest("unreachable"))
    assert (run().status, run().stdout) == (134, b"READY\n")


@pytest.mark.parametrize(
    ("ready", "status", "end"),
    [
        (leave(0), 165, f"err: weft_ready ended the app with status 0 {NOT_SENT}"),
        (leave(3), 165, f"err: weft_ready ended the app with status 3 {NOT_SENT}"),
        (leave(200), 165, f"err: weft_ready ended the app with status 125 {NOT_SENT}"),
    ],
)
def test_a_weft_ready_that_exits(store: Path, run: Run, ready: str, status: int, end: str) -> None:
    install(store, guest(say("started"), ready=ready))
    done = run()
    assert (done.status, done.stdout, done.end) == (status, b"", end)


def test_a_weft_ready_that_traps(store: Path, run: Run) -> None:
    install(store, guest(say("started"), ready="unreachable"))
    done = run()
    assert (done.status, done.stdout) == (134, b"")
    assert done.end == (
        "err: the app trapped in weft_ready: unreachable: wasm `unreachable` instruction executed"
    )


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ('(func (export "weft_ready") (param i32))', "a function (i32) -> ()"),
        (
            '(func (export "weft_ready") (result i32) (i32.const 1))',
            "a function () -> (i32)",
        ),
        ('(memory (export "weft_ready") 1)', "a memory"),
        ('(global (export "weft_ready") i32 (i32.const 1))', "a global"),
    ],
)
@pytest.mark.parametrize("toml", [None, EXPORT], ids=["default", "export"])
def test_a_weft_ready_of_another_type(
    store: Path, run: Run, field: str, found: str, toml: str | None
) -> None:
    package = install(store, wat(f'{field} (func (export "_start"))'), toml=toml)
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.end == f"err: {package}/app.wasm exports weft_ready as {found}: expected a function () -> ()"


@pytest.mark.parametrize("toml", [HOST, GUEST], ids=["host", "guest"])
def test_a_weft_ready_that_is_not_called_may_be_anything(store: Path, run: Run, toml: str) -> None:
    install(store, wat('(memory (export "weft_ready") 1) (func (export "_start"))'), toml=toml)
    assert run().status == 0


def test_export_mode_without_weft_ready(store: Path, run: Run) -> None:
    package = install(store, guest(""), toml=EXPORT)
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.end == (
        f"err: {package}/app.wasm exports no weft_ready, but its manifest has runtime.ready = 'export'"
    )


@pytest.mark.parametrize("section", [leave(0), leave(3), "unreachable"])
def test_a_start_section_that_ends_the_app_comes_before_ready(store: Path, run: Run, section: str) -> None:
    install(store, guest(say("started"), section=section))
    assert run().stdout == b""


def test_without_start_no_code_runs(store: Path, run: Run) -> None:
    content = guest("", section=say("section"), ready=say("ready"))
    install(store, content.replace(b"\x06_start", b"\x06_strat"))
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert "exports no _start" in done.end
