# SPDX-License-Identifier: Apache-2.0
"""Without the engine: `weft-runtime` is the stub, `weft-runtime-wasmtime` fails and says what to install."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command.guests import guest, leave, slow_to_compile
from tests.command.harness import Run
from tests.packages import APP_ID, install, manifest
from weft_runtime import __version__

STUB = "warning: this is the stub: no Wasm code ran, for want of the engine"
INSTALL = (
    "[the Debian package weft-runtime brings it; elsewhere: pip install 'weft-runtime[wasmtime-runtime]']"
)
MISSING = f"err: the engine, wasmtime, is not installed {INSTALL}"


@pytest.mark.parametrize(
    "content",
    [guest(leave(9)), b"\0asm\x0d\0\x01\0", b"\0asm", slow_to_compile()],
    ids=["core", "component", "magic", "slow"],
)
def test_the_stub_checks_the_package_says_ready_and_warns_once(
    store: Path, run_bare: Run, content: bytes
) -> None:
    package = install(store, content)
    done = run_bare()
    assert (done.status, done.stdout) == (0, b"READY\n")
    assert done.log == [
        f"info: starting 1.2.3 from {package}",
        STUB,
        "info: the app is ready",
        "info: the app exited with status 0",
    ]


def test_the_stub_says_ready_in_one_write(store: Path, run_bare: Run) -> None:
    install(store, guest(""))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            assert run_bare(stdout=theirs.fileno()).status == 0
        assert [ours.recv(100), ours.recv(100)] == [b"READY\n", b""]


@pytest.mark.parametrize("content", [b"", b"(module)", b"\0as"])
def test_the_stub_refuses_what_has_no_magic(store: Path, run_bare: Run, content: bytes) -> None:
    package = install(store, content)
    done = run_bare()
    assert (done.status, done.stdout) == (165, b"")
    assert done.end == f"err: {package}/app.wasm does not begin with the Wasm magic"


def _no_package(package: Path) -> None:
    (package / "wapp.toml").unlink()


def _no_module(package: Path) -> None:
    (package / "app.wasm").unlink()


def _fifo(package: Path) -> None:
    (package / "app.wasm").unlink()
    os.mkfifo(package / "app.wasm")


def _wrong_manifest(package: Path) -> None:
    (package / "wapp.toml").write_text(manifest(module="/app.wasm"))


@pytest.mark.parametrize(
    ("spoil", "status"), [(_no_package, 166), (_no_module, 166), (_fifo, 165), (_wrong_manifest, 165)]
)
def test_the_stub_has_the_same_errors(
    store: Path, run: Run, run_bare: Run, spoil: Callable[[Path], None], status: int
) -> None:
    spoil(install(store, guest("")))
    with_engine, without = run(), run_bare()
    assert (without.status, without.stdout) == (status, b"")
    assert without.log == with_engine.log


@pytest.mark.parametrize("args", [[], [APP_ID, "x"], ["x", "7"], [APP_ID, "7", "--preopen="]])
def test_the_stub_has_the_same_command_line(run: Run, run_bare: Run, args: list[str]) -> None:
    with_engine, without = run(args=args), run_bare(args=args)
    assert (without.status, without.stdout) == (164, b"")
    assert without.log == with_engine.log


@pytest.mark.parametrize("program", ["weft-runtime", "weft-runtime-wasmtime"])
def test_the_version_says_stub(run_bare: Run, program: str) -> None:
    done = run_bare(args=["--version"], program=program)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == f"{program} {__version__} (stub: no engine)\n".encode()


def test_help_needs_no_engine(run_bare: Run) -> None:
    done = run_bare(args=["--help"], program="weft-runtime-wasmtime")
    assert (done.status, done.stderr) == (0, "")


@pytest.mark.parametrize("installed", [False, True])
def test_the_program_that_insists_fails_with_or_without_a_package(
    store: Path, run_bare: Run, installed: bool
) -> None:
    if installed:
        install(store, guest(""))
    done = run_bare(program="weft-runtime-wasmtime")
    assert (done.status, done.stdout, done.log) == (169, b"", [MISSING])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise OSError('libwasmtime.so: cannot open\\nREADY')", r"libwasmtime.so: cannot open\x0aREADY"),
        ("raise ImportError('wrong architecture')", "wrong architecture"),
        ("raise RuntimeError('unsupported platform: riscv64')", "unsupported platform: riscv64"),
    ],
)
@pytest.mark.parametrize("program", ["weft-runtime", "weft-runtime-wasmtime"])
def test_an_engine_that_cannot_be_loaded_is_no_reason_to_be_the_stub(
    store: Path, run_bare: Run, broken_engine: Path, program: str, code: str, reason: str
) -> None:
    install(store, guest(""))
    broken_engine.write_text(code)
    done = run_bare(program=program, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert (done.status, done.stdout) == (169, b"")
    assert done.log == [f"err: the engine, wasmtime, is installed but cannot be loaded: {reason} {INSTALL}"]


def test_a_stub_with_a_mirror_that_has_no_library(store: Path, run_bare: Run, tmp_path: Path) -> None:
    install(store, guest(""))
    done = run_bare("--sd-notify", env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert (done.status, done.stdout) == (0, b"READY\n")
    assert "warning: cannot notify the service manager, ignoring: No module named 'sdnotify'" in done.log


def test_a_bug_is_an_internal_error_with_its_traceback(
    store: Path, run_bare: Run, broken_engine: Path
) -> None:
    install(store, guest(""))
    broken_engine.write_text("raise ValueError('not\\nexpected')")
    done = run_bare(env={"PYTHONDONTWRITEBYTECODE": "1"}, bug=True)
    assert (done.status, done.stdout) == (170, b"")
    assert done.log == [r"crit: internal error: ValueError: not\x0aexpected"]
