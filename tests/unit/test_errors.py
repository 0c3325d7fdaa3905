# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.errors: exit statuses, problem codes, and the text of an error."""

import errno
import re

import pytest

from weft_runtime.errors import (
    EXIT_STATUS_OF,
    GUEST_STATUS_MAX,
    ExitStatus,
    Problem,
    WeftError,
    from_os_error,
)


def test_exit_statuses_are_those_of_the_design() -> None:
    assert {status.name: int(status) for status in ExitStatus} == {
        "TRAP": 134, "USAGE": 164, "DATA": 165, "NO_INPUT": 166, "UNAVAILABLE": 169, "SOFTWARE": 170,
        "OS_ERROR": 171, "TRY_AGAIN": 175, "NO_PERMISSION": 177, "CONFIG": 178,
    }  # fmt: skip


def test_no_exit_status_of_ours_can_be_the_guests() -> None:
    assert GUEST_STATUS_MAX == 125
    assert min(ExitStatus) > GUEST_STATUS_MAX


def test_our_failures_stay_in_the_range_that_systemd_leaves_to_applications() -> None:
    assert [status for status in ExitStatus if not 150 <= status <= 199] == [ExitStatus.TRAP]


def test_each_exit_status_has_a_meaning_of_its_own_on_one_line() -> None:
    meanings = [status.meaning for status in ExitStatus]
    assert len(set(meanings)) == len(meanings)
    assert all(meaning.isprintable() and meaning for meaning in meanings)


def test_an_exit_status_prints_as_its_number() -> None:
    assert f"{ExitStatus.TRAP}" == "134"


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        ("usage", 164),
        ("manifest-invalid", 165),
        ("module-invalid", 165),
        ("limit-exceeded", 165),
        ("compile-limit", 175),
        ("compile-starved", 175),
        ("compile-memory", 175),
        ("package-not-found", 166),
        ("module-not-found", 166),
        ("engine-missing", 169),
        ("internal-error", 170),
        ("os-error", 171),
        ("not-permitted", 177),
        ("config-invalid", 178),
    ],
)
def test_a_problem_has_its_exit_status(problem: str, status: int) -> None:
    assert WeftError(Problem(problem), "text").exit_status == status


def test_every_problem_has_an_exit_status_and_a_kebab_case_code() -> None:
    assert EXIT_STATUS_OF.keys() == set(Problem)
    assert [problem for problem in Problem if not re.fullmatch(r"[a-z]+(-[a-z]+)*", problem)] == []


def test_every_exit_status_but_that_of_a_trap_has_a_problem() -> None:
    assert set(EXIT_STATUS_OF.values()) == set(ExitStatus) - {ExitStatus.TRAP}


def test_an_error_is_its_message() -> None:
    assert str(WeftError(Problem.USAGE, "no such thing")) == "no such thing"


def test_a_hint_follows_the_message_in_brackets() -> None:
    assert str(WeftError(Problem.USAGE, "no such thing", "try another")) == "no such thing [try another]"


def test_an_error_carries_its_parts() -> None:
    error = WeftError(Problem.USAGE, "no such thing", "try another")
    assert (error.problem, error.message, error.hint) == (Problem.USAGE, "no such thing", "try another")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_refusal_by_the_system_is_not_permitted(number: int) -> None:
    error = from_os_error("open 'x'", OSError(number, "No way", "/x"))
    assert str(error) == "cannot open 'x': No way"
    assert error.problem is Problem.NOT_PERMITTED


def test_any_other_failure_of_the_system_is_an_os_error() -> None:
    error = from_os_error("open 'x'", OSError(errno.EIO, "Input/output error"), "replace the disk")
    assert str(error) == "cannot open 'x': Input/output error [replace the disk]"
    assert error.problem is Problem.OS_ERROR


def test_an_os_error_without_a_number_is_told_by_its_text() -> None:
    assert str(from_os_error("connect", OSError("timed out"))) == "cannot connect: timed out"


def test_an_os_error_that_quotes_a_hostile_name_stays_on_one_line() -> None:
    assert str(from_os_error("connect", OSError("bad name: a\nb"))) == "cannot connect: bad name: a\\x0ab"
