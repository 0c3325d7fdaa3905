# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.decode: typed access, and errors that name file, key and type."""

import datetime
from collections.abc import Callable
from enum import StrEnum

import pytest

from weft_runtime.decode import Table
from weft_runtime.errors import Problem, WeftError

FOUND = {
    "a boolean": True,
    "an integer": 1,
    "a float": 1.5,
    "an array": ["x"],
    "a table": {"x": "y"},
    "a date or time": datetime.date(2026, 3, 11),
}


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def table(**values: object) -> Table:
    return Table(values, "/x/wapp.toml", Problem.MANIFEST_INVALID)


def complaint(action: Callable[[], object]) -> str:
    with pytest.raises(WeftError) as caught:
        action()
    assert caught.value.problem is Problem.MANIFEST_INVALID
    return str(caught.value)


def test_a_string_is_returned() -> None:
    assert table(key="value").string("key") == "value"
    assert table(key="").string("key") == ""
    assert table(key="value").optional_string("key") == "value"


def test_a_missing_string_is_an_error() -> None:
    assert complaint(lambda: table().string("key")) == "/x/wapp.toml: key is missing: expected a string"


def test_a_missing_optional_string_is_none() -> None:
    assert table().optional_string("key") is None


@pytest.mark.parametrize("found", FOUND)
def test_anything_else_is_no_string(found: str) -> None:
    values = table(key=FOUND[found])
    expected = f"/x/wapp.toml: key is {found}: expected a string"
    assert complaint(lambda: values.string("key")) == expected
    assert complaint(lambda: values.optional_string("key")) == expected


def test_an_array_of_strings_is_returned_in_order() -> None:
    assert table(key=["b", "a", "b"]).strings("key") == ("b", "a", "b")
    assert table(key=[]).strings("key") == ()


def test_a_missing_array_of_strings_is_empty() -> None:
    assert table().strings("key") == ()


@pytest.mark.parametrize("found", FOUND)
def test_an_array_holds_nothing_but_strings(found: str) -> None:
    values = table(key=["a", FOUND[found]])
    assert complaint(lambda: values.strings("key")) == f"/x/wapp.toml: key[1] is {found}: expected a string"


@pytest.mark.parametrize("found", [*sorted(FOUND.keys() - {"an array"}), "a string"])
def test_anything_else_is_no_array(found: str) -> None:
    values = table(key=FOUND.get(found, "text"))
    expected = f"/x/wapp.toml: key is {found}: expected an array of strings"
    assert complaint(lambda: values.strings("key")) == expected


def test_a_choice_is_returned() -> None:
    assert table(key="blue").optional_choice("key", Colour) is Colour.BLUE
    assert table().optional_choice("key", Colour) is None


@pytest.mark.parametrize("text", ["", "green", "Red", " red", "RED"])
def test_a_wrong_choice_is_told_with_the_right_ones(text: str) -> None:
    values = table(key=text)
    expected = f"/x/wapp.toml: key is '{text}': expected one of 'red', 'blue'"
    assert complaint(lambda: values.optional_choice("key", Colour)) == expected


def test_a_choice_of_another_type_is_an_error() -> None:
    values = table(key=1)
    expected = "/x/wapp.toml: key is an integer: expected a string"
    assert complaint(lambda: values.optional_choice("key", Colour)) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x y", "x y"), ("", ""), (7, "7"), (1.5, "1.5"), (True, "true"), (False, "false"),
        (["a", "b"], "a b"),
        ([], ""),
    ],
)  # fmt: skip
def test_a_setting_becomes_the_text_of_a_variable(value: object, text: str) -> None:
    assert table(key=value).scalar_text("key") == text


@pytest.mark.parametrize("found", ["a table", "a date or time"])
def test_anything_else_is_no_setting(found: str) -> None:
    values = table(key=FOUND[found])
    expected = "expected a string, a number, a boolean or an array of strings"
    assert complaint(lambda: values.scalar_text("key")) == f"/x/wapp.toml: key is {found}: {expected}"


def test_an_array_in_a_setting_holds_nothing_but_strings() -> None:
    values = table(key=["a", 1])
    expected = "/x/wapp.toml: key[1] is an integer: expected a string"
    assert complaint(lambda: values.scalar_text("key")) == expected


def test_a_table_is_returned() -> None:
    assert table(inner={"key": "value"}).table("inner").string("key") == "value"
    assert table(inner={"key": "value"}).optional_table("inner").string("key") == "value"


def test_a_missing_table_is_an_error_where_it_is_required() -> None:
    assert complaint(lambda: table().table("inner")) == "/x/wapp.toml: inner is missing: expected a table"


def test_a_missing_optional_table_is_empty() -> None:
    assert list(table().optional_table("inner").string_items()) == []


@pytest.mark.parametrize("found", [*sorted(FOUND.keys() - {"a table"}), "a string"])
def test_anything_else_is_no_table(found: str) -> None:
    values = table(inner=FOUND.get(found, "text"))
    expected = f"/x/wapp.toml: inner is {found}: expected a table"
    assert complaint(lambda: values.table("inner")) == expected
    assert complaint(lambda: values.optional_table("inner")) == expected


def test_an_array_of_tables_is_no_table() -> None:
    values = table(inner=[{"key": "value"}])
    assert complaint(lambda: values.table("inner")) == "/x/wapp.toml: inner is an array: expected a table"


def test_a_key_is_named_with_its_tables() -> None:
    values = table(outer={"inner": {"key": 1}}).table("outer").table("inner")
    expected = "/x/wapp.toml: outer.inner.key is an integer: expected a string"
    assert complaint(lambda: values.string("key")) == expected


def test_the_items_of_a_table_of_strings_are_returned_in_order() -> None:
    assert list(table(b="1", a="2").string_items()) == [("b", "1"), ("a", "2")]


def test_a_table_of_strings_holds_nothing_else() -> None:
    values = table(env={"A": "1", "B": 2}).table("env")
    expected = "/x/wapp.toml: env.B is an integer: expected a string"
    assert complaint(lambda: list(values.string_items())) == expected


def test_hostile_names_and_values_are_shown_safely_and_shortened() -> None:
    values = Table({"k\n" + "x" * 100: 1}, "/x\n/wapp.toml", Problem.CONFIG_INVALID)
    with pytest.raises(WeftError) as caught:
        list(values.string_items())
    name = "k\\x0a" + "x" * 62 + "..."
    assert str(caught.value) == f"/x\\x0a/wapp.toml: {name} is an integer: expected a string"


def test_an_error_has_the_problem_of_its_table() -> None:
    error = Table({}, "/etc/x.toml", Problem.CONFIG_INVALID).error("key", "is odd")
    assert error.problem is Problem.CONFIG_INVALID
    assert str(error) == "/etc/x.toml: key is odd"
