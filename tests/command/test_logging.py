# SPDX-License-Identifier: Apache-2.0
"""The log on standard error: its lines, levels, settings, and the prefixes that a journal understands."""

import os
import re
import socket
from pathlib import Path

import pytest

from tests.command.guests import guest, leave, named, say
from tests.command.harness import SESSION, Run
from tests.packages import APP_ID, install

LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


def test_each_line_says_who_and_what(store: Path, run: Run) -> None:
    package = install(store, guest(""))
    lines = run().stderr.splitlines()
    head = rf"weft-runtime\[\d+\]: info: {re.escape(APP_ID)}\[{SESSION}\]: "
    assert len(lines) == 4
    for line, text in zip(
        lines,
        [
            re.escape(f"starting 1.2.3 from {package}"),
            re.escape(f"compiled {package}/app.wasm in ") + r"\d+ ms",
            "the app is ready",
            "the app exited with status 0",
        ],
        strict=True,
    ):
        assert re.fullmatch(head + text, line)


def test_all_lines_have_the_number_of_one_process(store: Path, run: Run) -> None:
    install(store, guest(""))
    assert len(set(re.findall(r"weft-runtime\[(\d+)\]", run().stderr))) == 1


def test_nothing_of_ours_is_on_standard_output(store: Path, run: Run) -> None:
    install(store, guest(say("app\n")))
    assert run("--log-level", "debug").stdout == b"READY\napp\n"


@pytest.mark.parametrize(
    ("level", "lines"),
    [("debug", 7), ("info", 4), ("notice", 1), ("warning", 1), ("err", 0), ("error", 0), ("emerg", 0)],
)
@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_level_decides_what_is_logged(store: Path, run: Run, how: str, level: str, lines: int) -> None:
    install(store, guest(leave(9)))
    done = run("--log-level", level) if how == "option" else run(env={"WEFT_LOG_LEVEL": level})
    assert (done.status, len(done.log)) == (9, lines)
    assert len(done.stderr.splitlines()) == lines


def test_the_option_beats_the_variable(store: Path, run: Run) -> None:
    install(store, guest(leave(9)))
    assert run("--log-level", "info", env={"WEFT_LOG_LEVEL": "emerg"}).log[-1].startswith("warning: ")


@pytest.mark.parametrize("value", ["DEBUG", "Info", ""])
def test_a_level_is_taken_in_any_case(store: Path, run: Run, value: str) -> None:
    install(store, guest(""))
    assert len(run(env={"WEFT_LOG_LEVEL": value}).log) == (7 if value == "DEBUG" else 4)


def test_a_wrong_level_is_refused(store: Path, run: Run) -> None:
    install(store, guest(""))
    done = run(env={"WEFT_LOG_LEVEL": "lo\nud"})
    assert (done.status, done.stdout) == (178, b"")
    assert done.log == [
        rf"err: $WEFT_LOG_LEVEL: 'lo\x0aud' is not a log level: expected one of {', '.join(LEVELS)}"
    ]


def test_a_wrong_target_is_refused(store: Path, run: Run) -> None:
    install(store, guest(""))
    done = run(env={"WEFT_LOG": "syslog"})
    assert (done.status, done.stdout) == (178, b"")
    assert done.log == ["err: $WEFT_LOG is 'syslog': expected 'journal', 'stderr' or 'auto'"]


@pytest.mark.parametrize("value", ["", "auto", "stderr"])
def test_without_a_journal_the_log_is_on_standard_error(store: Path, run: Run, value: str) -> None:
    install(store, guest(""))
    assert len(run(env={"WEFT_LOG": value}).log) == 4


def test_a_journal_that_cannot_be_had_is_told_once(store: Path, run_plain: Run) -> None:
    """As where systemd-python is not installed; a machine without a journal has another reason."""
    install(store, guest(leave(9)))
    done = run_plain(env={"WEFT_LOG": "journal"})
    assert (done.status, done.stdout, len(done.log)) == (9, b"READY\n", 5)
    assert done.log[0].startswith("notice: cannot log to the journal natively, logging to standard error: ")


@pytest.mark.skipif(Path("/run/systemd/journal/socket").exists(), reason="there is a journal here")
def test_without_a_journal_its_library_is_no_use(store: Path, run: Run) -> None:
    install(store, guest(leave(9)))
    assert run(env={"WEFT_LOG": "journal"}).log[0] == (
        "notice: cannot log to the journal natively, logging to standard error:"
        " there is no /run/systemd/journal/socket"
    )


def test_where_a_journal_reads_standard_error_every_line_has_its_priority(
    store: Path, tmp_path: Path, run_plain: Run
) -> None:
    install(store, named(b"f\n<0>forged"))
    path = tmp_path / "stderr"
    with path.open("wb") as stderr:
        stat = os.fstat(stderr.fileno())
        done = run_plain(env={"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}, stderr=stderr)
    lines = path.read_text().splitlines()
    assert done.status == 134
    # Without systemd-python, the first line says why the journal is not written to directly.
    assert [line[:3] for line in lines] == ["<5>", "<6>", "<6>", "<6>", "<3>", "<3>"]
    assert re.fullmatch(r"<3>weft-runtime\[\d+\]: err: \S+: the app trapped in _start: .*", lines[-2])
    assert lines[-1].startswith(r"<3>  0: f\x0a<0>forged (function 0, ")


@pytest.mark.parametrize("stream", ["1:1", "x", "", "9:", "0:0"])
def test_a_journal_that_reads_something_else_is_no_journal(store: Path, run: Run, stream: str) -> None:
    install(store, guest(""))
    done = run(env={"JOURNAL_STREAM": stream})
    assert (done.status, len(done.log)) == (0, 4)
    assert "<" not in done.stderr


def test_a_trap_is_one_message_with_its_backtrace_below(store: Path, run: Run) -> None:
    install(store, guest("unreachable"))
    lines = run().stderr.splitlines()
    assert lines[-2].endswith(
        f"err: {APP_ID}[{SESSION}]: the app trapped in _start: unreachable: wasm `unreachable` instruction executed"
    )
    assert re.fullmatch(r"  0: \? \(function \d+, offset 0x[0-9a-f]+\)", lines[-1])


@pytest.mark.parametrize(
    "text",
    [
        "weft-runtime[1]: org.example.app/7: info: the app is ready\n",
        "MESSAGE=x\nPRIORITY=0\n",
        "\x1b[2J\r\n",
    ],
)
def test_what_the_app_writes_to_standard_error_is_not_our_log(store: Path, run: Run, text: str) -> None:
    install(store, guest(say(text, fd=2)))
    done = run("--log-level", "emerg")
    assert done.stderr == text


def test_the_names_of_all_things_are_made_safe(store: Path, run: Run) -> None:
    hostile = store / "\n<0>READY\n\x1b[31m"
    install(hostile, guest(leave(9)))
    done = run(env={"WEFT_APP_STORE": str(hostile)})
    assert (done.status, len(done.stderr.splitlines())) == (9, 4)
    assert rf"{store}/\x0a<0>READY\x0a\x1b[31m/{APP_ID}" in done.log[0]
    assert done.stderr.replace("\n", "").isprintable()


def test_each_entry_is_one_write(store: Path, run: Run) -> None:
    """So that lines of several processes on one terminal or in one file do not mix."""
    install(store, guest("unreachable"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            assert run(stderr=theirs.fileno()).status == 134
        entries = [ours.recv(65536) for _ in range(5)]
    assert [entry.count(b"\n") for entry in entries] == [1, 1, 1, 2, 0]
    assert all(entry.endswith(b"\n") for entry in entries[:-1])
