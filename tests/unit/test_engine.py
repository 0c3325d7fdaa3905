# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.runtime.engine: what the binding says, in our words and made safe."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from tests.packages import PROC_EXIT, wat
from weft_runtime import limits
from weft_runtime.errors import Problem, WeftError
from weft_runtime.limits import Limit
from weft_runtime.runtime import engine
from weft_runtime.runtime.arguments import Preopen
from weft_runtime.runtime.engine import (
    Engine,
    Entry,
    Guest,
    GuestExit,
    GuestSetup,
    GuestTrap,
    entries,
    one_line,
)

NOTHING = GuestSetup((), (), ())
EXIT = f'{PROC_EXIT} (memory (export "memory") 1)'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("one", "one"),
        ("one\ntwo", "one: two"),
        ("one:\n  two\n\nCaused by:\n    three", "one: two: three"),
        ("\n\n  one  \n\n", "one"),
        ("Caused by:\nCaused by:", ""),
        ("a\x1b[31m\r\nb\u2028c\x85d", "a\\x1b[31m: b: c: d"),
        ("name `\udcff`", "name `\\xff`"),
    ],
)
def test_a_text_of_the_engine_becomes_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


@given(st.text(st.characters()))
def test_no_text_of_the_engine_breaks_a_line(text: str) -> None:
    assert one_line(text).isprintable()


def module(fields: str) -> wasmtime.Module:
    return wasmtime.Module(wasmtime.Engine(), wat(fields))


def test_the_kind_of_each_export_is_told() -> None:
    exporting = module(
        '(func (export "plain")) (memory (export "memory") 1) (table (export "table") 1 funcref)'
        '(global (export "global") i32 (i32.const 0)) (tag (export "tag"))'
    )
    assert entries(exporting, "plain", "memory", "table", "global", "tag", "none") == [
        Entry("a function () -> ()"), Entry("a memory"), Entry("a table"), Entry("a global"), Entry("a tag"),
        None,
    ]  # fmt: skip


def test_a_function_that_takes_or_returns_something_is_not_plain() -> None:
    exporting = module(
        '(func (export "takes") (param i32))'
        '(func (export "returns") (result i32) (i32.const 0))'
        '(func (export "both") (param i64 funcref) (result f32 f64) (f32.const 0) (f64.const 0))'
    )
    found = entries(exporting, "takes", "returns", "both")
    assert [entry.is_plain_function for entry in found if entry] == [False, False, False]
    assert len({entry.type for entry in found if entry and entry.type.isprintable()}) == 3


@pytest.mark.parametrize("kind", ["v128", "externref", "anyref", "exnref", "(ref func)", "(ref null $t)"])
def test_no_type_of_an_export_is_too_new(kind: str) -> None:
    # In a process of its own: the binding aborts when asked for the name of a type that it does not know.
    code = (
        "import sys, wasmtime\nfrom weft_runtime.runtime.engine import entries\n"
        "module = wasmtime.Module(wasmtime.Engine(), sys.stdin.buffer.read())\n"
        "print(*(entry.is_plain_function for entry in entries(module, 'parameter', 'result')))\n"
    )
    fields = (
        f'(type $t (func)) (func (export "parameter") (param {kind}))'
        f' (func (export "result") (result {kind}) unreachable)'
    )
    child = subprocess.run([sys.executable, "-c", code], input=wat(fields), capture_output=True, check=False)
    assert (child.returncode, child.stdout, child.stderr) == (0, b"False False\n", b"")


def test_entries_are_found_by_their_exact_name() -> None:
    exporting = module('(func (export "_start ")) (func (export "_Start")) (func (export ""))')
    assert entries(exporting, "_start", "") == [None, Entry("a function () -> ()")]


def run(fields: str, name: str = "_start", setup: GuestSetup = NOTHING) -> None:
    machine = Engine()
    guest = Guest(machine)
    guest.instantiate(guest.link(wasmtime.Module(machine.engine, wat(fields))), setup)
    guest.call(name)


@pytest.mark.parametrize("status", [0, 1, 125])
def test_an_exit_of_the_guest_is_passed_on(status: int) -> None:
    with pytest.raises(GuestExit) as caught:
        run(f'{EXIT} (func (export "_start") (call $exit (i32.const {status})))')
    assert (caught.value.status, caught.value.note) == (status, "")


@pytest.mark.parametrize("status", [126, 255, 256, -1])
def test_an_exit_that_is_not_passed_on_is_noted(status: int) -> None:
    with pytest.raises(GuestExit) as caught:
        run(f'{EXIT} (func (export "_start") (call $exit (i32.const {status})))')
    assert caught.value.status == 125
    assert caught.value.note == ": it asked for one above 125, which is not passed on"


def test_an_exit_in_the_start_section_is_passed_on_too() -> None:
    with pytest.raises(GuestExit) as caught:
        run(f'{EXIT} (func $s (call $exit (i32.const 3))) (start $s) (func (export "_start"))')
    assert caught.value.status == 3


def test_a_function_that_returns_raises_nothing() -> None:
    run('(func (export "x y"))', "x y")


@pytest.mark.parametrize(
    ("code", "kind", "cause"),
    [
        ("unreachable", "unreachable", "wasm `unreachable` instruction executed"),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", "integer-division-by-zero", "integer divide by"),
        (
            "(drop (i32.load (i32.const 65536)))", "memory-out-of-bounds",
            "memory fault at wasm address 0x10000 in linear memory of size 0x10000: out of bounds memory",
        ),
        ("(call $main)", "stack-overflow", "call stack exhausted"),
        ("(throw $e)", "uncaught-exception", "thrown Wasm exception"),
    ],
)  # fmt: skip
def test_a_trap_has_a_kind_a_cause_and_a_backtrace(code: str, kind: str, cause: str) -> None:
    with pytest.raises(GuestTrap) as caught:
        run(f'(memory 1) (tag $e) (func $main (export "_start") {code})')
    assert caught.value.kind == kind
    assert caught.value.cause.startswith(cause)
    if kind != "uncaught-exception":
        frames = caught.value.backtrace.split("\n")
        assert frames[0].startswith("  0: main (function 0")
        assert len(frames) <= engine.FRAMES_MAX


def test_a_hostile_function_name_forges_nothing_and_hides_no_cause() -> None:
    name = "\\0aREADY\\0a\\0aCaused by:\\0a    all is well\\1b[2J" + "x" * 5000
    with pytest.raises(GuestTrap) as caught:
        run(f'(func $f (@name "{name}") unreachable) (func (export "_start") (call $f))')
    assert caught.value.cause == "wasm `unreachable` instruction executed"
    lines = caught.value.backtrace.split("\n")
    assert len(lines) == 2
    assert lines[0].startswith("  0: \\x0aREADY\\x0a\\x0aCaused by:\\x0a    all is well\\x1b[2Jxxx")
    assert len(lines[0]) < 400
    assert all(line.isprintable() for line in lines)


def backtrace_of(*names: str) -> list[str]:
    """The lines for functions of these names, of which the first is the innermost."""
    functions = [f'(func $f0 (@name "{names[0]}") unreachable)']
    functions += [f'(func $f{n} (@name "{name}") (call $f{n - 1}))' for n, name in enumerate(names[1:], 1)]
    with pytest.raises(GuestTrap) as caught:
        run(f'{" ".join(functions)} (export "_start" (func $f{len(names) - 1}))')
    return [line.partition(" (function")[0] for line in caught.value.backtrace.split("\n")]


def test_mangled_names_are_shown_readable_and_short_ones_as_they_are() -> None:
    names = ("_ZN4core5panic17h0123456789abcdefE", "_ZN3app4mainEv", "f", "i", "a::b")
    assert backtrace_of(*names) == [
        "  0: core::panic::h0123456789abcdef", "  1: app::main()", "  2: f", "  3: i", "  4: a::b",
    ]  # fmt: skip


def test_a_hostile_function_name_does_not_rename_another() -> None:
    assert backtrace_of("x\\n    1:     0x2a - app!evil::name", "innocent")[1] == "  1: innocent"


def test_a_wrong_pointer_given_to_the_host_is_a_trap_with_its_backtrace() -> None:
    fill = '(import "wasi_snapshot_preview1" "random_get" (func $fill (param i32 i32) (result i32)))'
    with pytest.raises(GuestTrap) as caught:
        run(
            f'{fill} (memory (export "memory") 1)'
            '(func $main (export "_start") (drop (call $fill (i32.const -4) (i32.const 8))))'
        )
    assert caught.value.kind == "host-call"
    assert "out of bounds" in caught.value.cause
    assert "main" in caught.value.backtrace
    assert all(line.startswith("  ") and line.isprintable() for line in caught.value.backtrace.split("\n"))


def linking(fields: str) -> WeftError:
    machine = Engine()
    with pytest.raises(WeftError) as caught:
        Guest(machine).link(wasmtime.Module(machine.engine, wat(fields)))
    assert caught.value.problem is Problem.MODULE_INVALID
    return caught.value


def test_an_unknown_import_is_named_and_diagnosed() -> None:
    error = linking('(import "env" "print" (func))')
    assert error.message == "imports 'env' 'print', which weft-runtime does not offer"
    assert error.hint is None
    error = linking('(import "wasi_unstable" "fd_write" (func))')
    assert error.message == "imports 'wasi_unstable' 'fd_write', which weft-runtime does not offer"
    assert error.hint is not None
    assert "wasi_unstable" in error.hint


def test_an_import_of_the_wrong_type_is_named() -> None:
    message = linking('(import "wasi_snapshot_preview1" "proc_exit" (func))').message
    assert message.startswith(
        "cannot be linked: incompatible import type for `wasi_snapshot_preview1::proc_exit`"
    )


def test_a_hostile_import_stays_on_one_line() -> None:
    message = linking('(import "env\\0aREADY" "\\1b[2J" (func))').message
    assert message.isprintable()
    assert "\\x1b[2J" in message


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ("(memory 16385)", limits.MEMORY),
        ("(table 1000001 funcref)", limits.TABLE_ELEMENTS),
        ("(memory 1)" * 5, limits.MEMORIES),
        ("(table 1 funcref)" * 17, limits.TABLES),
    ],
    ids=lambda value: value.what if isinstance(value, Limit) else None,
)
def test_a_module_beyond_a_limit_is_told_which(fields: str, limit: Limit) -> None:
    with pytest.raises(WeftError) as caught:
        run(f'{fields} (func (export "_start"))')
    assert caught.value.problem is Problem.LIMIT_EXCEEDED
    assert str(caught.value).endswith(f"; the limit for {limit.what} is {limit.value} {limit.unit}")


@pytest.mark.parametrize(
    "fields", ["(memory 16384)", "(table 1000000 funcref)", "(memory 1)" * 4, "(table 1 funcref)" * 16]
)
def test_a_module_at_a_limit_runs(fields: str) -> None:
    run(f'{fields} (func (export "_start"))')


def test_memories_and_tables_grow_to_their_limits_and_no_further() -> None:
    def expect(result: int, code: str) -> str:
        return f"(if (i32.ne {code} (i32.const {result})) (then unreachable))"

    table, memory = limits.TABLE_ELEMENTS.value, limits.MEMORY.value // 65536
    run(
        '(memory 1) (table 1 funcref) (func (export "_start")'
        + expect(1, f"(table.grow (ref.null func) (i32.const {table - 1}))")
        + expect(-1, "(table.grow (ref.null func) (i32.const 1))")
        + expect(1, f"(memory.grow (i32.const {memory - 1}))")
        + expect(-1, "(memory.grow (i32.const 1))")
        + ")"
    )


def test_a_directory_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    engine = Engine()
    guest = Guest(engine)
    linked = guest.link(wasmtime.Module(engine.engine, wat("")))
    with pytest.raises(WeftError) as caught:
        guest.instantiate(linked, GuestSetup((), (), [Preopen(str(tmp_path / "a\nb"), "/", False)]))
    assert caught.value.problem is Problem.OS_ERROR
    assert str(caught.value) == f"cannot preopen the directory '{tmp_path}/a\\x0ab'"


def test_a_stack_that_is_too_small_for_any_guest_is_told() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (512 * 1024, hard))
    try:
        with pytest.raises(WeftError) as caught:
            Engine()
        resource.setrlimit(resource.RLIMIT_STACK, (limits.STACK.value, hard))
        Engine()
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))
    assert caught.value.problem is Problem.CONFIG_INVALID
    assert str(caught.value) == (
        "the stack limit of this process is 524288 bytes; the limit for the stack (ulimit -s) is 1048576"
        " bytes at least"
    )


def test_the_engine_names_its_version() -> None:
    assert re.fullmatch(r"wasmtime [0-9]+\.[0-9]+\.[0-9]+", engine.version())
