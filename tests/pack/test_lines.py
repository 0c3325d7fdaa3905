# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.pack.lines: where in a TOML file something stands."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft_runtime.pack.lines import Lines

TEXT = '''\
# package.id = "no"
package.id = "x" # [runtime]
package."na\\u006de" = """
[runtime]
module = "no"
"""

[ui]
  entry = 'a=b' # args = 1
"quoted.key" = 1

[package.inner]
capabilities = [ # [1, 2]
    "a,b", ["c",
    "d"],
    { x = [1,2], y = "]" }, "e",
    """
""", "f",
]
empty = []
id = 1
[[array]]
ui.entry = 1
[array.below]
id = 2
[runtime]
env = { A = "1", B.C = "2" }
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("package", "id"), 2),
        (("package",), 2),
        (("package", "name"), 3),
        (("ui",), 8),
        (("ui", "entry"), 9),
        (("ui", "quoted.key"), 10),
        (("package", "inner"), 12),
        (("package", "inner", "capabilities"), 13),
        (("package", "inner", "capabilities", 0), 14),
        (("package", "inner", "capabilities", 1), 14),
        (("package", "inner", "capabilities", 2), 16),
        (("package", "inner", "capabilities", 3), 16),
        (("package", "inner", "capabilities", 4), 17),
        (("package", "inner", "capabilities", 5), 18),
        (("package", "inner", "capabilities", 6), 13),
        (("package", "inner", "empty", 0), 20),
        (("package", "inner", "id"), 21),
        (("runtime",), 26),
        (("runtime", "module"), 26),
        (("runtime", "env", "A"), 27),
        (("package", "version"), 2),
        (("none", "id"), None),
    ],
)
def test_the_line_of_a_key_or_of_what_it_would_be_in(path: tuple[str | int, ...], line: int | None) -> None:
    assert tomllib.loads(TEXT)
    assert Lines(TEXT).of(*path) == line


KEYS = st.sampled_from(["a", "b-c", '"d.e"', "'f'", '"\\u0067"', "1"])
VALUES = st.sampled_from(
    [
        "1",
        '"x"',
        "'[y'",
        '"""a\n[z]\nb = 1\n"""',
        "'''\n\"'''",
        "[]",
        "[1,\n2]",
        "{}",
        "{ k = 'v' }",
        "[[[\n]]]",
    ]
)


@given(st.lists(st.tuples(KEYS, VALUES, st.sampled_from(["", " # [x]", "\n", "\n# a = 1\n"])), max_size=6))
def test_each_key_is_on_the_line_where_it_is_written(items: list[tuple[str, str, str]]) -> None:
    text, lines, keys = "", {}, set()
    for key, value, rest in items:
        name = next(iter(tomllib.loads(f"{key} = 1")))
        if name not in keys:
            keys.add(name)
            lines[name] = text.count("\n") + 1
            text += f"{key} = {value}{rest}\n"
    assert set(tomllib.loads(text)) == keys
    found = Lines(text)
    assert {name: found.of(name) for name in keys} == lines
