# SPDX-License-Identifier: Apache-2.0
"""weft-pack new, run and info; and what all commands have in common."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command.guests import FOREVER, guest, leave, printing_file, say
from tests.command.harness import eventually
from tests.pack.command import RUN_SECONDS, pack
from tests.packages import APP_ID, install, manifest
from tests.unit.needs import missing

BUILD_SECONDS = 300
TOOLCHAINS = {"rust": ("/usr/bin/rustc", "/usr/bin/wasm-ld"), "c": ("/usr/bin/clang", "/usr/bin/wasm-ld")}
TREE = ["README.md", "build", "src", "ui", "ui/index.html", "wapp.toml"]


@pytest.mark.parametrize(("language", "source"), [("rust", "src/main.rs"), ("c", "src/main.c")])
def test_a_new_app_builds_and_passes_and_runs(tmp_path: Path, language: str, source: str) -> None:
    if absent := [tool for tool in TOOLCHAINS[language] if not Path(tool).exists()]:
        missing(f"no {', '.join(absent)} [the packages that README.md of a new app names]")
    directory = tmp_path / "first"
    done = pack("new", directory, "--lang", language)
    assert (done.status, done.out) == (0, f"created: {directory}\n")
    subprocess.run(
        [directory / "build"], cwd="/", env={"PATH": "/usr/bin:/bin"}, check=True, timeout=BUILD_SECONDS
    )
    assert pack("check", directory) == (0, "OK\n", "")
    done = pack("run", directory, "--", "--log-level", "err")
    assert done == (0, "READY\nHello, world!\n", "")
    assert (directory / source).exists()


@pytest.mark.parametrize("language", ["rust", "c"])
def test_what_a_new_app_consists_of(tmp_path: Path, language: str) -> None:
    directory = tmp_path / "deep/first"
    assert pack("new", directory, "--lang", language, "--id", "com.example.second").status == 0
    source = "src/main.rs" if language == "rust" else "src/main.c"
    found = [str(path.relative_to(directory)) for path in directory.rglob("*")]
    assert sorted(found) == sorted([".gitignore", *TREE, source])
    assert stat.S_IMODE((directory / "build").stat().st_mode) & 0o111
    info = json.loads(pack("info", "--json", directory).out)
    assert (info["id"], info["name"], info["version"]) == ("com.example.second", "Second", "0.1.0")
    done = pack("check", directory)
    assert (done.status, len(done.problems)) == (1, 1)
    assert done.err.endswith(": runtime.module 'app.wasm' does not exist\n")


@pytest.mark.parametrize(
    ("name", "app_id"), [("first", "org.example.first"), ("com.example.x1", "com.example.x1"), ("a.b", "org.example.a.b")]
)  # fmt: skip
def test_an_id_is_made_from_the_name(tmp_path: Path, name: str, app_id: str) -> None:
    assert pack("new", tmp_path / name, "--lang", "c").status == 0
    assert pack("info", tmp_path / name).out.startswith(f"id:      {app_id}\n")


@pytest.mark.parametrize("name", ["First", "1st", "a-b", "a..b"])
def test_a_name_that_makes_no_id(tmp_path: Path, name: str) -> None:
    done = pack("new", tmp_path / name, "--lang", "c")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(
        f"weft-pack: '{name}' cannot be made into an app id [say --id, three or more labels"
    )
    assert not (tmp_path / name).exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("mine")
    done = pack("new", tmp_path, "--lang", "c", "--id", APP_ID)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"weft-pack: '{tmp_path}' is not empty\n")
    assert [path.name for path in tmp_path.iterdir()] == ["build"]


def test_an_app_runs_from_its_directory(tmp_path: Path) -> None:
    # Below a name that is not its id, as a directory of sources is.
    package = install(tmp_path, guest(say("out\n") + say("err\n", fd=2) + leave(9))).rename(
        tmp_path / "sources"
    )
    before = sorted(package.rglob("*"))
    done = pack("run", package, env={"TMPDIR": str(tmp_path)})
    assert (done.status, done.out) == (9, "READY\nout\n")
    assert "err\n" in done.err
    assert "the app exited with status 9" in done.err
    assert sorted(package.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sources"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("", "compiled {}/app.wasm in "),
        ("rm app.wasm", "app.wasm not found at {}/app.wasm"),
        ("rm ui/index.html", "{}/wapp.toml: ui.entry 'ui/index.html' does not exist"),
        (
            "touch ../x; ln -sf ../x app.wasm",
            "{}/wapp.toml: runtime.module 'app.wasm' leads out of the package",
        ),
        ("rm app.wasm; mkdir app.wasm", "{}/app.wasm is not a regular file"),
        ("printf x >app.wasm", "{}/app.wasm is text"),
        ("printf '\\0asm\\1\\0\\0\\0' >app.wasm", "{}/app.wasm exports no _start"),
        ("truncate -s 1G app.wasm", "{}/app.wasm has 1073741824 bytes"),
    ],
)
def test_what_is_told_of_a_run_names_the_directory_of_the_developer(
    tmp_path: Path, change: str, told: str
) -> None:
    package = install(tmp_path, guest(leave(0))).rename(tmp_path / "my app")
    subprocess.run(["/bin/sh", "-ec", change], cwd=package, check=True)
    done = pack("run", package, "--", "--log-level", "debug")
    assert told.format(package) in done.err
    assert "weft-run-" not in done.err


def test_an_app_gets_a_data_directory_for_the_run(tmp_path: Path) -> None:
    made = (
        f"(if (call $path_create_directory (i32.const 3) (i32.const 1024) (i32.const 1)) (then {leave(1)}))"
    )
    toml = manifest().replace(
        "[runtime]", 'capabilities = ["fs:rw:app-data", "sys:notifications"]\n[runtime]'
    )
    package = install(tmp_path, guest(f"(i32.store8 (i32.const 1024) (i32.const 97)) {made}"), toml=toml)
    done = pack("run", package, "--", "--log-level", "err")
    assert (done.status, done.out) == (0, "READY\n")
    assert done.err == (
        "weft-pack: the capability 'sys:notifications' has no effect, since this release does not serve it: the app cannot"
        " show notifications\n"
    )


def test_options_behind_two_dashes_are_for_the_runtime(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("from outside")
    opened = (
        "(i32.store8 (i32.const 1024) (i32.const 97)) (drop (call $path_open (i32.const 3) (i32.const 0)"
        " (i32.const 1024) (i32.const 1) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))"
    )
    package = install(tmp_path, guest(opened + printing_file("(i32.load (i32.const 16))")))
    done = pack("run", package, "--", "--preopen-ro", f"{tmp_path}::/x", "--log-level", "err")
    assert (done.status, done.out, done.err) == (0, "READY\nfrom outside", "")
    assert pack("run", package, "--", "--log-level", "loud").status == 164


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_ends_the_app_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    package = install(tmp_path / "store", guest(FOREVER))
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "weft_runtime.pack.main", "run", package],
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path / "tmp")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"READY\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=RUN_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number
    assert f"stopped by {number.name} while " in err.decode()
    eventually(lambda: not any((tmp_path / "tmp").iterdir()), "nothing is left")


def test_a_runtime_that_is_not_there(tmp_path: Path) -> None:
    done = pack("run", install(tmp_path, b""), env={"WEFT_RUNTIME_BIN": "/no/such"})
    assert done == (
        1, "",
        "weft-pack: there is no /no/such beside this program or on PATH [the Debian package weft-runtime brings it]\n",
    )  # fmt: skip


def test_info_of_everything(tmp_path: Path) -> None:
    toml = manifest(runtime='args = ["x"]\nready = "host"\nenv = { A = "1" }').replace(
        "[runtime]",
        'description = "Tests."\nauthor = "Me\\u001b[31m"\ncapabilities = ["fs:rw:app-data", "net:fetch:*"]\n[runtime]',
    )
    package = install(tmp_path, b"", toml=toml)
    assert pack("info", package).out.splitlines() == [
        "id:      org.example.app",
        "name:    A test",
        "version: 1.2.3",
        "desc:    Tests.",
        "author:  Me\\x1b[31m",
        "module:  app.wasm",
        "ui:      ui/index.html",
        "cap:     fs:rw:app-data",
        "cap:     net:fetch:*",
    ]
    assert json.loads(pack("info", "--json", package).out) == {
        "id": "org.example.app", "name": "A test", "version": "1.2.3", "description": "Tests.",
        "author": "Me\x1b[31m", "capabilities": ["fs:rw:app-data", "net:fetch:*"], "module": "app.wasm",
        "ready": "host", "args": ["x"], "env": {"A": "1"}, "ui_entry": "ui/index.html",
    }  # fmt: skip


def test_info_of_the_least(tmp_path: Path) -> None:
    assert pack("info", install(tmp_path, b"")).out.splitlines() == [
        "id:      org.example.app",
        "name:    A test",
        "version: 1.2.3",
        "module:  app.wasm",
        "ui:      ui/index.html",
    ]


def test_an_app_without_a_face_runs_and_is_told_so(tmp_path: Path) -> None:
    package = install(
        tmp_path, guest(say("out\n")), toml=manifest().replace('[ui]\nentry = "ui/index.html"', "")
    )
    (package / "ui/index.html").unlink()
    assert pack("info", package).out.splitlines()[-1] == "module:  app.wasm"
    assert json.loads(pack("info", "--json", package).out)["ui_entry"] is None
    assert pack("run", package, "--", "--log-level", "err") == (0, "READY\nout\n", "")


@pytest.mark.parametrize("command", ["info", "run"])
def test_a_manifest_that_is_wrong_or_not_there(tmp_path: Path, command: str) -> None:
    package = install(tmp_path, b"", toml="[package]\nid = 1\n[runtime]\n[ui]\n")
    done = pack(command, package)
    assert done == (1, "", "weft-pack: wapp.toml: package.id is an integer: expected a string\n")
    (package / "wapp.toml").unlink()
    assert pack(command, package) == (1, "", f"weft-pack: '{package}/wapp.toml' does not exist\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "the following arguments are required: COMMAND [see weft-pack --help]"),
        (("frob",), "argument COMMAND: invalid choice: 'frob'"),
        (("check",), "the following arguments are required: DIR [see weft-pack check --help]"),
        (("check", "a", "b"), "unexpected argument: b"),
        (("run", "a", "b"), "unexpected argument: b"),
        (("new", "a"), "the following arguments are required: --lang [see weft-pack new --help]"),
        (("new", "a", "--lang", "cobol"), "argument --lang: invalid choice: 'cobol'"),
        (("new", "a", "--lang", "c", "--id", "A"), "argument --id: 'A' is not an app id"),
    ],
)
def test_a_wrong_command_line_ends_with_1_and_the_usage(arguments: tuple[str, ...], error: str) -> None:
    done = pack(*arguments)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"weft-pack: {error}")
    assert done.problems[-1].startswith("usage: weft-pack ")


def test_output_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    package = install(tmp_path, b"")
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "weft_runtime.pack.main", "info", package],
        stdout=writer, stderr=subprocess.PIPE, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    os.close(writer)
    assert (process.returncode, process.stderr) == (128 + signal.SIGPIPE, b"")
