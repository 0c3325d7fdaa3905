# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.ctl: words, tables, refusals, and that parser, manual page and completion agree."""

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.needs import ROOT, tool
from weft_runtime.ctl import words
from weft_runtime.ctl.daemon import expect, refusal
from weft_runtime.ctl.main import build_parser
from weft_runtime.ctl.screen import Cell, Colour, Screen
from weft_runtime.errors import Problem, WeftError
from weft_runtime.protocol import AppReady, Error, ErrorCode, LaunchAck, SessionInfo, State

NOW = 1_800_000_000.0


def session(
    *,
    state: State = State.STOPPED,
    status: int | None = None,
    signal: str | None = None,
    reason: str | None = None,
) -> SessionInfo:
    return SessionInfo(1, "org.example.app", state, None, NOW, NOW + 1, NOW + 2.5, status, signal, reason)


# Words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0.000 s"), (0, "0.000 s"), (0.0123, "0.012 s"), (9.9994, "9.999 s"), (10, "10 s"),
        (59.4, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (3661, "1 h 1 min"), (86400, "1 d"),
        (86461, "1 d"), (90061, "1 d 1 h"),
    ],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_a_duration_in_whole_seconds() -> None:
    assert [words.duration(seconds, whole=True) for seconds in (-1, 0.2, 1.6, 75)] == [
        "0 s", "0 s", "2 s", "1 min 15 s"
    ]  # fmt: skip
    assert words.ago(NOW - 75, NOW) == "1 min 15 s ago"


@pytest.mark.parametrize("unix", [float("nan"), float("inf"), -1e300, 1e300])
def test_a_time_that_is_none_does_no_harm(unix: float) -> None:
    assert words.local_time(unix) == words.short_time(unix) == "-"


def test_how_a_session_ended() -> None:
    assert words.how_it_ended(session(status=0)) == "exited with status 0"
    assert words.how_it_ended(session(status=3, reason="the app exited with status 3")) == (
        "the app exited with status 3"
    )
    assert words.how_it_ended(session(status=134, reason="trapped")) == "exited with status 134: trapped"
    assert words.how_it_ended(session(signal="SIGKILL")) == "killed by SIGKILL"
    assert words.how_it_ended(session(signal="SIGTERM", reason="stopped by SIGTERM")) == "stopped by SIGTERM"
    assert words.how_it_ended(session()) == "ended"


@pytest.mark.parametrize(
    ("ended", "status", "result", "has_failed"),
    [
        (session(status=0), 0, "0", False),
        (session(status=3), 3, "3", True),
        (session(status=2**64 - 1), 255, "18446744073709551615", True),
        (session(signal="SIGTERM"), 143, "SIGTERM", False),
        (session(signal="SIGKILL"), 137, "SIGKILL", True),
        (session(signal="SIGNONE"), 255, "SIGNONE", True),
        (session(), 0, "-", False),
    ],
)
def test_the_status_of_a_session_as_a_shell_has_it(
    ended: SessionInfo, status: int, result: str, has_failed: bool
) -> None:
    assert words.exit_status(ended) == status
    assert words.result(ended) == result
    assert words.has_failed(ended) == has_failed
    assert words.state(ended) == Cell("stopped", Colour.RED if has_failed else Colour.PLAIN)


# Tables


def test_a_table_is_aligned_by_what_a_terminal_shows(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen({"TERM": "xterm"})
    screen.table(("A", "NAME", "C"), [("1", "日本", "x"), ("22", "e\u0301clair", Cell("y", Colour.RED))])
    assert capsys.readouterr().out == "A   NAME    C\n1   日本    x\n22  e\u0301clair  y\n"


def test_a_table_without_rows_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Screen({}).table((), [])
    assert capsys.readouterr().out == ""


@given(st.text())
def test_no_text_can_do_anything_but_be_seen(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("builtins.print", lambda value, **_: written.append(value))
        screen = Screen({})
        screen.table(("A", "B"), [(text, Cell(text, Colour.RED))])
        screen.row((text, text), (5, 0))
        screen.line(text)
        screen.error_line(text)
        screen.note(text)
        screen.json(text)
    table, *lines = written
    assert table.count("\n") == 1
    assert all(line.isprintable() for line in (*table.split("\n"), *lines))
    assert json.loads(lines[-1]) == text


# Refusals


def test_every_refusal_has_an_exit_status_of_its_own() -> None:
    statuses = {code.name: int(refusal(Error(code, "x")).exit_status) for code in ErrorCode}
    assert statuses == {
        "UNKNOWN_SESSION": 166, "BAD_REQUEST": 170, "FRAME_TOO_LARGE": 170, "INVALID_APP_ID": 164,
        "PACKAGE_NOT_FOUND": 166, "PACKAGE_INVALID": 165, "CAPABILITY_REFUSED": 177, "NO_RUNTIME": 169,
        "SPAWN_FAILED": 171, "TOO_MANY_SESSIONS": 171, "NOT_SUPPORTED": 170, "NOT_PERMITTED": 177,
        "SHUTTING_DOWN": 171, "RELOAD_FAILED": 170, "TIMED_OUT": 171, "TOO_MANY_CONNECTIONS": 171,
        "INTERNAL": 170,
    }  # fmt: skip


def test_a_refusal_is_told_in_the_words_of_the_daemon_and_a_code_of_tomorrow_too() -> None:
    error = refusal(Error(999, "no\x1b[2J"))
    assert str(error) == "no\\x1b[2J"
    assert error.exit_status == 170


def test_an_answer_is_what_was_expected_or_an_error() -> None:
    answer = LaunchAck(1, "org.example.app")
    assert expect(answer, LaunchAck) is answer
    with pytest.raises(WeftError, match=r"^session 1 not found$"):
        expect(Error(1, "session 1 not found"), LaunchAck)
    # Equal as a tuple, but not what was asked for.
    with pytest.raises(WeftError) as caught:
        expect(AppReady(1, "org.example.app"), LaunchAck)
    assert caught.value.problem is Problem.INTERNAL_ERROR
    assert caught.value.message == "weft-appd answered with AppReady, not LaunchAck"


# Parser, manual page and completion


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (item for item in build_parser()._actions if isinstance(item, argparse._SubParsersAction))
    return dict(action.choices)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


def positionals_of(parser: argparse.ArgumentParser) -> list[str]:
    found = [action for action in parser._actions if not action.option_strings]
    return [f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar) for action in found]


def manual() -> str:
    return (ROOT / "docs/man/weftctl.1").read_text()


def section(name: str) -> str:
    found = re.search(rf"^\.SH {name}\n(.*?)(?=^\.SH |\Z)", manual(), re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def manual_commands() -> Iterator[tuple[str, str, str]]:
    """Each command with its arguments and its text."""
    for part in section("COMMANDS").split(".SS ")[1:]:
        head, _, text = part.partition("\n")
        name, _, arguments = head.partition(" ")
        yield name, arguments.replace(r"\fI", "").replace(r"\fP", ""), text


def options_in(text: str) -> set[str]:
    """The options that have an entry of their own."""
    heads = re.findall(r"^\.TP\n(.*)$", text, re.MULTILINE)
    plain = [head.replace("\\-", "-") for head in heads]
    return {option for head in plain for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", head)}


def test_the_manual_page_has_the_commands_and_arguments_of_the_parser() -> None:
    expected = [(name, " ".join(positionals_of(parser))) for name, parser in commands().items()]
    assert [(name, arguments) for name, arguments, _ in manual_commands()] == expected


def test_the_manual_page_has_the_options_of_the_parser() -> None:
    general = options_in(section("OPTIONS"))
    assert general == options_of(build_parser()) | {"--json"}
    for name, _, text in manual_commands():
        own = options_of(commands()[name]) - {"-h", "--help", "--json"}
        assert options_in(text) == own, name
        assert "--json" in options_of(commands()[name])


def test_the_manual_page_has_every_exit_status_that_a_refusal_can_have() -> None:
    documented = set(
        re.findall(r"\d+", " ".join(re.findall(r"^\.TP\n\.B (.*)$", section("EXIT STATUS"), re.MULTILINE)))
    )
    raised = {str(int(refusal(Error(code, "")).exit_status)) for code in ErrorCode}
    assert raised | {"0", "1", "130", "141"} == documented


def test_the_manual_page_has_no_warning() -> None:
    mandoc = tool("mandoc", "mandoc")
    done = subprocess.run(
        [mandoc, "-T", "lint", "-W", "warning", ROOT / "docs/man/weftctl.1"], capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("", 0)


def completed(*words_before: str) -> list[str]:
    """What bash offers for the last of these words, as nobody answers."""
    script = 'source "$1"; shift; COMP_WORDS=(weftctl "$@"); COMP_CWORD=$#; _weftctl; echo "${COMPREPLY[*]}"'
    done = subprocess.run(
        ["bash", "--norc", "-uc", script, "bash", ROOT / "completion/weftctl.bash", *words_before],
        env={"PATH": "/usr/bin:/bin", "WEFT_APPD_SOCKET": "/nonexistent"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_the_completion_has_the_commands_and_options_of_the_parser() -> None:
    tool("bash", "bash")
    assert completed("") == list(commands())
    assert set(completed("-")) == options_of(build_parser())
    for name, parser in commands().items():
        assert set(completed(name, "-")) == options_of(parser), name


def test_the_completion_is_valid_for_bash() -> None:
    file: Path = ROOT / "completion/weftctl.bash"
    done = subprocess.run([tool("bash", "bash"), "-n", file], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
