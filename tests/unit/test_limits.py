# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.limits: one table, each bound with its reason and its message."""

import pytest

from weft_runtime import limits
from weft_runtime.errors import Problem
from weft_runtime.limits import CompileBounds, Limit


@pytest.mark.parametrize(
    ("limit", "value", "unit"),
    [
        (limits.MANIFEST, 64 * 1024, "bytes"),
        (limits.MODULE, 512 * 1024 * 1024, "bytes"),
        (limits.ARGUMENTS, 32 * 1024, "bytes"),
    ],
    ids=lambda value: value.what if isinstance(value, Limit) else None,
)
def test_promised_limits_have_their_values(limit: Limit, value: int, unit: str) -> None:
    assert (limit.value, limit.unit) == (value, unit)


def test_a_launch_may_compile_for_less_time_than_who_compiles_ahead() -> None:
    assert 0 < limits.LAUNCH_COMPILE_CPU.value < limits.COMPILE_CPU.value < limits.COMPILE_TIME.value


HERE = CompileBounds.here()


@pytest.mark.parametrize(
    ("other", "covered"),
    [
        (HERE, True),
        (CompileBounds.here(limits.LAUNCH_COMPILE_CPU), True),
        (HERE._replace(cpu=HERE.cpu + 1), False),
        (HERE._replace(memory=HERE.memory + 1), False),
        (HERE._replace(memory=1), True),
        (HERE._replace(version="1/1/1"), False),
    ],
)
def test_bounds_cover_what_is_no_larger(other: CompileBounds, covered: bool) -> None:
    assert HERE.covers(other) is covered
    assert CompileBounds.parse(str(other)) == other


@pytest.mark.parametrize("text", ["", "1", "x 1 v", "1 x v", "-1 2 v", f"{'9' * 30} 2 v", "\u0661 2 v"])
def test_what_states_no_bounds_is_none(text: str) -> None:
    assert CompileBounds.parse(text) is None


def test_the_table_has_every_limit_once() -> None:
    constants = [value for value in vars(limits).values() if isinstance(value, Limit)]
    assert sorted(limits.ALL) == sorted(constants)


def test_each_limit_bounds_something_else() -> None:
    assert len({limit.what for limit in limits.ALL}) == len(limits.ALL)


@pytest.mark.parametrize("limit", limits.ALL, ids=lambda limit: limit.what)
def test_each_limit_is_positive_and_has_its_reason_on_one_line(limit: Limit) -> None:
    assert limit.value > 0
    assert all(text and text.isprintable() for text in (limit.unit, limit.what, limit.reason))


def test_a_breach_names_who_broke_which_limit_by_how_much() -> None:
    error = limits.exceeded(limits.MODULE, "/x/app.wasm has 8589934592 bytes")
    assert error.problem is Problem.LIMIT_EXCEEDED
    assert str(error) == (
        "/x/app.wasm has 8589934592 bytes; the limit for the module file is 536870912 bytes"
    )
