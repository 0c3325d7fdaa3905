# SPDX-License-Identifier: Apache-2.0
"""Exit statuses: the app's own, 134 for a trap with its cause and backtrace, ours for the rest."""

import os
from pathlib import Path

import pytest

from tests.command.guests import guest, leave, named, say
from tests.command.harness import Run
from tests.packages import FD_WRITE, install, wat
from weft_runtime.errors import EXIT_STATUS_OF, ExitStatus

ABOVE = ": it asked for one above 125, which is not passed on"


def test_an_app_that_returns_succeeds(store: Path, run: Run) -> None:
    install(store, guest(say("bye")))
    done = run()
    assert (done.status, done.stdout, done.end) == (0, b"READY\nbye", "info: the app exited with status 0")


@pytest.mark.parametrize("status", [0, 1, 2, 3, 42, 101, 124, 125])
def test_the_status_of_the_app_is_passed_on(store: Path, run: Run, status: int) -> None:
    install(store, guest(leave(status) + say("not reached")))
    done = run()
    level = "warning" if status else "info"
    assert (done.status, done.stdout) == (status, b"READY\n")
    assert done.end == f"{level}: the app exited with status {status}"


@pytest.mark.parametrize("status", [126, 127, 128, 134, 143, 164, 255, 256, 1000, -1, -(2**31), 2**31 - 1])
def test_a_status_above_125_ends_as_125(store: Path, run: Run, status: int) -> None:
    install(store, guest(leave(status)))
    done = run()
    assert (done.status, done.stdout) == (125, b"READY\n")
    assert done.end == f"warning: the app exited with status 125{ABOVE}"


@pytest.mark.parametrize(
    ("status", "seen", "level", "note"),
    [(0, 0, "info", ""), (3, 3, "warning", ""), (125, 125, "warning", ""), (126, 125, "warning", ABOVE)],
)
def test_an_exit_in_the_start_section(
    store: Path, run: Run, status: int, seen: int, level: str, note: str
) -> None:
    install(store, guest("", section=leave(status)))
    done = run()
    assert (done.status, done.stdout) == (seen, b"")
    assert done.end == (
        f"{level}: the app exited with status {seen} in its start section, before READY{note}"
    )


TABLE = "(type $v (func)) (type $i (func (result i32))) (table 4 4 funcref) (elem (i32.const 0) $ok)"
OK = "(func $ok)"
TRAPS = {
    "unreachable": ("unreachable", "", "wasm `unreachable` instruction executed"),
    "integer-division-by-zero": (
        "(drop (i32.div_u (i32.const 1) (i32.const 0)))", "", "integer divide by zero",
    ),
    "integer-overflow": (
        "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", "", "integer overflow",
    ),
    "bad-conversion-to-integer": (
        "(drop (i32.trunc_f32_s (f32.const nan)))", "", "invalid conversion to integer",
    ),
    "memory-out-of-bounds": (
        "(drop (i32.load (i32.const -4)))", "",
        ("memory fault at wasm address 0xfffffffc in linear memory of size 0x40000:"
        " out of bounds memory access"),
    ),
    "table-out-of-bounds": (
        "(call_indirect (type $v) (i32.const 4))", TABLE + OK,
        "undefined element: out of bounds table access",
    ),
    "indirect-call-to-null": (
        "(call_indirect (type $v) (i32.const 1))", TABLE + OK, "uninitialized element",
    ),
    "bad-signature": (
        "(drop (call_indirect (type $i) (i32.const 0)))", TABLE + OK, "indirect call type mismatch",
    ),
    "null-reference": (
        "(drop (struct.get $s 0 (ref.null $s)))", "(type $s (struct (field i32)))", "null reference",
    ),
    "array-out-of-bounds": (
        "(drop (array.get $a (array.new_default $a (i32.const 1)) (i32.const 1)))", "(type $a (array i32))",
        "out of bounds array access",
    ),
    "cast-failure": (
        "(drop (ref.cast (ref $s) (struct.new $t)))", "(type $s (struct (field i32))) (type $t (struct))",
        "cast failure",
    ),
    "uncaught-exception": ("(throw $e)", "(tag $e)", "thrown Wasm exception"),
    "heap-misaligned": (
        "(drop (i32.atomic.load (i32.const 1)))", "", "unaligned atomic",
    ),
    "atomic-wait-non-shared-memory": (
        "(drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))", "",
        "atomic wait on non-shared memory",
    ),
    "stack-overflow": ("(call $again)", "(func $again (call $again))", "call stack exhausted"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "code", "fields", "cause"), [(kind, *rest) for kind, rest in TRAPS.items()]
)
def test_a_trap_is_134_and_says_its_kind_and_cause(
    store: Path, run: Run, kind: str, code: str, fields: str, cause: str
) -> None:
    install(store, guest(code, fields=fields))
    done = run()
    assert (done.status, done.stdout) == (134, b"READY\n")
    assert done.end == f"err: the app trapped in _start: {kind}: {cause}"


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_endless_recursion_traps_whatever_the_size_of_the_stack(store: Path, run: Run, size: int) -> None:
    install(store, guest("(call $again)", fields="(func $again (call $again))"))
    done = run(wrapper=["prlimit", f"--stack={size * 2**20}"])
    assert (done.status, done.end) == (
        134,
        "err: the app trapped in _start: stack-overflow: call stack exhausted",
    )


def test_a_stack_that_is_too_small_for_any_app(store: Path, run: Run) -> None:
    install(store, guest(""))
    done = run(wrapper=["prlimit", f"--stack={512 * 1024}"])
    # The machine is set up wrongly; neither the module nor its manifest is invalid.
    assert (done.status, done.stdout) in ((171, b""), (178, b""))
    assert done.end == (
        "err: the stack limit of this process is 524288 bytes;"
        " the limit for the stack (ulimit -s) is 1048576 bytes at least"
    )


def test_a_trap_in_the_start_section(store: Path, run: Run) -> None:
    install(store, guest("", section="unreachable"))
    done = run()
    assert (done.status, done.stdout) == (134, b"")
    assert done.end == (
        "err: the app trapped in its start section: unreachable: wasm `unreachable` instruction executed"
    )


@pytest.mark.parametrize(
    ("field", "end"),
    [
        ('(data (i32.const 262144) "x")', "memory-out-of-bounds: out of bounds memory access"),
        ('(data (i32.const -1) "x")', "memory-out-of-bounds: out of bounds memory access"),
        (
            "(table 1 funcref) (func $f) (elem (i32.const 1) $f)",
            "table-out-of-bounds: undefined element: out of bounds table access",
        ),
    ],
)
def test_a_segment_out_of_bounds(store: Path, run: Run, field: str, end: str) -> None:
    install(store, guest("", fields=field))
    done = run()
    assert (done.status, done.stdout) == (134, b"")
    assert done.end.startswith("err: the app trapped ")
    assert done.end.endswith(end)
    # It has none: what failed is its instantiation.
    assert "its start section" not in done.end


@pytest.mark.parametrize(
    ("memory", "cause"),
    [
        ('(memory (export "memory") 1)', "Pointer out of bounds: Region { start: 4294967288, len: 4 }"),
        ("", "missing required memory export"),
        ('(func (export "memory"))', "missing required memory export"),
    ],
    ids=["bad pointer", "no memory", "a function called memory"],
)
def test_a_call_of_wasi_that_cannot_be_served_is_a_trap(
    store: Path, run: Run, memory: str, cause: str
) -> None:
    call = "(drop (call $write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 0)))"
    install(store, wat(f'{FD_WRITE} {memory} (func $deep (export "_start") {call})'))
    done = run()
    assert (done.status, done.stdout) == (134, b"READY\n")
    assert done.end == f"err: the app trapped in _start: host-call: {cause}"
    assert "deep" in done.stderr.splitlines()[-1]


def test_the_backtrace_has_the_names_of_the_functions(store: Path, run: Run) -> None:
    fields = "(func $deepest unreachable) (func $middle (call $deepest))"
    install(store, wat(f'{fields} (func $main (export "_start") (call $middle))'))
    frames = run().stderr.splitlines()[-3:]
    assert [frame.split(" (")[0] for frame in frames] == ["  0: deepest", "  1: middle", "  2: main"]
    assert "(function 0, offset 0x" in frames[0]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("_ZN3app5store4save17h0123456789abcdefE", "app::store::save"),
        ("_ZN3app5store4saveEi", "app::store::save(int)"),
        ("f", "f"),
        ("i", "i"),
        ("app::not_mangled", "app::not_mangled"),
    ],
)
def test_the_names_in_a_backtrace_are_those_of_the_source(
    store: Path, run: Run, name: str, shown: str
) -> None:
    install(store, named(name.encode()))
    assert run().stderr.splitlines()[-1].startswith(f"  0: {shown}")


def test_the_backtrace_of_a_stack_overflow_is_short_and_has_real_offsets(store: Path, run: Run) -> None:
    install(store, guest("(call $again)", fields="(func $again (call $again))"))
    frames = [line for line in run().stderr.splitlines() if ": again (function " in line]
    assert len(frames) == 20
    assert not [frame for frame in frames if "0xffffffffffffffff" in frame]


def test_our_own_statuses_are_those_that_no_app_can_have(store: Path, run: Run) -> None:
    assert {int(status) for status in ExitStatus} == {134, 164, 165, 166, 169, 170, 171, 175, 177, 178}
    assert set(EXIT_STATUS_OF.values()) == set(ExitStatus) - {ExitStatus.TRAP}


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ("--nofile=6", "Too many open files"),
        ("--fsize=1000", "File too large"),
        ("--fsize=0", "File too large"),
    ],
)
def test_what_the_system_refuses_is_neither_a_bug_nor_a_bad_module(
    store: Path, run: Run, limit: str, complaint: str
) -> None:
    install(store, guest(""))
    done = run(wrapper=["prlimit", limit])
    assert (done.status, done.stdout) == (171, b"")
    assert complaint in done.end


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a file system away")
def test_without_proc_the_module_is_not_to_blame(store: Path, run: Run) -> None:
    install(store, guest(leave(9)))
    done = run(wrapper=["unshare", "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"])
    assert (done.status, done.stdout) in ((9, b"READY\n"), (171, b""))
    assert "not a valid module" not in done.stderr


def test_too_little_address_space(store: Path, run: Run) -> None:
    install(store, guest(""))
    done = run(wrapper=["prlimit", f"--as={2 * 2**30}"])
    assert (done.status, done.stdout) == (171, b"")
    assert "Cannot allocate memory" in done.end


def test_a_thread_that_cannot_be_started(store: Path, run: Run) -> None:
    install(store, guest(""))
    done = run(wrapper=["prlimit", "--data=10000000"])
    assert (done.status, done.stdout) == (171, b"")
