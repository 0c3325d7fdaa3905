# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.manifest: what a wapp.toml must hold, and what is said of one that does not."""

import re

import pytest

from weft_runtime import limits, manifest
from weft_runtime.errors import Problem, WeftError
from weft_runtime.ids import AppId
from weft_runtime.manifest import Manifest, ReadyMode

FULL = """
[package]
id = "org.example.notes"
name = "Notes"
version = "1.2.3"
description = "Takes notes"
author = "Ada"
capabilities = ["fs:rw:app-data", "sys:notifications"]

[runtime]
module = "bin/notes.wasm"
ready = "export"
args = ["--verbose", ""]

[runtime.env]
LANG = "C.UTF-8"
EMPTY = ""

[ui]
entry = "ui/index.html"
"""
MINIMAL = """
package = { id = "org.example.notes", name = "", version = "" }
runtime = { module = "app.wasm" }
ui = { entry = "index.html" }
"""


def parse(text: str) -> Manifest:
    return manifest.parse(text.encode(), "/x/wapp.toml")


def error_of(text: str | bytes, problem: Problem = Problem.MANIFEST_INVALID) -> str:
    """What is said of `text`, after the name of the file."""
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(WeftError) as caught:
        manifest.parse(data, "/x/wapp.toml")
    assert caught.value.problem is problem
    return str(caught.value).removeprefix("/x/wapp.toml").removeprefix(": ").removeprefix(" ")


def with_runtime(lines: str) -> str:
    return FULL.replace('args = ["--verbose", ""]\n', "").replace('ready = "export"', lines)


def test_every_known_key_is_read() -> None:
    assert parse(FULL) == Manifest(
        id=AppId("org.example.notes"),
        name="Notes",
        version="1.2.3",
        description="Takes notes",
        author="Ada",
        capabilities=("fs:rw:app-data", "sys:notifications"),
        module="bin/notes.wasm",
        ready=ReadyMode.EXPORT,
        args=("--verbose", ""),
        env=(("LANG", "C.UTF-8"), ("EMPTY", "")),
        ui_entry="ui/index.html",
    )


def test_optional_keys_may_be_absent() -> None:
    assert parse(MINIMAL) == Manifest(
        id=AppId("org.example.notes"),
        name="",
        version="",
        description=None,
        author=None,
        capabilities=(),
        module="app.wasm",
        ready=None,
        args=(),
        env=(),
        ui_entry="index.html",
    )


@pytest.mark.parametrize("mode", ["host", "export", "guest"])
def test_each_ready_mode_is_known(mode: str) -> None:
    assert parse(with_runtime(f'ready = "{mode}"')).ready == mode


def test_unknown_keys_and_tables_are_ignored() -> None:
    text = FULL.replace('name = "Notes"', 'name = "Notes"\nicon = 7\n"a.b".c = [1, {d = 2}]')
    text += "\n[future]\nkey = 1979-05-27\n[[more]]\n[[more]]\nx = inf\n"
    assert parse(text) == parse(FULL)


def test_unknown_keys_may_be_nested_like_any_sane_file() -> None:
    key = ".".join(f"level{number}" for number in range(8))
    assert parse(FULL + f"\n[{key}]\n{key} = {'[' * 8}{']' * 8}\n") == parse(FULL)


def test_dots_in_strings_and_comments_make_no_key() -> None:
    words = ".".join(f"w{number}" for number in range(100))
    strings = f"a = \"{words}\"\nb = '{words}'\nc = \"\"\"\n{words}\n\"\"\"\nd = '''\n{words}\n'''\n"
    filler = "# a comment\n" * 1000
    assert parse(f"{FULL}\n[more]\n{strings}# {words}\n{filler}") == parse(FULL)


def test_line_ends_may_be_those_of_windows() -> None:
    assert parse(FULL.replace("\n", "\r\n")) == parse(FULL)


@pytest.mark.parametrize("key", ["id", "name", "version", "module", "entry"])
def test_a_required_key_that_is_missing_is_named(key: str) -> None:
    lines = [line for line in FULL.splitlines() if not line.startswith(f"{key} =")]
    table = {"module": "runtime", "entry": "ui"}.get(key, "package")
    assert error_of("\n".join(lines)) == f"{table}.{key} is missing: expected a string"


def test_an_app_without_a_face_needs_no_ui() -> None:
    assert parse(FULL.partition("[ui]")[0]) == parse(FULL)._replace(ui_entry=None)


@pytest.mark.parametrize("table", ["package", "runtime"])
def test_a_required_table_that_is_missing_is_named(table: str) -> None:
    assert error_of(FULL.replace(f"[{table}", f"[x{table}")) == f"{table} is missing: expected a table"


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ('id = "org.example.notes"', "id = 7", "package.id is an integer: expected a string"),
        ('name = "Notes"', "name = true", "package.name is a boolean: expected a string"),
        ('version = "1.2.3"', "version = 1.2", "package.version is a float: expected a string"),
        (
            'description = "Takes notes"', "description = []",
            "package.description is an array: expected a string",
        ),
        ('author = "Ada"', "author = 1979-05-27", "package.author is a date or time: expected a string"),
        (
            '["fs:rw:app-data", "sys:notifications"]', '"x"',
            "package.capabilities is a string: expected an array of strings",
        ),
        ('"fs:rw:app-data", ', "1, ", "package.capabilities[0] is an integer: expected a string"),
        ('module = "bin/notes.wasm"', "module = {}", "runtime.module is a table: expected a string"),
        ('ready = "export"', "ready = 07:32:00", "runtime.ready is a date or time: expected a string"),
        (
            'ready = "export"', 'ready = "never"',
            "runtime.ready is 'never': expected one of 'host', 'export', 'guest'",
        ),
        ('["--verbose", ""]', '"-v"', "runtime.args is a string: expected an array of strings"),
        ('["--verbose", ""]', '["a", ["b"]]', "runtime.args[1] is an array: expected a string"),
        ('LANG = "C.UTF-8"', "LANG = 0", "runtime.env.LANG is an integer: expected a string"),
        ("[runtime.env]", "[[runtime.env]]", "runtime.env is an array: expected a table"),
        ('entry = "ui/index.html"', "entry = nan", "ui.entry is a float: expected a string"),
        ("[ui]", "[[ui]]", "ui is an array: expected a table"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_told_with_the_right_one(right: str, wrong: str, complaint: str) -> None:
    assert FULL.count(right) == 1
    assert error_of(FULL.replace(right, wrong)) == complaint


def test_a_wrong_app_id_is_told_with_the_rule() -> None:
    assert error_of(FULL.replace("org.example.notes", "../evil")) == (
        "package.id is wrong: '../evil' is not an app id: expected three or more labels of a-z and 0-9, each"
        " beginning with a letter, joined by dots, such as org.example.notes"
    )


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (r'args = ["a", "b\u0000c"]', "runtime.args[1] holds a NUL character, which no argument can"),
        (r'env.A = "\u0000"', "runtime.env.A holds a NUL character, which no variable can"),
        ('env."" = "x"', "runtime.env. is no name of a variable: it is empty or holds '=' or NUL"),
        ('env."A=B" = "x"', "runtime.env.A=B is no name of a variable: it is empty or holds '=' or NUL"),
        (
            r'env."A\u0000" = "x"',
            "runtime.env.A\\x00 is no name of a variable: it is empty or holds '=' or NUL",
        ),
    ],
)  # fmt: skip
def test_what_no_guest_can_receive_is_refused(lines: str, complaint: str) -> None:
    assert error_of(with_runtime(lines).replace("[runtime.env]", "[other]")) == complaint


def test_arguments_and_environment_have_a_limit_together() -> None:
    def of_size(size: int) -> str:
        rest = size - len("A=1\0") - len("é\0".encode()) - len("\0")
        return with_runtime(f'args = ["é", "{"x" * rest}"]\nenv.A = "1"').replace("[runtime.env]", "[other]")

    limit = limits.ARGUMENTS.value
    assert sum(len(arg.encode()) + 1 for arg in parse(of_size(limit)).args) == limit - len("A=1\0")
    assert error_of(of_size(limit + 1), Problem.LIMIT_EXCEEDED) == (
        f"runtime.args and env have {limit + 1} bytes; the limit for arguments and environment together is"
        f" {limit} bytes"
    )


def test_a_manifest_may_be_as_large_as_its_limit() -> None:
    filler = "#" * (limits.MANIFEST.value - len(FULL.encode()))
    assert parse(FULL + filler) == parse(FULL)
    assert error_of(FULL + filler + "#", Problem.LIMIT_EXCEEDED) == (
        f"has over {limits.MANIFEST.value} bytes; the limit for wapp.toml is {limits.MANIFEST.value} bytes"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "package is missing: expected a table"),
        (b"a = \xff", "is not UTF-8 at byte 4"),
        (b"\xed\xa0\x80", "is not UTF-8 at byte 0"),
        ("x = " + "[" * 5000, "is nested too deeply"),
        ("x = " + "{a = " * 5000, "is nested too deeply"),
    ],
)
def test_what_cannot_be_parsed_is_told(text: str | bytes, complaint: str) -> None:
    assert error_of(text) == complaint


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + FULL, "a = 1\na = 2", "[a]\n[a]", "a = 1\n[a.b]", "a", "a =", '"\n" = 1', "a = \0", "= 1",
        'a = "\\ud800"', 'a = "\\q"', "a = 1979-99-99", f"a = {'9' * 5000}", "a = 0x", "a = 1__0", "a = '''",
        "\x1b[31m = 1", "a = {b = 1\n}", "a = 25:00:00", "a = 1 b = 2", "[[a]]\n[a]", "a = []\n[[a]]",
        "a.b = 1\n[a]\nb = 2", "x = {a = 1}\nx.b = 2", 'x = "\x7f"', "a = .5", "a = +nan\r",
    ],
)  # fmt: skip
def test_what_is_not_toml_is_told_on_one_line(text: str) -> None:
    message = error_of(text)
    assert message.startswith("is not TOML: ")
    assert len(message) > len("is not TOML: ")
    assert message.isprintable()


def test_a_hostile_path_is_shown_safely() -> None:
    with pytest.raises(WeftError) as caught:
        manifest.parse(b"", "/x\n\x1b[31m/wapp.toml")
    assert str(caught.value) == "/x\\x0a\\x1b[31m/wapp.toml: package is missing: expected a table"


@pytest.mark.parametrize("key", ["name", "version"])
def test_a_name_and_a_version_have_a_limit(key: str) -> None:
    def of_length(length: int) -> str:
        text = re.sub(rf"(?m)^{key} = .*$", f'{key} = "{"n" * length}"', FULL)
        assert text != FULL
        return text

    limit = limits.NAME.value
    assert len(getattr(parse(of_length(limit)), key)) == limit
    assert error_of(of_length(limit + 1), Problem.LIMIT_EXCEEDED) == (
        f"package.{key} has {limit + 1} characters; the limit for the name or the version of an app is {limit} characters"
    )
