# SPDX-License-Identifier: Apache-2.0
"""weft-pack check: each thing that can be wrong with a package, with the line that tells it."""

import json
import os
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.command.guests import guest
from tests.pack.command import pack
from tests.packages import install, manifest
from weft_runtime import capabilities
from weft_runtime import manifest as manifests
from weft_runtime.pack import check, schema
from weft_runtime.pack.schema import SEMVER
from weft_runtime.pack.screen import Screen

MODULE = guest("")
ID_RULE = (
    "expected three or more labels of a-z and 0-9, each beginning with a letter, joined by dots, such as"
    " org.example.notes"
)
COMPONENT = (
    "a WebAssembly component: components are not supported by this release [build a WASI preview 1 command, such as with"
    " the target wasm32-wasip1]"
)
VERSION_RULE = "expected a version such as 1.2.3 or 1.2.3-beta.1 (Semantic Versioning 2.0.0)"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return install(tmp_path, MODULE)


def found(package: Path) -> list[str]:
    """What is wrong with a package, as it is shown."""
    # Without a PATH, and pytest beside weft-runtime-wasmtime: the engine is asked as in any other place.
    return [str(finding) for finding in check.check(package, {}, Screen({})).findings]


def test_a_good_package_is_ok(package: Path) -> None:
    assert pack("check", package) == (0, "OK\n", "")
    assert pack("check", package, "--json") == (0, "[]\n", "")


GOOD = manifest()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('id = "org.example.app"', 'id = "Example"', f"2: package.id is wrong: 'Example' is not an app id: {ID_RULE}"),
        ('id = "org.example.app"', "", "1: package.id is missing: expected a string"),
        ('id = "org.example.app"', "id = 7", "2: package.id is an integer: expected a string"),
        ('name = "A test"', 'name = ""', "3: package.name is empty"),
        ('name = "A test"', f'name = "{"é" * 65}"', "3: package.name has 65 characters: expected 64 at most"),
        ('version = "1.2.3"', 'version = "1.2"', f"4: package.version is '1.2': {VERSION_RULE}"),
        ('version = "1.2.3"', "version = 1.2", "4: package.version is a float: expected a string"),
        (
            'version = "1.2.3"',
            f'version = "1.2.3"\ndescription = "{"d" * 257}"',
            "5: package.description has 257 characters: expected 256 at most",
        ),
        ('version = "1.2.3"', 'version = "1.2.3"\nauthor = []', "5: package.author is an array: expected a string"),
        (
            'version = "1.2.3"',
            'version = "1.2.3"\ncapabilities = "fs:rw:app-data"',
            "5: package.capabilities is a string: expected an array of strings",
        ),
        (
            'version = "1.2.3"',
            'version = "1.2.3"\ncapabilities = [\n"fs:rw:app-data",\n"net:fetch"]',
            "7: package.capabilities[1] is 'net:fetch': no such capability is known",
        ),
        (
            'version = "1.2.3"',
            f'version = "1.2.{"3" * 253}"',
            "4: package.version has 257 characters: expected 256 at most",
        ),
        ('module = "app.wasm"', "", "5: runtime.module is missing: expected a string"),
        ('module = "app.wasm"', 'module = ""', "6: runtime.module '' is no path of a file"),
        (
            'module = "app.wasm"',
            'module = "/app.wasm"',
            "6: runtime.module '/app.wasm' is absolute: expected a path inside the package",
        ),
        ('module = "app.wasm"', 'module = "../x"', "6: runtime.module '../x' leads out of the package"),
        ('module = "app.wasm"', 'module = "x.wasm"', "6: runtime.module 'x.wasm' does not exist"),
        ('module = "app.wasm"', 'module = "ui"', "6: runtime.module 'ui' is not a regular file"),
        (
            'module = "app.wasm"',
            'module = "app.wasm"\nready = "soon"',
            "7: runtime.ready is 'soon': expected one of 'host', 'export', 'guest'",
        ),
        (
            'module = "app.wasm"',
            'module = "app.wasm"\nargs = ["a\\u0000"]',
            "7: runtime.args[0] holds a NUL character, which no argument or variable can",
        ),
        ('module = "app.wasm"', 'module = "app.wasm"\nargs = [1]', "7: runtime.args[0] is not a string"),
        (
            'module = "app.wasm"',
            'module = "app.wasm"\nenv = { "A=" = "1" }',
            "7: runtime.env.A= is no name of a variable: it is empty or holds '=' or NUL",
        ),
        (
            'module = "app.wasm"',
            'module = "app.wasm"\nenv = { A = 1 }',
            "7: runtime.env.A is an integer: expected a string",
        ),
        ('entry = "ui/index.html"', 'entry = "ui/x"', "9: ui.entry 'ui/x' does not exist"),
        ('entry = "ui/index.html"', "", "8: ui.entry is missing: expected a string"),
        ('[ui]\nentry = "ui/index.html"', "[[ui]]", "ui is an array: expected a table"),
        ("[package]", "package = 1\n[pack]", "1: package is an integer: expected a table"),
        ("[package]", "[package", "1: is not TOML: Expected ']' at the end of a table declaration (at line 1, column 9)"),
        ('name = "A test"', 'name = "A\x01test"', "3: is not TOML: Illegal character '\\x01' (at line 3, column 10)"),
    ],
)  # fmt: skip
def test_what_can_be_wrong_in_a_manifest(package: Path, old: str, new: str, problem: str) -> None:
    assert old in GOOD
    (package / "wapp.toml").write_text(GOOD.replace(old, new))
    separator = ":" if problem[0].isdigit() else ": "
    assert found(package) == [f"wapp.toml{separator}{problem}"]


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_file(package: Path) -> None:
    (package / "wapp.toml").write_text(
        '[ui]\nentry = "../x"\n[package]\nversion = "1"\nid = "a"\ncapabilities = ["x", 1, "y"]\n'
        '[runtime]\nmodule = "app.wasm"\nready = ""\nargs = "x"\n'
    )
    (package / "app.wasm").write_bytes(b"\0asm\x0d\0\1\0")
    (package / "ui/link").symlink_to("../../x")
    done = pack("check", package)
    assert (done.status, done.out) == (1, "")
    assert [line.partition(" ")[:3:2] for line in done.problems] == [
        ("wapp.toml:2:", "ui.entry '../x' leads out of the package"),
        ("wapp.toml:3:", "package.name is missing: expected a string"),
        ("wapp.toml:4:", f"package.version is '1': {VERSION_RULE}"),
        ("wapp.toml:5:", f"package.id is wrong: 'a' is not an app id: {ID_RULE}"),
        ("wapp.toml:6:", "package.capabilities[0] is 'x': no such capability is known"),
        ("wapp.toml:6:", "package.capabilities[1] is not a string"),
        ("wapp.toml:6:", "package.capabilities[2] is 'y': no such capability is known"),
        ("wapp.toml:9:", "runtime.ready is '': expected one of 'host', 'export', 'guest'"),
        ("wapp.toml:10:", "runtime.args is a string: expected an array of strings"),
        (
            "app.wasm:0x0:",
            f"is {COMPONENT}",
        ),
        ("ui/link:", "is a link to '../../x', which does not exist"),
    ]
    done = pack("check", "--json", package)
    assert (done.status, done.err) == (1, "")
    values = json.loads(done.out)
    assert len(values) == 11
    assert values[0] == {
        "file": "wapp.toml", "line": 2, "offset": None, "message": "ui.entry '../x' leads out of the package",
        "level": "error",
    }  # fmt: skip
    assert (values[9]["file"], values[9]["line"], values[9]["offset"]) == ("app.wasm", None, 0)


def test_a_manifest_that_is_not_utf_8_is_told_with_its_line(package: Path) -> None:
    (package / "wapp.toml").write_bytes(b"[package]\n# \xff\n")
    assert found(package) == ["wapp.toml:2: is not UTF-8 at byte 12"]


def test_a_manifest_that_is_not_there(package: Path) -> None:
    (package / "wapp.toml").unlink()
    assert found(package) == ["wapp.toml: does not exist"]


def test_a_manifest_that_is_a_link_out_of_the_package(package: Path) -> None:
    (package / "wapp.toml").rename(package.parent / "wapp.toml")
    (package / "wapp.toml").symlink_to("../wapp.toml")
    assert found(package) == [
        "wapp.toml: leads out of the package",
        "wapp.toml: is a link to '../wapp.toml', which is outside of the package",
    ]


def test_what_a_package_may_not_hold(package: Path) -> None:
    os.mkfifo(package / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(package / "socket"))
    (package / "absolute").symlink_to(package / "ui")
    (package / "good").symlink_to("ui/index.html")
    (package / "loop").symlink_to("loop")
    (package / "nothing").symlink_to("ui/no")
    (package / "out").symlink_to("..")
    (package / "tab\there").touch()
    Path(os.fsdecode(os.fsencode(package) + b"/ui/\xff")).touch()
    special = "is neither a file nor a directory nor a link"
    assert found(package) == [
        f"absolute: is a link to '{package}/ui': expected a relative one, which stays inside the package",
        f"fifo: {special}",
        "loop: is a link to 'loop', which cannot be followed",
        "nothing: is a link to 'ui/no', which does not exist",
        "out: is a link to '..', which is outside of the package",
        f"socket: {special}",
        "tab\\x09here: has a tab or a line break in its name, which a signature cannot cover",
        "ui/\\xff: has a name that is not UTF-8, which a signature cannot cover",
    ]


def test_what_could_not_be_signed_or_installed_does_not_pass(package: Path) -> None:
    (package / "again").symlink_to(".")
    assert found(package) == [".: 'again' is a link to a directory that it is in"]
    (package / "again").unlink()
    (package / "/".join("d" * 34)).mkdir(parents=True)
    (problem,) = found(package)
    assert problem.startswith(".: ")
    assert problem.endswith("; the limit for directories inside each other is 32 directories")


@pytest.mark.parametrize("name", ["none", "app.wasm"])
def test_a_package_that_is_no_directory(package: Path, name: str) -> None:
    done = pack("check", package / name)
    what = "does not exist" if name == "none" else "is no directory"
    assert done == (1, "", f"weft-pack: '{package / name}' {what}\n")


def test_colour_and_progress_are_for_terminals_only(package: Path) -> None:
    (package / "ui/index.html").unlink()
    done = pack("check", package, env={"TERM": "xterm"})
    assert (done.status, done.out) == (1, "")
    assert done.err == "wapp.toml:9: ui.entry 'ui/index.html' does not exist\n"


def test_a_terminal_shows_for_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with open(master, "rb", buffering=0) as shown, open(slave, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        with Screen({"TERM": "xterm"}).progress("compiling \x1b[2J") as go_on:
            assert shown.read(100) == rb"compiling \x1b[2J..."
            go_on()
            assert re.fullmatch(rb"\rcompiling \\x1b\[2J\.\.\. \d+ s", shown.read(100))
        assert shown.read(100) == b"\r\x1b[K"


@pytest.mark.parametrize(
    "version", ["0.0.0", "1.2.3", "10.20.30", "1.0.0-alpha", "1.0.0-a.1.b-c", "1.0.0-0a", "1.0.0+01.x-", "1.0.0--.--+-"]
)  # fmt: skip
def test_a_semantic_version(version: str) -> None:
    assert SEMVER.fullmatch(version)


@pytest.mark.parametrize(
    "version", ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.02.3", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+", "v1.2.3",
                "1.2.3+a+b", "1.2.3-é", "1.2.3\n", " 1.2.3", "1.2.٣"]
)  # fmt: skip
def test_no_semantic_version(version: str) -> None:
    assert not SEMVER.fullmatch(version)


@pytest.mark.parametrize(
    ("capability", "is_known"),
    [
        ("fs:rw:app-data", True), ("fs:read:app-data", True), ("fs:rw:xdg-documents", True),
        ("fs:read:xdg-documents", True), ("net:fetch:*", True), ("net:fetch:example.org", True),
        ("sys:notifications", True), ("sys:clipboard:read", True), ("sys:clipboard:write", True),
        ("hw:gpu:compute", True), ("hw:gpu:render", True), ("net:fetch", False), ("net:fetch:", False),
        ("", False), ("fs:rw", False), ("FS:RW:APP-DATA", False), ("fs:rw:app-data ", False),
    ],
)  # fmt: skip
def test_the_capabilities_of_the_format(capability: str, is_known: bool) -> None:
    assert capabilities.is_known(capability) == is_known


# What the format has, and this release does not serve or does not serve everywhere.
LACKING = {
    "net:fetch:*": "the app has no network",
    "net:fetch:https://example.org": "the app has no network",
    "sys:notifications": "the app cannot show notifications",
    "sys:clipboard:read": "the app cannot read the clipboard",
    "sys:clipboard:write": "the app cannot write to the clipboard",
    "hw:gpu:compute": "the app cannot compute on a graphics processor",
    "hw:gpu:render": "the app cannot draw with a graphics processor",
    "fs:rw:xdg-documents": "only the weft-appd of a user gives the app the Documents of that user",
    "fs:read:xdg-documents": "only the weft-appd of a user gives the app the Documents of that user",
}


def asking_for(*wanted: str) -> str:
    return GOOD.replace(
        "[runtime]", f"capabilities = [\n{''.join(f'{json.dumps(name)},' for name in wanted)}]\n[runtime]"
    )


@pytest.mark.parametrize("capability", LACKING)
def test_a_capability_without_effect_is_noted(package: Path, capability: str) -> None:
    (package / "wapp.toml").write_text(asking_for("fs:rw:app-data", capability, capability))
    done = pack("check", package)
    assert (done.status, done.out, len(done.problems)) == (0, "OK\n", 1)
    assert done.err.startswith(f"wapp.toml:6: note: package.capabilities[1] '{capability}' has no effect")
    assert done.err.endswith(f": {LACKING[capability]}\n")


def test_each_capability_without_effect_has_its_note_in_json_too(package: Path) -> None:
    (package / "wapp.toml").write_text(asking_for("sys:notifications", "fs:read:app-data", "net:fetch:*"))
    done = pack("check", "--json", package)
    assert (done.status, done.err) == (0, "")
    why = "has no effect, since this release does not serve it"
    assert json.loads(done.out) == [
        {"file": "wapp.toml", "line": 6, "offset": None, "level": "note", "message": message}
        for message in (
            f"package.capabilities[0] 'sys:notifications' {why}: the app cannot show notifications",
            f"package.capabilities[2] 'net:fetch:*' {why}: the app has no network",
        )
    ]


def test_notes_come_after_what_is_wrong_and_forge_no_line(package: Path) -> None:
    (package / "wapp.toml").write_text(asking_for("net:fetch:a\nOK\x1b[2J", "net:fetch", "net:fetch:é"))
    done = pack("check", package)
    assert (done.status, done.out) == (1, "")
    assert (
        done.problems[0]
        == "wapp.toml:6: package.capabilities[1] is 'net:fetch': no such capability is known"
    )
    assert [line.partition(" has ")[0] for line in done.problems[1:]] == [
        "wapp.toml:6: note: package.capabilities[0] 'net:fetch:a\\x0aOK\\x1b[2J'",
        "wapp.toml:6: note: package.capabilities[2] 'net:fetch:é'",
    ]
    assert [item["level"] for item in json.loads(pack("check", "--json", package).out)] == [
        "error",
        "note",
        "note",
    ]


def test_more_notes_than_anybody_reads_are_counted(package: Path) -> None:
    (package / "wapp.toml").write_text(asking_for(*(f"net:fetch:{number}" for number in range(1007))))
    done = pack("check", package)
    assert (done.status, done.out, len(done.problems)) == (0, "OK\n", 1001)
    assert done.problems[-1] == "... and 7 more"


def test_every_known_capability_that_grants_no_directory_here_is_noted() -> None:
    granted = {"fs:rw:app-data", "fs:read:app-data"}
    known = granted | set(LACKING)
    assert {name for name in known if capabilities.shortfall(name) is None} == granted
    unserved = capabilities.resolve(known, Path, None).unserved
    assert unserved
    assert [name for name in unserved if capabilities.shortfall(name) is None] == []


def test_an_app_without_a_face_needs_no_page(package: Path) -> None:
    (package / "ui/index.html").unlink()
    (package / "ui").rmdir()
    (package / "wapp.toml").write_text(GOOD.replace('[ui]\nentry = "ui/index.html"', ""))
    assert pack("check", package) == (0, "OK\n", "")
    # A table of another name is somebody else's.
    (package / "wapp.toml").write_text(GOOD.replace("[ui]", "[gui]"))
    assert pack("check", package) == (0, "OK\n", "")


SCALARS = (
    st.text(max_size=4)
    | st.integers()
    | st.booleans()
    | st.lists(st.text(max_size=3) | st.integers(), max_size=3)
)
KNOWN = {
    "package": ("id", "name", "version", "description", "author", "capabilities"),
    "runtime": ("module", "ready", "args"),
    "ui": ("entry",),
}
GOOD_VALUES = {
    "id": "a.b.c", "name": "n", "version": "1.0.0", "description": "d", "author": "a", "capabilities": [],
    "module": "m", "ready": "host", "args": [], "entry": "e",
}  # fmt: skip


def toml(value: object) -> str:
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08x}" for char in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value).lower()


@st.composite
def written_manifests(draw: st.DrawFn) -> str:
    text = ""
    for table, keys in KNOWN.items():
        if draw(st.integers(0, 9)) == 0:
            continue
        text += f"[{table}]\n"
        for key in keys:
            choice = draw(st.integers(0, 9))
            if choice > 1:
                text += f"{key} = {toml(GOOD_VALUES[key])}\n"
            elif choice == 1:
                text += f"{key} = {toml(draw(SCALARS))}\n"
    return text


@given(written_manifests() | st.text())
def test_what_passes_is_a_manifest_for_a_launch(text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return
    contents = schema.check(data)
    if not contents.findings:
        assert contents.manifest is not None
        assert manifests.parse(data, "wapp.toml") == contents.manifest
    assert all(str(finding).isprintable() for finding in contents.findings)
