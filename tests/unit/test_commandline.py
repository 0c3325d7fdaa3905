# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.commandline: what the parsers of all our programs do."""

import argparse

import pytest

from weft_runtime.commandline import ArgumentParser, checked
from weft_runtime.errors import Problem, WeftError


def parser() -> argparse.ArgumentParser:
    made = ArgumentParser(prog="weft-test")
    made.add_argument("words", nargs="*")
    made.add_argument("--number", type=checked(int))
    return made


def error_of(*argv: str) -> WeftError:
    with pytest.raises(WeftError) as caught:
        parser().parse_args(argv)
    return caught.value


def test_a_right_command_line_is_parsed() -> None:
    assert parser().parse_args(["a", "--number", "7"]) == argparse.Namespace(words=["a"], number=7)


def test_a_wrong_one_is_a_usage_error_with_a_hint() -> None:
    error = error_of("--number")
    assert error.problem is Problem.USAGE
    assert str(error) == "argument --number: expected one argument [see weft-test --help]"


def test_an_option_has_only_its_whole_name() -> None:
    assert error_of("--num", "7").message == "unexpected argument: --num"


def test_the_text_of_a_value_error_is_shown() -> None:
    assert error_of("--number", "x").message == (
        "argument --number: invalid literal for int() with base 10: 'x'"
    )


def test_a_hostile_argument_stays_on_one_line() -> None:
    assert error_of("--\x1b[2J\n").message == "unexpected argument: --\\x1b[2J\\x0a"


def test_two_dashes_are_no_value() -> None:
    assert error_of("--number=--").message == "argument --number: '--' is no value"


def test_two_dashes_end_the_options() -> None:
    assert parser().parse_args(["--", "--number"]).words == ["--number"]


def test_a_checked_parser_returns_what_it_parses_and_passes_other_errors_on() -> None:
    assert checked(int)("7") == 7
    with pytest.raises(argparse.ArgumentTypeError, match="invalid literal"):
        checked(int)("x")
    with pytest.raises(ZeroDivisionError):
        checked(lambda text: 1 / int(text))("0")
