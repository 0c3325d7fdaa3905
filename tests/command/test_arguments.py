# SPDX-License-Identifier: Apache-2.0
"""The command line: what is accepted, and what each refusal says."""

import importlib.metadata
import os
from pathlib import Path

import pytest

from tests.command.guests import guest, leave
from tests.command.harness import Run
from tests.packages import APP_ID, install
from weft_runtime import __version__
from weft_runtime.ids import APP_ID_MAX

HINT = "[see weft-runtime --help]"
APP_ID_RULE = (
    "expected three or more labels of a-z and 0-9, each beginning with a letter, joined by dots, such as"
    " org.example.notes"
)
EMPTY_PATH = "is not HOST[::GUEST]: a path is empty"
SESSION_ID_RULE = "expected a decimal number from 0 to 18446744073709551615"
ENGINE = f"wasmtime {importlib.metadata.version('wasmtime')}"
OK = guest("")


@pytest.mark.parametrize("program", ["weft-runtime", "weft-runtime-wasmtime"])
def test_version_names_the_engine(run: Run, program: str) -> None:
    done = run(args=["--version"], program=program)
    assert (done.status, done.stdout) == (0, f"{program} {__version__} ({ENGINE})\n".encode())
    assert done.stderr == ""


@pytest.mark.parametrize("program", ["weft-runtime", "weft-runtime-wasmtime"])
def test_help_names_every_option(run: Run, program: str) -> None:
    done = run(args=["--help"], program=program)
    assert done.status == 0
    assert done.stdout.startswith(f"usage: {program} ".encode())
    for option in (
        b"--preopen HOST[::GUEST]", b"--preopen-ro HOST[::GUEST]", b"--ipc-socket PATH", b"--sd-notify",
        b"--log-level LEVEL", b"--version", b"--help", b"app_id", b"session_id",
    ):  # fmt: skip
        assert option in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_what_cannot_be_printed_is_an_error(run: Run, option: str) -> None:
    with open("/dev/full", "wb") as full:
        done = run(args=[option], stdout=full)
    assert (done.status, done.log) == (
        171,
        ["err: cannot write to standard output: No space left on device"],
    )


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "the following arguments are required: app_id, session_id"),
        ([APP_ID], "the following arguments are required: session_id"),
        ([APP_ID, "7", "more"], "unexpected argument: more"),
        ([APP_ID, "7", "--"], None),
        ([APP_ID, "7", "--frobnicate"], "unexpected argument: --frobnicate"),
        ([APP_ID, "7", "-x"], "unexpected argument: -x"),
        ([APP_ID, "7", "\x1b[31m\nREADY"], "unexpected argument: \\x1b[31m\\x0aREADY"),
        ([APP_ID, "7", b"\xff"], "unexpected argument: \\xff"),
        ([APP_ID, "7", "--preop", "/tmp"], "unexpected argument: --preop"),
        ([APP_ID, "7", "--preopen"], "argument --preopen: expected one argument"),
        ([APP_ID, "7", "--preopen="], f"argument --preopen: '' {EMPTY_PATH}"),
        ([APP_ID, "7", "--preopen=::/g"], f"argument --preopen: '::/g' {EMPTY_PATH}"),
        ([APP_ID, "7", "--preopen=/h::"], f"argument --preopen: '/h::' {EMPTY_PATH}"),
        ([APP_ID, "7", "--preopen-ro=/h::"], f"argument --preopen-ro: '/h::' {EMPTY_PATH}"),
        ([APP_ID, "7", b"--preopen=/\xff"], "argument --preopen: '/\\xff' is not UTF-8"),
        ([APP_ID, "7", "--ipc-socket"], "argument --ipc-socket: expected one argument"),
        (
            [APP_ID, "7", "--ipc-socket="],
            "argument --ipc-socket: '' is not the path of a socket: expected 1 to 107 bytes",
        ),
        (
            [APP_ID, "7", "--ipc-socket", "/" * 108, "--ipc-socket", "/s"],
            f"argument --ipc-socket: '{'/' * 108}' is not the path of a socket: expected 1 to 107 bytes",
        ),
        (
            [APP_ID, "7", "--log-level=loud"],
            ("argument --log-level: 'loud' is not a log level: expected one of"
            " emerg, alert, crit, err, warning, notice, info, debug"),
        ),
        ([APP_ID, "7", "--sd-notify=1"], "argument --sd-notify: ignored explicit argument '1'"),
        (["--bogus", APP_ID, "7"], "unexpected argument: --bogus"),
    ],
)  # fmt: skip
def test_a_wrong_command_line(store: Path, run: Run, args: list[str | bytes], complaint: str | None) -> None:
    install(store, OK)
    done = run(args=[os.fsdecode(arg) for arg in args])
    if complaint is None:
        assert (done.status, done.stdout) == (0, b"READY\n")
    else:
        assert (done.status, done.stdout, done.log) == (164, b"", [f"err: {complaint} {HINT}"])


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "../x", "/", "/etc", "org.example", "org.example.", ".org.example.app",
        "org..example.app",
        "Org.example.app", "org.exam_ple.app", "org.exam-ple.app", "org.example.1app", "org.example.äpp",
        "org.example.app/", "org.example.app\n", "org.example.app/../org.example.app", " org.example.app",
    ],
)  # fmt: skip
def test_what_is_no_app_id_touches_no_path(store: Path, run: Run, text: str) -> None:
    install(store, OK)
    done = run(args=[text, "7"])
    shown = text.replace("\n", "\\x0a")
    assert (done.status, done.stdout) == (164, b"")
    assert done.log == [f"err: argument app_id: '{shown}' is not an app id: {APP_ID_RULE} {HINT}"]


def test_an_endless_app_id_is_cut_in_the_message(run: Run) -> None:
    done = run(args=["A" * 100_000, "7"])
    assert done.status == 164
    assert done.log == [
        f"err: argument app_id: '{'A' * 32}...' is not an app id: it has 100000 characters, expected {APP_ID_MAX} at most {HINT}"
    ]  # fmt: skip


def test_the_longest_app_id_is_not_found(store: Path, run: Run) -> None:
    app_id = "org.example." + "a" * (APP_ID_MAX - 12)
    done = run(args=[app_id, "7"])
    assert (done.status, done.stdout) == (166, b"")
    assert "not found in any package store" in done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0", "0"), ("+5", "5"), ("007", "7"), ("+" + "0" * 60 + "1", "1"),
        ("18446744073709551615", "18446744073709551615"),
    ],
)  # fmt: skip
def test_a_session_id_is_a_number_that_the_log_shows(store: Path, run: Run, text: str, shown: str) -> None:
    install(store, OK)
    done = run(args=[APP_ID, text])
    assert (done.status, done.stdout) == (0, b"READY\n")
    assert f" info: {APP_ID}[{shown}]: the app is ready\n" in done.stderr


@pytest.mark.parametrize(
    "text",
    ["", "-0", "-1", "18446744073709551616", " 5", "5 ", "1_000", "0x10", "\uff15", "++5", "1e3", "5\n"],
)
def test_what_is_no_session_id(store: Path, run: Run, text: str) -> None:
    install(store, OK)
    done = run(args=[APP_ID, text])
    shown = text.replace("\n", "\\x0a")
    assert (done.status, done.stdout) == (164, b"")
    assert done.log == [f"err: argument session_id: '{shown}' is not a session id: {SESSION_ID_RULE} {HINT}"]


def test_options_may_stand_anywhere(store: Path, run: Run) -> None:
    install(store, guest(leave(3)))
    done = run(args=["--log-level", "err", APP_ID, "--ipc-socket=/s", "7", "--sd-notify"])
    assert (done.status, done.stdout, done.stderr) == (3, b"READY\n", "")


def test_the_longest_path_of_a_socket(store: Path, run: Run) -> None:
    install(store, OK)
    assert run("--ipc-socket", "/" + "ä" * 53).status == 0
    assert run("--ipc-socket", "/a" + "ä" * 53).status == 164


def test_the_arguments_are_checked_before_the_package(run: Run) -> None:
    assert run("--preopen=").status == 164


@pytest.mark.parametrize("program", ["weft-runtime", "weft-runtime-wasmtime"])
def test_both_programs_run_an_app(store: Path, run: Run, program: str) -> None:
    install(store, guest(leave(5)))
    done = run(program=program)
    assert (done.status, done.stdout) == (5, b"READY\n")


def test_the_module_can_be_run_by_name(store: Path, run: Run, bare: Path) -> None:
    install(store, OK)
    done = run(program=f"{bare}/bin/python", args=["-I", "-m", "weft_runtime.runtime", APP_ID, "7"])
    assert (done.status, done.stdout) == (0, b"READY\n")
