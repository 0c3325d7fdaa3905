# SPDX-License-Identifier: Apache-2.0
"""What is no app is told with the same words by a check, by weft-pack run, in a session and in a service, and at once."""

import subprocess
from pathlib import Path

import pytest

from tests.command.foreign import FILES, KINDS, START, many_imports
from tests.command.guests import binary, functions, leb, sized, slow_to_compile
from tests.command.harness import Finished, Run
from tests.pack.command import pack
from tests.packages import APP_ID, install, manifest, wat
from tests.unit.needs import tool

OTHERS = {
    "nothing": wat(""),
    "start of another type": wat('(func (export "_start") (param i32 externref))'),
    "start is a table": wat('(table (export "_start") 1 funcref)'),
    "unknown import": wat(f'(import "host" "go" (func)) {START}'),
    "unknown import and no start": wat('(import "host" "go" (func))'),
    "unknown imports": wat(f'(import "a" "b" (func)) (import "\\1b[2J" "READY\\0a" (global i32)) {START}'),
    "import of another type": wat(
        f'(import "wasi_snapshot_preview1" "fd_write" (func (param i64))) {START}'
    ),
    "import that is no function": wat(f'(import "wasi_snapshot_preview1" "fd_write" (memory 1)) {START}'),
    "many imports": many_imports(397),
    "many imports of another type": wat(
        " ".join(['(import "wasi_snapshot_preview1" "fd_write" (func (param f32)))'] * 9) + START
    ),
    "too much memory": wat(f"(memory 16385) {START}"),
    "too many tables": wat(f"{'(table 1 funcref)' * 17} {START}"),
    "too much memory and no start": wat("(memory 16385)"),
    "weft_ready takes": wat(f'(func (export "weft_ready") (param i32)) {START}'),
    "no code": functions([b"\0\xff\x0b"]),
    "not finished": b"\0asm\1\0\0\0\1",
}
WITH_THREADS = ("threads", "shared memory", "shared memory of the host")
MODULES = {name: content for name, (content, _) in (KINDS | FILES).items()} | OTHERS


class Told:
    """What each way says of a module."""

    def __init__(self, store: Path, run: Run) -> None:
        self.package = store / APP_ID
        self._run = run

    def check(self) -> list[str]:
        """Each complaint, without its place."""
        done = pack("check", self.package)
        assert (done.status, done.out) == (1, "")
        return [line.partition(": ")[2] for line in done.problems]

    def _reason(self, done: Finished) -> str:
        assert (done.status, done.stdout) == (165, b"")
        beginning = f"err: {self.package}/app.wasm "
        assert done.end.startswith(beginning)
        return done.end.removeprefix(beginning)

    def session(self) -> str:
        return self._reason(self._run())

    def service(self) -> str:
        return self._reason(self._run("--service", args=(APP_ID,)))

    def pack_run(self) -> str:
        done = pack("run", self.package)
        assert (done.status, done.out) == (165, "")
        beginning = f"{APP_ID}[0]: {self.package}/app.wasm "
        assert beginning in done.err
        assert "weft-run-" not in done.err
        return done.problems[-1].partition(beginning)[2]


@pytest.fixture
def told(store: Path, run: Run) -> Told:
    return Told(store, run)


def as_one(complaints: list[str]) -> str:
    """What a launch, which has one line, makes of the lines of a check."""
    messages = [complaint.partition(" [")[0] for complaint in complaints]
    hints = [complaint.partition(" [")[2] for complaint in complaints if complaint.endswith("]")]
    return "; ".join(messages) + (f" [{hints[0]}" if hints else "")


@pytest.mark.parametrize("name", MODULES)
def test_a_check_says_what_a_launch_says(store: Path, told: Told, name: str) -> None:
    install(store, MODULES[name])
    reason = told.session()
    assert as_one(told.check()) == reason
    if name in FILES:
        assert reason == FILES[name][1]
    elif name in KINDS:
        assert KINDS[name][1] in reason.rpartition(" [")[2]
        assert reason.endswith("]")
    # That is no advice to a program without any.
    assert ("without threads" in reason) == (name in WITH_THREADS)


@pytest.mark.parametrize("name", ["unknown import", "emscripten", "gzip", "too much memory", "no code"])
def test_a_service_and_a_run_of_a_directory_say_the_same(store: Path, told: Told, name: str) -> None:
    install(store, MODULES[name])
    reason = told.session()
    assert told.service() == reason
    assert told.pack_run() == reason


@pytest.mark.parametrize("name", ["no start", "unknown import", "no weft_ready"])
def test_what_takes_long_to_compile_is_refused_before(store: Path, told: Told, name: str) -> None:
    """It compiles for longer than any of these runs may take."""
    content = slow_to_compile(4)
    if name == "no start":
        content = content.replace(b"\6_start", b"\6_strat")
        expected = ["exports no _start [a WASI command has one; a library or a reactor does not]"]
    elif name == "unknown import":
        imports = (2, leb(1) + sized(b"gojs") + sized(b"runtime.wasmExit") + b"\0\0")
        types, rest = content[8:14], content[14:]
        content = b"\0asm\1\0\0\0" + types + binary(imports)[8:] + rest
        # What is exported is the import now, which makes no difference.
        hint = "[it was built by Go for a browser (GOOS=js): build it with GOOS=wasip1]"
        expected = [f"imports 'gojs' 'runtime.wasmExit', which weft-runtime does not offer {hint}"]
    else:
        expected = ["exports no weft_ready, but its manifest has runtime.ready = 'export'"]
    toml = manifest(runtime='ready = "export"') if name == "no weft_ready" else None
    install(store, content, toml=toml)
    assert told.check() == expected
    assert told.session() == expected[0]
    assert told.pack_run() == expected[0]


def test_the_first_five_of_many_imports_are_named(store: Path, told: Told) -> None:
    install(store, many_imports(397))
    first = ", ".join(f"'host' 'function{index}'" for index in range(5))
    assert told.check() == [f"imports {first} and 392 more, which weft-runtime does not offer"]


def test_an_object_file_of_the_compiler_is_one(store: Path, told: Told, tmp_path: Path) -> None:
    clang = tool("clang", "clang")
    source = tmp_path / "a.c"
    source.write_text('int puts(const char *); int main(void) { return puts("x"); }')
    subprocess.run([clang, "--target=wasm32-wasi", "-c", "-o", tmp_path / "a.o", source], check=True)
    install(store, (tmp_path / "a.o").read_bytes())
    assert "it is an object file" in told.session()
