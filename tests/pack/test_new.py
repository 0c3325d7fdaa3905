# SPDX-License-Identifier: Apache-2.0
"""weft-pack new: what it makes builds and runs as it is, in each language, or says what is missing."""

import json
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.pack.command import pack
from tests.packages import APP_ID
from tests.unit.needs import ROOT, missing
from weft_runtime.pack import languages, new
from weft_runtime.pack.languages import LANGUAGES

BUILD_SECONDS = 500  # of the slowest: Go and Zig compile their libraries the first time

HOME = ROOT / ".cache/toolchains"
"""Where `tools/toolchains` puts the compilers that Debian does not have, and they what they keep."""

MAIN = {
    "rust": "main.rs",
    "c": "main.c",
    "cpp": "main.cpp",
    "go": "main.go",
    "assemblyscript": "main.ts",
    "zig": "main.zig",
}
TREE = [".gitignore", "README.md", "build", "src", "wapp.toml"]


def build(
    directory: Path, home: Path = HOME, path: str = "/usr/bin:/bin"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [directory / "build"], cwd="/", env={"PATH": path, "HOME": str(home)}, capture_output=True, text=True,
        timeout=BUILD_SECONDS, check=False,
    )  # fmt: skip


def told(language: str) -> str:
    """The commands that bring a compiler, as they are shown."""
    return "".join(f"    {command}\n" for command in LANGUAGES[language].install)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_app_builds_and_passes_and_runs(tmp_path: Path, language: str) -> None:
    directory = tmp_path / "a b/first"
    done = pack("new", directory, "--lang", language)
    assert (done.status, done.out) == (0, f"created: {directory}\n")
    built = build(directory)
    if built.returncode and " is missing. " in built.stderr:
        missing(f"{built.stderr} [tools/test-packages]")
    assert built.returncode == 0, built.stderr
    assert pack("check", directory) == (0, "OK\n", "")
    done = pack("run", directory, "--", "--log-level", "err")
    assert done == (0, "READY\nHello, world!\n", "")
    # What a build leaves would be signed and bundled with the app.
    assert sorted(path.name for path in directory.iterdir()) == sorted([*TREE, "app.wasm"])


@pytest.mark.parametrize("with_ui", [False, True], ids=["faceless", "ui"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_new_app_consists_of(tmp_path: Path, language: str, with_ui: bool) -> None:
    directory = tmp_path / "deep/first"
    options = ("--ui",) if with_ui else ()
    assert pack("new", directory, "--lang", language, "--id", "com.example.second", *options).status == 0
    found = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    sources = [f"src/{MAIN[language]}", *(["src/go.mod"] if language == "go" else [])]
    pages = ["ui", "ui/index.html"] if with_ui else []
    assert found == sorted([*TREE, *sources, *pages])
    assert stat.S_IMODE((directory / "build").stat().st_mode) & 0o111
    texts = {name: path.read_text() for name in found if (path := directory / name).is_file()}
    assert {
        name: re.findall(r"@[a-z]+@", text) for name, text in texts.items() if re.search(r"@[a-z]+@", text)
    } == {}
    info = json.loads(pack("info", "--json", directory).out)
    assert (info["id"], info["name"], info["version"]) == ("com.example.second", "Second", "0.1.0")
    assert info["ui_entry"] == ("ui/index.html" if with_ui else None)
    assert ("ui/index.html" in texts["README.md"]) == with_ui
    done = pack("check", directory)
    assert (done.status, len(done.problems)) == (1, 1)
    assert done.err.endswith(": runtime.module 'app.wasm' does not exist\n")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_readme_has_the_commands_that_build_check_and_run(tmp_path: Path, language: str) -> None:
    directory = tmp_path / "first"
    assert pack("new", directory, "--lang", language).status == 0
    lines = (directory / "README.md").read_text().splitlines()
    commands = [line.split("#")[0].strip() for line in lines if line.startswith("    ")]
    assert commands == ["./build", "weft-pack check .", "weft-pack run .", *LANGUAGES[language].install]
    assert languages.SDK in "\n".join(lines)


@pytest.mark.parametrize("language", [name for name, language in LANGUAGES.items() if language.toolchain])
def test_a_build_without_its_compiler_names_the_commands_that_bring_it(
    tmp_path: Path, language: str
) -> None:
    directory = tmp_path / "first"
    assert pack("new", directory, "--lang", language).status == 0
    built = build(directory, home=tmp_path)
    assert (built.returncode, built.stdout) == (1, "")
    assert re.match(r"build: .* is missing\. On Debian 12 and 13 these commands bring it", built.stderr)
    assert built.stderr.endswith(f":\n{told(language)}")
    assert sorted(path.name for path in directory.iterdir()) == TREE


def library_of(part: str) -> Path:
    """The directory of a part of a compiler from Debian, whose place differs from release to release."""
    if part == "rust":
        known = subprocess.run(
            ["/usr/bin/rustc", "--print", "target-list"], capture_output=True, text=True, check=True
        )
        target = "wasm32-wasip1" if "wasm32-wasip1" in known.stdout.split() else "wasm32-wasi"
        return Path("/usr/lib/rustlib", target)
    if part == "clang":
        command = ["/usr/bin/clang", "--target=wasm32-wasi", "-print-libgcc-file-name"]
        return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout).parent
    return Path("/usr/include/wasm32-wasi" if part == "libc" else "/usr/lib/wasm32-wasi")


@pytest.mark.parametrize(
    ("language", "part", "what"),
    [
        ("rust", "rust", "Rust's library for wasm32-wasi"),
        ("c", "libc", "the C library for WASI"),
        ("c", "clang", "clang's own library for WebAssembly"),
        ("cpp", "libc++", "the C++ library for WASI"),
    ],
)
def test_a_build_without_a_library_names_the_command_that_brings_it(
    tmp_path: Path, language: str, part: str, what: str
) -> None:
    if (
        not Path("/usr/bin/rustc" if part == "rust" else "/usr/bin/clang").exists()
        or not library_of(part).exists()
    ):
        missing(f"there is no {what} to be hidden [tools/test-packages]")
    directory, empty = tmp_path / "first", tmp_path / "empty"
    empty.mkdir()
    assert pack("new", directory, "--lang", language).status == 0
    # An empty directory in its place, in a mount namespace of the build's own.
    script = 'mount --bind "$1" "$2" && exec "$3"'
    built = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", empty, library_of(part), directory / "build"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False,
    )  # fmt: skip
    assert (built.returncode, built.stdout) == (1, "")
    assert built.stderr.startswith(f"build: {what}")
    assert built.stderr.endswith(f":\n{told(language)}")


def test_a_build_without_the_linker_names_the_command_that_brings_it(tmp_path: Path) -> None:
    directory, programs = tmp_path / "first", tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "cat", "dirname", "grep"):
        (programs / name).symlink_to(f"/bin/{name}")
    for language in ("rust", "c", "cpp"):
        assert pack("new", directory / language, "--lang", language).status == 0
        built = build(directory / language, path=str(programs))
        assert (built.returncode, built.stdout) == (1, "")
        assert built.stderr.startswith("build: ")
        assert " is missing. " in built.stderr
        assert built.stderr.endswith(f":\n{told(language)}")


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


@pytest.mark.parametrize("language", ["swift", "Rust", "c++", "", "../c", "x\x1b[2J"])
def test_another_language_is_refused_with_where_to_read_on(tmp_path: Path, language: str) -> None:
    done = pack("new", tmp_path / "first", "--lang", language)
    assert (done.status, done.out) == (1, "")
    assert done.problems[0].startswith("weft-pack: argument --lang: invalid choice: '")
    assert ": expected rust, c, cpp, go, assemblyscript or zig; " in done.problems[0]
    assert "docs/sdk.md" in done.problems[0]
    assert done.problems[0].isprintable()
    assert not (tmp_path / "first").exists()


def test_each_language_has_its_templates_and_no_template_is_left_over() -> None:
    templates = Path(new.__file__).with_name("templates")
    assert {path.name for path in templates.iterdir() if path.is_dir()} == set(LANGUAGES) == set(MAIN)


def test_the_guide_has_the_commands_that_bring_each_compiler() -> None:
    guide = (ROOT / "docs/sdk.md").read_text()
    assert (ROOT / languages.SDK.partition(",")[0]).read_text() == guide
    for language in LANGUAGES.values():
        assert f"\n## {language.title}\n" in guide
        assert [command for command in language.install if command not in guide] == []
