# SPDX-License-Identifier: Apache-2.0
"""Which line of a TOML file says what: the parser does not tell."""

import re
import tomllib
from collections.abc import Iterator

from weft_runtime.manifest import STRING_OR_COMMENT

Path = tuple[str | int, ...]
"""Keys from the outermost table on, and the index of an element of an array."""


class Lines:
    """The lines of a text that the parser has accepted."""

    def __init__(self, text: str) -> None:
        self._found: dict[Path, int] = {}
        # What is in strings and comments stays as long as it was, but looks like nothing.
        bare = re.sub(STRING_OR_COMMENT, lambda match: _blank(match[0]), text)
        table: Path = ()
        for begin, end in _statements(bare):
            line = text.count("\n", 0, begin) + 1
            if bare.startswith("[[", begin):
                table = (0,)  # an array of tables: nothing that is asked for is in one
            elif bare.startswith("[", begin):
                table = _keys(text[begin:end])
                self._note(table, line)
            else:
                equals = bare.index("=", begin)
                path = table + _keys(f"{text[begin:equals]}=0")
                self._note(path, line)
                for index, at in enumerate(_elements(bare, equals + 1, end)):
                    self._found[(*path, index)] = text.count("\n", 0, at) + 1

    def of(self, *path: str | int) -> int | None:
        """The line of a key or element; where it has none of its own, that of what it is in."""
        while path and path not in self._found:
            path = path[:-1]
        return self._found.get(path)

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self._found.setdefault(path[:length], line)


def _blank(text: str) -> str:
    return (" " if text.startswith("#") else "s") * len(text)


def _statements(bare: str) -> Iterator[tuple[int, int]]:
    """Where each header and each pair of key and value begins and ends."""
    begin = 0
    while begin < len(bare):
        if bare[begin].isspace():
            begin += 1
            continue
        end, depth = begin, 0
        while end < len(bare) and (bare[end] != "\n" or depth):
            depth += (bare[end] in "[{") - (bare[end] in "]}")
            end += 1
        yield begin, end
        begin = end


def _elements(bare: str, begin: int, end: int) -> Iterator[int]:
    """Where the elements of an array begin; nothing for any other value."""
    depth, is_due = 0, False
    if not bare[begin:end].lstrip().startswith("["):
        return
    for at in range(begin, end):
        char = bare[at]
        if is_due and not char.isspace() and char != "]":
            yield at
            is_due = False
        depth += (char in "[{") - (char in "]}")
        if (char == "[" or char == ",") and depth == 1:
            is_due = True


def _keys(statement: str) -> Path:
    """The keys of a header or of a dotted key, from a statement that sets nothing else."""
    keys: list[str] = []
    value: object = tomllib.loads(statement)
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        keys.append(key)
    return tuple(keys)
