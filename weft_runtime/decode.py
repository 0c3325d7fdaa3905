# SPDX-License-Identifier: Apache-2.0
"""Typed access to tables that came from outside: nothing else touches raw dictionaries."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TypeVar

from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable, quote

Choice = TypeVar("Choice", bound=StrEnum)

# TOML's own words for what was found, for the reader of the file.
_TYPE_NAMES: Mapping[type, str] = {
    str: "a string", bool: "a boolean", int: "an integer", float: "a float",
    list: "an array", dict: "a table",
}  # fmt: skip


class Table:
    """One table of a file; each getter returns the type that its name says or names file, key and type.

    `source` is the file, `path` the table's own dotted name in it. All getters raise WeftError(`problem`).
    """

    def __init__(self, values: Mapping[str, object], source: str, problem: Problem, path: str = "") -> None:
        self._values = values
        self._source = source
        self._problem = problem
        self._path = path

    def error(self, key: str, complaint: str) -> WeftError:
        """The error for `key`; `complaint` completes "FILE: KEY ..."."""
        return WeftError(self._problem, f"{printable(self._source)}: {self._name(key)} {complaint}")

    def string(self, key: str) -> str:
        value = self._values.get(key)
        if value is None:
            raise self.error(key, "is missing: expected a string")
        return self._expect_string(key, value)

    def optional_string(self, key: str) -> str | None:
        value = self._values.get(key)
        return None if value is None else self._expect_string(key, value)

    def strings(self, key: str) -> tuple[str, ...]:
        """An optional array of strings; absent means empty."""
        values = self._values.get(key, [])
        if not isinstance(values, list):
            raise self._wrong_type(key, "an array of strings", values)
        return tuple(self._expect_string(f"{key}[{index}]", value) for index, value in enumerate(values))

    def optional_choice(self, key: str, choices: type[Choice]) -> Choice | None:
        text = self.optional_string(key)
        if text is None:
            return None
        try:
            return choices(text)
        except ValueError:
            names = ", ".join(f"'{choice.value}'" for choice in choices)
            raise self.error(key, f"is {quote(text)}: expected one of {names}") from None

    def scalar_text(self, key: str) -> str:
        """A string, number, boolean or array of strings, as the text of an environment variable."""
        value = self._values[key]
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, list):
            return " ".join(self.strings(key))
        if isinstance(value, (str, int, float)):
            return str(value)
        raise self._wrong_type(key, "a string, a number, a boolean or an array of strings", value)

    def table(self, key: str) -> "Table":
        if key not in self._values:
            raise self.error(key, "is missing: expected a table")
        return self.optional_table(key)

    def table_or_none(self, key: str) -> "Table | None":
        """An optional table whose absence means something else than an empty one."""
        return self.optional_table(key) if key in self._values else None

    def optional_table(self, key: str) -> "Table":
        """An optional table; absent means empty."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self._wrong_type(key, "a table", value)
        return Table(value, self._source, self._problem, self._name(key))

    def string_items(self) -> Iterator[tuple[str, str]]:
        """Every key of this table, each of which must hold a string."""
        for key in self._values:
            yield key, self.string(key)

    def _name(self, key: str) -> str:
        name = printable(key, 64)
        return f"{self._path}.{name}" if self._path else name

    def _expect_string(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self._wrong_type(key, "a string", value)
        return value

    def _wrong_type(self, key: str, expected: str, value: object) -> WeftError:
        found = _TYPE_NAMES.get(type(value), "a date or time")
        return self.error(key, f"is {found}: expected {expected}")
