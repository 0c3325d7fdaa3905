# SPDX-License-Identifier: Apache-2.0
"""What a module file may be: the kinds that are told apart, its imports and what it must export."""

import os
import time
from pathlib import Path

import pytest
import wasmtime

from tests.command.guests import binary, functions, guest, leave
from tests.command.harness import Run
from tests.packages import APP_ID, install, manifest, wat

START = '(func (export "_start"))'
HEADER = b"\0asm\x01\0\0\0"


def precompiled() -> bytes:
    return bytes(wasmtime.Module(wasmtime.Engine(), guest("")).serialize())


def test_a_module_that_the_engine_compiled_itself_is_refused(store: Path, run: Run) -> None:
    install(store, precompiled())
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert "is a precompiled module (an ELF file): not accepted in a package" in done.end


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (HEADER[:8] + b"\x01", "unexpected end"),
        (guest("")[:-1], "unexpected end"),
        (guest("") + b"\0", "unexpected end"),
        (HEADER + b"\x7f\0", "malformed section id: 127"),
        (functions([b"\0\xff\x0b"]), "illegal opcode: 0xff"),
        (functions([b"\0\x41\0\x0b"]), "type mismatch"),
        (binary((1, b"\xff\xff\xff\xff\x0f")), ""),
    ],
)
def test_an_invalid_module(store: Path, run: Run, content: bytes, complaint: str) -> None:
    package = install(store, content)
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.end.startswith(f"err: {package}/app.wasm is not a valid module: ")
    assert complaint in done.end


def test_the_text_of_an_invalid_module_is_made_safe(store: Path, run: Run) -> None:
    twice = b"\nREADY\n\x1b[31m"
    install(store, functions([b"\0\x0b"], exports=[b"_start", twice, twice]))
    done = run()
    assert (done.status, done.stdout, len(done.log)) == (165, b"", 2)
    assert "duplicate export name" in done.end
    assert done.stderr.count("\n") == 2
    assert done.stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize("size", [512 * 2**20 + 1, 8 * 2**30])
def test_a_file_that_is_too_large_is_not_read(store: Path, run: Run, size: int) -> None:
    package = install(store, HEADER)
    os.truncate(package / "app.wasm", size)
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.log == [
        f"err: {package}/app.wasm has {size} bytes; the limit for the module file is 536870912 bytes"
    ]


def test_a_file_of_the_largest_size_is_looked_at(store: Path, run: Run) -> None:
    package = install(store, b"")
    os.truncate(package / "app.wasm", 512 * 2**20)
    assert run().end == f"err: {package}/app.wasm is something other than a WebAssembly module"


def test_a_large_module_runs(store: Path, run: Run) -> None:
    content = guest(leave(9))
    install(store, content + b"\0" + b"\x84\x80\x80\x40" + b"\x01x" + b"\0" * (2**27 + 2))
    done = run()
    assert (done.status, done.stdout) == (9, b"READY\n")


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ('(import "env" "foo" (func))', None),
        ('(import "x" "\\0aREADY\\0a" (func))', None),
        ('(import "wasi_snapshot_preview1" "frobnicate" (func))', None),
        ('(import "" "" (func))', None),
        ('(import "env" "emscripten_resize_heap" (func (param i32)))', "built by Emscripten for JavaScript"),
        ('(import "env" "invoke_vii" (func))', "built by Emscripten for JavaScript"),
        ('(import "a" "a" (func))', "looks like a minified Emscripten program"),
        ('(import "go" "runtime.wasmExit" (func (param i32)))', "built by Go for a browser (GOOS=js)"),
        ('(import "gojs" "syscall/js.valueGet" (func (param i32)))', "built by Go for a browser (GOOS=js)"),
        ('(import "wasi_unstable" "fd_write" (func))', "built for WASI snapshot 0 (wasi_unstable)"),
        ('(import "wasi" "thread-spawn" (func (param i32) (result i32)))', "uses WASI threads"),
        ('(import "env" "memory" (memory 1 2))', "without --import-memory"),
        ('(import "env" "memory" (memory 1 2 shared))', "programs with threads"),
        ('(import "wbg" "__wbindgen_throw" (func))', "built by wasm-bindgen for a browser"),
        ('(import "env" "abort" (func (param i32 i32 i32 i32)))', "AssemblyScript without WASI"),
        ('(import "wasi:cli/stdout@0.2.0" "get-stdout" (func (result i32)))', "the component model"),
    ],
)
def test_an_unknown_import_is_named_and_explained(
    store: Path, run: Run, fields: str, hint: str | None
) -> None:
    install(store, wat(fields + START))
    module, name = fields.split('"')[1], fields.split('"')[3]
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    shown = name.replace("\\0a", "\\x0a")
    assert f"imports '{module}' '{shown}', which weft-runtime does not offer" in done.end
    if hint is None:
        assert not done.end.endswith("]")
    else:
        assert hint in done.end.partition("[")[2]


def test_an_import_of_another_type_is_named(store: Path, run: Run) -> None:
    install(store, wat(f'(import "wasi_snapshot_preview1" "fd_write" (func (param i64))) {START}'))
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    expected = "as a function (i64) -> (): expected a function (i32, i32, i32, i32) -> (i32)"
    assert done.end.endswith(f"app.wasm imports 'wasi_snapshot_preview1' 'fd_write' {expected}")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("", "exports no _start [a WASI command has one; a library or a reactor does not]"),
        (
            '(func (export "_initialize"))',
            "exports no _start [it is a reactor, which a host calls: build a command, with a main function]",
        ),
        (
            '(func (export "_start") (param i32))',
            "exports _start as a function (i32) -> (): expected a function () -> ()",
        ),
        (
            '(func (export "_start") (result i32) (i32.const 42))',
            "exports _start as a function () -> (i32): expected a function () -> ()",
        ),
        (
            '(func (export "_start") (param f64 i32) (result i64 f32) unreachable)',
            "exports _start as a function (f64, i32) -> (i64, f32): expected a function () -> ()",
        ),
        ('(memory (export "_start") 1)', "exports _start as a memory: expected a function () -> ()"),
        ('(table (export "_start") 1 funcref)', "exports _start as a table: expected a function () -> ()"),
        (
            '(global (export "_start") i32 (i32.const 0))',
            "exports _start as a global: expected a function () -> ()",
        ),
        ('(tag (export "_start"))', "exports _start as a tag: expected a function () -> ()"),
    ],
)
def test_ready_is_never_said_for_what_cannot_start(
    store: Path, run: Run, fields: str, complaint: str
) -> None:
    package = install(store, wat(f'{fields} (func (export "weft_ready"))'))
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.end == f"err: {package}/app.wasm {complaint}"


@pytest.mark.parametrize("name", ["_start", "weft_ready"])
@pytest.mark.parametrize(
    "signature",
    [
        "(param v128)",
        "(result exnref) unreachable",
        "(param externref)",
        "(param anyref)",
        "(param (ref func))",
    ],
)
def test_no_type_of_an_export_crashes(store: Path, run: Run, signature: str, name: str) -> None:
    other = "weft_ready" if name == "_start" else "_start"
    package = install(store, wat(f'(func (export "{name}") {signature}) (func (export "{other}"))'))
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.end.startswith(f"err: {package}/app.wasm exports {name} ")
    assert done.end.endswith("expected a function () -> ()")


def test_a_start_function_may_not_be_an_import_of_another_type(store: Path, run: Run) -> None:
    imported = '(import "wasi_snapshot_preview1" "sched_yield" (func $f (result i32)))'
    install(store, wat(f'{imported} (export "_start" (func $f))'))
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert "exports _start as a function () -> (i32)" in done.end


def test_a_hundred_thousand_exports_cost_no_minute(store: Path, run: Run) -> None:
    exports = [b"_start", *(b"e%d" % index for index in range(99_999))]
    install(store, functions([b"\0\x0b"], exports=exports))
    begun = time.monotonic()
    done = run()
    assert (done.status, done.stdout) == (0, b"READY\n")
    # Looking them up one by one takes over 60 s in the engine's binding.
    assert time.monotonic() - begun < 30


def test_a_module_may_be_named_by_its_manifest_only(store: Path, run: Run) -> None:
    package = install(store, guest(leave(9)), toml=manifest(module="weird name\\u2028.txt"))
    (package / "app.wasm").rename(package / "weird name\u2028.txt")
    done = run()
    assert done.status == 9
    assert f"compiled {store}/{APP_ID}/weird name\\u{{2028}}.txt in " in done.stderr
