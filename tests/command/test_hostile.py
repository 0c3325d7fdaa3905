# SPDX-License-Identifier: Apache-2.0
"""Modules made to fool or to exhaust the runtime: names that forge, compile bombs, greedy guests."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.command.guests import binary, functions, guest, leave, leb, named, sized, slow_to_compile
from tests.command.harness import Finished, Run, Start, eventually, members
from tests.packages import install, wat

TRAPPED = "err: the app trapped in _start: unreachable: wasm `unreachable` instruction executed"
GIB = 2**30
MEMORY = "the limit for one guest memory is 1073741824 bytes"
TABLE = "the limit for one guest table is 1000000 elements"


def test_a_function_name_forges_no_line_and_hides_no_cause(store: Path, run: Run) -> None:
    name = (
        "f\nREADY\nweft-runtime[1]: info: fine\r\x1b[31m\u202e\u2028\x00\n\nCaused by:\n    wasm trap: fake"
    )
    install(store, named(name.encode()))
    done = run()
    assert (done.status, done.stdout, done.end) == (134, b"READY\n", TRAPPED)
    assert len(done.stderr.splitlines()) == 5
    frame = done.stderr.splitlines()[-1]
    assert frame.startswith(
        r"  0: f\x0aREADY\x0aweft-runtime[1]: info: fine\x0d\x1b[31m\u{202e}\u{2028}\x00\x0a\x0aCaused by:"
    )
    assert done.stderr.replace("\n", "").isprintable()


def test_a_name_forges_no_line_in_an_error_of_a_call_of_wasi(store: Path, run: Run) -> None:
    name = b"f\n\nCaused by:\n    exit with invalid exit status outside of [0..126)\nREADY\n 7: x"
    module = binary(
        (1, b"\2\x60\1\x7f\0\x60\0\0"),
        (2, b"\1" + sized(b"wasi_snapshot_preview1") + sized(b"proc_exit") + b"\0\0"),
        (3, b"\1\1"),
        (7, b"\1" + sized(b"_start") + b"\0\1"),
        (10, b"\1" + sized(b"\0\x41\0\x10\0\x0b")),
        (0, sized(b"name") + b"\1" + sized(leb(1) + leb(1) + sized(name))),
    )
    install(store, module)
    done = run()
    # proc_exit wants a memory, of which there is none.
    assert (done.status, done.stdout) == (134, b"READY\n")
    assert done.end == "err: the app trapped in _start: host-call: missing required memory export"
    # Four lines of the log, one frame.
    assert len(done.stderr.splitlines()) == 5
    assert done.stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize("size", [100_000, 5_000_000])
def test_a_name_of_any_length_leaves_the_cause(store: Path, run: Run, size: int) -> None:
    install(store, named(b"n" * size))
    done = run()
    assert (done.status, done.end) == (134, TRAPPED)
    assert len(done.stderr) < 4096


def test_a_long_name_in_every_frame_leaves_the_cause(store: Path, run: Run) -> None:
    install(store, named(b"n" * 1_000_000, body=b"\0\x10\0\x0b"))
    done = run()
    assert (done.status, done.end) == (
        134,
        "err: the app trapped in _start: stack-overflow: call stack exhausted",
    )
    assert len(done.stderr) < 16384


def test_a_name_that_is_no_text(store: Path, run: Run) -> None:
    install(store, named(b"\xff\xfe"))
    assert (run().status, run().end) == (134, TRAPPED)


def test_a_mangled_name_that_explodes_when_it_is_written_out(store: Path, run: Run) -> None:
    # pair<..> of 16 times the type before, seven deep: a few hundred bytes that stand for 16**7 words.
    width = 16
    name = "_Z1fSt4pairI" + "i" * width + "E"
    for level in range(7):
        name += "S_I" + f"S{level}_" * width + "E"
    install(store, named(name.encode()))
    done = run(wrapper=["prlimit", f"--as={6 * GIB}"])
    assert (done.status, done.end) == (134, TRAPPED)
    assert len(done.stderr) < 4096


USED = r"the compiler has used \d+\.\d s of CPU time, \d+ MiB of memory and \d+ s by the clock"
HELP = " [try again, or compile it ahead: 'weft-pack compile org.example.app']"
COMPILE_MEMORY = "the limit for compile memory is 2147483648 bytes"
A_LIMIT = 175


def is_too_costly(done: Finished, package: Path, limit: str) -> bool:
    """Whether the last line is our one sentence, with nothing in it of what the dying compiler wrote."""
    sentence = rf"err: {re.escape(str(package))}/app\.wasm is too costly to compile: {USED}; {re.escape(limit + HELP)}"
    return re.fullmatch(sentence, done.end) is not None


def test_a_compile_bomb_ends_with_the_limit_of_memory(store: Path, run: Run) -> None:
    content = functions([b"\0\x0b"] * 900_000)
    assert len(content) < 4_000_000
    package = install(store, content)
    # As much as a tenth of what it wants.
    done = run(wrapper=["prlimit", f"--data={GIB // 4}"])
    assert (done.status, done.stdout) == (A_LIMIT, b"")
    assert is_too_costly(done, package, f"the limit for compile memory is {GIB // 4} bytes"), done.end


def test_a_function_that_takes_all_memory_to_compile(store: Path, run: Run) -> None:
    count = 1000
    code = b"".join(
        b"\x20" + leb(index % count) + b"\x04\x40\x20" + leb(index * 7 % count) + b"\x41\1\x6a"
        b"\x21" + leb(index * 13 % count) + b"\x0b"
        for index in range(20_000)
    )  # fmt: skip
    package = install(store, functions([leb(1) + leb(count) + b"\x7f" + code + b"\x0b"]))
    done = run()
    assert (done.status, done.stdout) == (A_LIMIT, b"")
    assert is_too_costly(done, package, COMPILE_MEMORY), done.end


def test_a_compiler_ends_with_the_limit_of_cpu_time(store: Path, run: Run) -> None:
    """A limit of whoever starts the runtime counts if it is lower than ours; a test cannot wait for ours."""
    package = install(store, slow_to_compile())
    done = run(wrapper=["prlimit", "--cpu=4"])
    assert (done.status, done.stdout) == (A_LIMIT, b"")
    limit = "the limit for CPU time of compiling is 4 seconds"
    assert is_too_costly(done, package, limit), done.end


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (signal.SIGABRT, ""),
        (signal.SIGKILL, " [the kernel may have been short of memory]"),
    ],
    ids=["ABRT", "KILL"],
)
def test_a_compiler_that_crashes_is_an_error(
    store: Path, start: Start, number: signal.Signals, hint: str
) -> None:
    package = install(store, slow_to_compile())
    running = start(until=b"")
    eventually(lambda: len(members(running.process.pid)) == 2, "compiling")
    [child] = set(members(running.process.pid)) - {running.process.pid}
    os.kill(child, number)
    done = running.wait()
    assert (done.status, done.stdout) == (170, b"")
    assert done.end == f"err: the compiler ended with {number.name} on {package}/app.wasm{hint}"


def test_a_compiler_that_its_control_group_has_no_memory_for_is_named_as_such(
    store: Path, start: Start, tmp_path: Path
) -> None:
    """By what the kernel's file says, which a test can write as well as the kernel."""
    group, events = tmp_path / "cgroup.procs", tmp_path / "memory.events"
    group.touch()
    events.write_text("oom 3\noom_kill 3\noom_group_kill 0\n")
    package = install(store, slow_to_compile())
    running = start(until=b"", env={"WEFT_COMPILER_GROUP": str(group)})
    eventually(lambda: group.read_text() == "0", "the compiler is in its group")
    [child] = set(members(running.process.pid)) - {running.process.pid}
    events.write_text("oom 4\noom_kill 4\noom_group_kill 0\n")
    os.kill(child, signal.SIGKILL)
    done = running.wait()
    assert (done.status, done.stdout) == (A_LIMIT, b"")
    beginning = f"err: {package}/app.wasm is too costly to compile: its control group has no more memory, and it has used "
    assert done.end.startswith(beginning)


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ("(memory 65536)", f"asks for 4294967296 bytes at once; {MEMORY}"),
        ("(memory 16385)", f"asks for 1073807360 bytes at once; {MEMORY}"),
        ("(memory i64 0x1000000000000)", f"; {MEMORY}"),
        ("(memory 1)" * 5, "; the limit for memories of a guest is 4 memories"),
        ("(table 2000000 funcref)", f"asks for 2000000 elements at once; {TABLE}"),
        ("(table 0xffffffff externref)", f"; {TABLE}"),
        ("(table 1 funcref)" * 17, "; the limit for tables of a guest is 16 tables"),
    ],
    ids=["4 GiB", "1 GiB + 1", "2**64", "5 memories", "2,000,000 elements", "4 Gi elements", "17 tables"],
)  # fmt: skip
def test_what_a_module_asks_for_at_its_start_is_bounded(
    store: Path, run: Run, fields: str, end: str
) -> None:
    install(store, wat(f'{fields} (func (export "_start"))'))
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.end.startswith("err: ")
    assert done.end.endswith(end)


@pytest.mark.parametrize(
    "fields",
    [
        "(memory 16384)",
        "(memory i64 1 0x1000000000000)",
        "(memory 1)" * 4,
        "(table 1000000 funcref)",
        "(table 1 funcref)" * 16,
    ],
    ids=["1 GiB", "growable", "4 memories", "1,000,000 elements", "16 tables"],
)
def test_what_is_within_the_limits_runs(store: Path, run: Run, fields: str) -> None:
    install(store, wat(f'{fields} (func (export "_start"))'))
    assert run().status == 0


def test_a_memory_grows_to_its_limit_and_no_further(store: Path, run: Run) -> None:
    grow = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 64)) (i32.const -1))))"
    install(store, guest(grow + leave("(i32.div_u (memory.size) (i32.const 256))")))
    done = run()
    assert (done.status, done.stdout) == (16384 // 256 - 1, b"READY\n")


def growing(pages: int, end: str) -> bytes:
    """A guest whose memory grows by so many pages at a time as long as it does, and that ends like this."""
    return guest(f"(loop $l (br_if $l (i32.ne (memory.grow (i32.const {pages})) (i32.const -1)))) {end}")


@pytest.mark.parametrize("pages", [64, 6000], ids=["in small steps", "by more than is left"])
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("unreachable", "the app trapped in _start: unreachable: wasm `unreachable` instruction executed"),
        ("(drop (i32.load (i32.const -4)))", ": out of bounds memory access"),
        (leave(2), "the app exited with status 2"),
    ],
    ids=["abort", "access", "exit"],
)  # fmt: skip
def test_a_failure_for_want_of_memory_names_the_limit(
    store: Path, run: Run, pages: int, end: str, reason: str
) -> None:
    install(store, growing(pages, end))
    size = (4 + (16384 - 4) // pages * pages) * 65536
    assert run().end.endswith(f"{reason}; it had {size} bytes of memory; {MEMORY}")


def test_a_failure_to_get_much_at_once_names_the_limit(store: Path, run: Run) -> None:
    """Which leaves no trace but the names of functions, as Rust has them."""
    fields = "(func $alloc::alloc::handle_alloc_error (call $rust_oom)) (func $rust_oom unreachable)"
    install(store, guest("(call $alloc::alloc::handle_alloc_error)", fields=fields))
    assert f"executed; it had 262144 bytes of memory; {MEMORY}" in run().stderr


@pytest.mark.parametrize("content", [growing(64, leave(0)), guest("unreachable")], ids=["success", "little"])
def test_memory_is_named_only_where_it_may_be_the_reason(store: Path, run: Run, content: bytes) -> None:
    install(store, content)
    assert MEMORY not in run().stderr


def test_a_table_grows_to_its_limit_and_no_further(store: Path, run: Run) -> None:
    grow = "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))"
    size = leave("(i32.div_u (table.size $t) (i32.const 10000))")
    install(store, guest(grow + size, fields="(table $t 0 funcref)"))
    assert run().status == 100


def test_objects_of_the_engine_are_bounded_too(store: Path, run: Run) -> None:
    fields = (
        "(type $a (array (mut i64))) (type $n (struct (field (ref null $n)) (field (ref $a))))"
        "(global $g (mut (ref null $n)) (ref.null $n))"
    )
    more = "(global.set $g (struct.new $n (global.get $g) (array.new_default $a (i32.const 100000))))"
    install(store, guest(f"(loop $l {more} (br $l))", fields=fields))
    done = run()
    assert (done.status, done.stdout) == (134, b"READY\n")
    assert "GC heap out of memory" in done.end


def test_a_hundred_thousand_unknown_imports(store: Path, run: Run) -> None:
    count = 100_000
    imports = leb(count) + b"".join(
        sized(b"env") + sized(b"e%d" % index) + b"\0\0" for index in range(count)
    )
    install(
        store,
        binary(
            (1, b"\1\x60\0\0"),
            (2, imports),
            (3, b"\1\0"),
            (7, b"\1" + sized(b"_start") + b"\0" + leb(count)),
            (10, b"\1" + sized(b"\0\x0b")),
        ),
    )
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert "imports 'env' 'e0', 'env' 'e1', 'env' 'e2', 'env' 'e3', 'env' 'e4' and 99995 more," in done.end
