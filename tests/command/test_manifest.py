# SPDX-License-Identifier: Apache-2.0
"""`wapp.toml`: a wrong one is refused with file, key and what was expected, and none costs much."""

from pathlib import Path

import pytest

from tests.command.guests import guest, leave
from tests.command.harness import Run
from tests.packages import APP_ID, install, manifest

MANIFEST_MAX = 64 * 1024
OK = guest(leave(9))
REST = '[runtime]\nmodule = "app.wasm"\n[ui]\nentry = "ui/index.html"\n'
PACKAGE = f'[package]\nid = "{APP_ID}"\nname = "A test"\nversion = "1.2.3"\n'


def env(text: str) -> str:
    return manifest(extra=f"[runtime.env]\n{text}")


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("", "package is missing: expected a table"),
        ("package = 1\n" + REST, "package is an integer: expected a table"),
        ("package = []\n" + REST, "package is an array: expected a table"),
        (REST, "package is missing: expected a table"),
        ("[package]\n" + REST, "package.id is missing: expected a string"),
        ("[package]\nid = 1\n" + REST, "package.id is an integer: expected a string"),
        ('[package]\nid = "../x"\n' + REST, "package.id is wrong: '../x' is not an app id: expected "),
        (f'[package]\nid = "{APP_ID}"\n' + REST, "package.name is missing: expected a string"),
        (
            f'[package]\nid = "{APP_ID}"\nname = true\n' + REST,
            "package.name is a boolean: expected a string",
        ),
        (
            f'[package]\nid = "{APP_ID}"\nname = "x"\n' + REST,
            "package.version is missing: expected a string",
        ),
        (
            f'[package]\nid = "{APP_ID}"\nname = "x"\nversion = 1.2\n' + REST,
            "package.version is a float: expected a string",
        ),
        (
            PACKAGE + "description = 1979-05-27\n" + REST,
            "package.description is a date or time: expected a string",
        ),
        (PACKAGE + "author = {}\n" + REST, "package.author is a table: expected a string"),
        (
            PACKAGE + 'capabilities = "x"\n' + REST,
            "package.capabilities is a string: expected an array of strings",
        ),
        (
            PACKAGE + 'capabilities = ["x", 1]\n' + REST,
            "package.capabilities[1] is an integer: expected a string",
        ),
        (PACKAGE + '[ui]\nentry = "x"\n', "runtime is missing: expected a table"),
        (PACKAGE + '[runtime]\n[ui]\nentry = "x"\n', "runtime.module is missing: expected a string"),
        (PACKAGE + '[runtime]\nmodule = "app.wasm"\n[[ui]]\n', "ui is an array: expected a table"),
        (PACKAGE + '[ui]\n[runtime]\nmodule = "app.wasm"\n', "ui.entry is missing: expected a string"),
        (
            manifest(runtime='ready = "soon"'),
            "runtime.ready is 'soon': expected one of 'host', 'export', 'guest'",
        ),
        (
            manifest(runtime='ready = "Host"'),
            "runtime.ready is 'Host': expected one of 'host', 'export', 'guest'",
        ),
        (manifest(runtime="ready = 1"), "runtime.ready is an integer: expected a string"),
        (manifest(runtime='args = "x"'), "runtime.args is a string: expected an array of strings"),
        (manifest(runtime="args = [[]]"), "runtime.args[0] is an array: expected a string"),
        (manifest(runtime='env = "A=1"'), "runtime.env is a string: expected a table"),
        (env("A = 1"), "runtime.env.A is an integer: expected a string"),
        (env("A.B = 'x'"), "runtime.env.A is a table: expected a string"),
        (
            manifest(runtime=r'args = ["a", "b\u0000c"]'),
            "runtime.args[1] holds a NUL character, which no argument can",
        ),
        (env(r'A = "b\u0000c"'), "runtime.env.A holds a NUL character, which no variable can"),
        (env('"" = "x"'), "runtime.env. is no name of a variable: it is empty or holds '=' or NUL"),
        (env('"A=B" = "x"'), "runtime.env.A=B is no name of a variable: it is empty or holds '=' or NUL"),
        (
            env(r'"A\u0000" = "x"'),
            r"runtime.env.A\x00 is no name of a variable: it is empty or holds '=' or NUL",
        ),
        (env(r'"\nREADY\n\u001b" = 1'), r"runtime.env.\x0aREADY\x0a\x1b is an integer: expected a string"),
    ],
)
def test_an_error_names_file_key_and_what_was_expected(
    store: Path, run: Run, toml: str, complaint: str
) -> None:
    package = install(store, OK, toml=toml)
    done = run()
    assert (done.status, done.stdout, len(done.log)) == (165, b"", 1)
    assert done.end.startswith(f"err: {package}/wapp.toml: {complaint}")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfe", "is not UTF-8 at byte 0"),
        (manifest().encode() + b"# \xe4\n", "is not UTF-8 at byte "),
        (manifest().encode("utf-16"), "is not UTF-8 at byte 0"),
        (b"\xef\xbb\xbf" + manifest().encode(), "is not TOML: "),
        (b"\0" * 100, "is not TOML: "),
        (b"not a key\n", "is not TOML: "),
        (b"[package]\n[package]\n", "is not TOML: "),
        (b"a = " + b"9" * 5000, "is not TOML: "),
        (b"a = 2026-99-99\n", "is not TOML: "),
        (b'a = "\x1b[31m"\n', "is not TOML: "),
    ],
)
def test_a_file_that_is_not_toml(store: Path, run: Run, content: bytes, complaint: str) -> None:
    path = install(store, OK) / "wapp.toml"
    path.write_bytes(content)
    done = run()
    assert (done.status, done.stdout, len(done.log)) == (165, b"", 1)
    assert done.end.startswith(f"err: {path} {complaint}")
    assert done.stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 31_000,
        "x = " + "{a=" * 20_000,
        "x = " + "[{a=" * 15_000,
    ],
    ids=["arrays", "tables", "both"],
)
def test_deep_nesting_is_refused_and_costs_little(store: Path, run: Run, text: str) -> None:
    package = install(store, OK, toml=f"{text}\n")
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.log == [f"err: {package}/wapp.toml is nested too deeply"]


@pytest.mark.parametrize(
    "text",
    ["x." * 31_000 + "x = 1", "[" + "x." * 31_000 + "x]", "x = {" + "x." * 31_000 + "x = 1}"],
    ids=["key", "header", "key in a table"],
)
def test_a_long_dotted_name_is_refused_and_costs_little(store: Path, run: Run, text: str) -> None:
    package = install(store, OK, toml=f"{text}\n")
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.log == [f"err: {package}/wapp.toml has a key of over 16 parts"]


@pytest.mark.parametrize(
    "text",
    [
        "x = [" + "1," * 31_000 + "]",
        "[[x]]\n" * 10_000,
        "x = 0x" + "f" * 60_000,
        'x = """' + '""\\"' * 15_000 + '"""',
        "# " + "." * 60_000,
        'x = "' + "a." * 30_000 + '"',
    ],
    ids=["array", "array of tables", "number", "quotes", "comment", "text"],
)
def test_a_manifest_that_is_only_long_is_read(store: Path, run: Run, text: str) -> None:
    install(store, OK, toml=f"{text}\n{manifest()}" if not text.startswith("[") else f"{manifest()}{text}\n")
    assert run().status == 9


def test_the_largest_manifest(store: Path, run: Run) -> None:
    path = install(store, OK) / "wapp.toml"
    text = manifest().encode()
    path.write_bytes(text + b"#" * (MANIFEST_MAX - len(text)))
    assert run().status == 9

    path.write_bytes(text + b"#" * (MANIFEST_MAX - len(text) + 1))
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.log == [f"err: {path} has over 65536 bytes; the limit for wapp.toml is 65536 bytes"]


def test_a_manifest_of_eight_gigabytes(store: Path, run: Run) -> None:
    path = install(store, OK) / "wapp.toml"
    with path.open("r+b") as file:
        file.truncate(8 * 2**30)
    done = run()
    assert done.log == [f"err: {path} has over 65536 bytes; the limit for wapp.toml is 65536 bytes"]


def test_unknown_keys_are_ignored(store: Path, run: Run) -> None:
    more = 'a = 1979-05-27\nb = [1, "x", {}]\n[runtime.more]\nx = inf\n[package.more]\n[[list]]\n[list.x]\n'
    install(store, OK, toml=f"top = 1\n{manifest(extra=more)}")
    assert run().status == 9


def test_texts_of_the_manifest_are_made_safe(store: Path, run: Run) -> None:
    version = r"1.2.3\nREADY\n\u001b[31m\u202e"
    install(store, OK, toml=manifest().replace("1.2.3", version))
    done = run()
    assert done.log[0].startswith(r"info: starting 1.2.3\x0aREADY\x0a\x1b[31m\u{202e} from ")


def size_of(args: int, value: int) -> str:
    """A manifest with so many bytes of arguments and of a variable A, what ends each counted in."""
    argument, text = "a" * (args - 1), "b" * (value - 3)
    return manifest(runtime=f'args = ["{argument}"]', extra=f'[runtime.env]\nA = "{text}"')


def test_the_most_arguments_and_environment(store: Path, run: Run) -> None:
    path = install(store, OK, toml=size_of(24 * 1024, 8 * 1024)) / "wapp.toml"
    assert run().status == 9

    path.write_text(size_of(24 * 1024, 8 * 1024 + 1))
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.log == [
        (
            f"err: {path}: runtime.args and env have 32769 bytes;"
            " the limit for arguments and environment together is 32768 bytes"
        )
    ]
