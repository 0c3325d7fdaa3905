# SPDX-License-Identifier: Apache-2.0
"""Tests of the reader of modules, against the engine: what the check passes, weft-runtime starts."""

import os
import random
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.command.guests import binary, functions, guest, leave, leb, named, sized
from tests.pack.command import Done, pack
from tests.packages import APP_ID, install, manifest, wat
from weft_runtime.errors import WeftError
from weft_runtime.manifest import ReadyMode
from weft_runtime.pack import judge
from weft_runtime.runtime.engine import Engine, Guest, GuestSetup, entries
from weft_runtime.wasm import reader, rules, wasi
from weft_runtime.wasm.reader import Malformed, Unsupported

PROGRAMS = Path(sys.executable).parent
START = '(func (export "_start"))'
HEADER = b"\0asm\1\0\0\0"
FD_WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func {}))'
NOT_OFFERED = "which weft-runtime does not offer"

# Fields of a module, what is wrong with it, and the same without the engine where that differs.
WRONG = {
    "no start": ("", ["exports no _start [a WASI command has one; a library or a reactor does not]"]),
    "start takes": (
        '(func (export "_start") (param i32))',
        ["exports _start as a function (i32) -> (): expected a function () -> ()"],
    ),
    "start returns": (
        '(func (export "_start") (result i64 f32) unreachable)',
        ["exports _start as a function () -> (i64, f32): expected a function () -> ()"],
    ),
    "start is a memory": (
        '(memory (export "_start") 1)',
        ["exports _start as a memory: expected a function () -> ()"],
    ),
    "start is an import of another type": (
        '(import "wasi_snapshot_preview1" "sched_yield" (func $f (result i32))) (export "_start" (func $f))',
        ["exports _start as a function () -> (i32): expected a function () -> ()"],
    ),
    "weft_ready takes": (
        f'{START} (func (export "weft_ready") (param i32))',
        ["exports weft_ready as a function (i32) -> (): expected a function () -> ()"],
    ),
    "weft_ready is a table": (
        f'{START} (table (export "weft_ready") 1 funcref)',
        ["exports weft_ready as a table: expected a function () -> ()"],
    ),
    "unknown imports": (
        ('(import "env" "a" (func)) (import "env" "b\\0a" (memory 1)) (import "c" "d" (global i32))'
        ' (import "wasi_snapshot_preview1" "nothing" (func)) (import "e" "t" (table 1 funcref))'
        f' (import "e" "tag" (tag)) {START}'),
        [
            ("imports 'env' 'a', 'env' 'b\\x0a', 'c' 'd', 'wasi_snapshot_preview1' 'nothing', 'e' 't' and 1 more,"
            f" {NOT_OFFERED} [it expects its memory from its host: link it without --import-memory]"),
        ],
    ),
    "a toolchain that is told": (
        f'(import "go" "a" (func)) (import "go" "b" (func)) {START}',
        [
            (f"imports 'go' 'a', 'go' 'b', {NOT_OFFERED} [it was built by Go for a browser (GOOS=js): build it with"
            " GOOS=wasip1]"),
        ],
    ),
    "imports of other types": (
        (f"{FD_WRITE.format('(param i64)')} {FD_WRITE.format('(param i32 i32 i32 i32) (result i32)')}"
        f' (import "wasi_snapshot_preview1" "proc_exit" (global i32)) {START}'),
        [
            ("imports 'wasi_snapshot_preview1' 'fd_write' as a function (i64) -> (): expected a function (i32, i32,"
            " i32, i32) -> (i32)"),
            "imports 'wasi_snapshot_preview1' 'proc_exit' as a global: expected a function (i32) -> ()",
        ],
    ),
    "too much memory": (
        f"{START} (memory 16385)",
        [
            "asks for 1073807360 bytes at once; the limit for one guest memory is 1073741824 bytes",
        ],
    ),
    "too many memories": (
        f"{START} {'(memory 1)' * 5}",
        ["has 5 memories; the limit for memories of a guest is 4 memories"],
    ),
    "too large a table": (
        f"{START} (table 1000001 funcref)",
        ["asks for 1000001 elements at once; the limit for one guest table is 1000000 elements"],
    ),
    "too many tables": (
        f"{START} {'(table 1 funcref)' * 17}",
        ["has 17 tables; the limit for tables of a guest is 16 tables"],
    ),
    "all at once": (
        '(import "x" "y" (func)) (memory (export "weft_ready") 1)',
        [
            f"imports 'x' 'y', {NOT_OFFERED}",
            "exports weft_ready as a memory: expected a function () -> ()",
            "exports no _start [a WASI command has one; a library or a reactor does not]",
        ],
    ),
}  # fmt: skip

# Modules that only the engine can refuse: their code or data is wrong.
ENGINE_ONLY = {
    "illegal opcode": (functions([b"\0\xff\x0b"]), "is not a valid module: "),
    "type mismatch": (functions([b"\0\x41\0\x0b"]), "is not a valid module: "),
    "data that does not fit": (
        wat(f'{START} (memory 1) (data (i32.const 65536) "x")'),
        "has data or element segments that do not fit: ",
    ),
    "elements that do not fit": (
        wat(f"{START} (table 1 funcref) (func $f) (elem (i32.const 1) $f)"),
        "has data or element segments that do not fit: ",
    ),
}

MALFORMED = {
    "unfinished section": (HEADER + b"\x01", 9, "unexpected end"),
    "short section": (HEADER + b"\x01\x05\0", 10, "unexpected end: 5 bytes are announced, 1 are left"),
    "unknown section": (HEADER + b"\x7f\0", 8, "malformed section id: 127"),
    "two of a kind": (binary((1, b"\0"), (1, b"\0")), 11, "section 1 is out of order, or there are two"),
    "wrong order": (binary((3, b"\0"), (1, b"\0")), 11, "section 1 is out of order, or there are two"),
    "too long": (binary((1, b"\0\0")), 11, "section 1 has more bytes than it needs"),
    "number": (binary((1, b"\xff\xff\xff\xff\x7f")), 10, "a number of more than 32 bits"),
    "type": (binary((3, b"\1\0")), 11, "unknown type 0"),
    "bodies": (binary((1, b"\1\x60\0\0"), (3, b"\1\0")), 18, "1 functions, but 0 bodies"),
    "function": (binary((7, b"\1\1x\0\0")), 14, "unknown function 0"),
    "kind": (binary((7, b"\1\1x\5\0")), 13, "unknown kind 0x5"),
    "announced": (binary((1, b"\x7f\x60")), 10, "unexpected end: 127 items are announced"),
    "name": (binary((7, b"\1\1\xff\0\0")), 12, "a name that is not UTF-8"),
    "twice": (
        functions([b"\0\x0b"], exports=[b"_start", b"a", b"a"]), 34, "duplicate export name"
    ),
    "limits": (binary((5, b"\1\x10\1")), 11, "malformed limits flags: 0x10"),
}  # fmt: skip

GOOD = {
    "least": wat(START),
    "a large table and memory": wat(f"{START} (memory 16384) (table 1000000 funcref)"),
    "memories and tables": wat(f"{START} {'(memory 1)' * 4} {'(table 1 funcref)' * 16}"),
    "every kind of guest": guest(leave(3), ready="", section=""),
    "names": named(b"x\ny"),
    "exports": functions([b"\0\x0b"], exports=[b"_start", *(b"e%d" % index for index in range(2000))]),
    "start is an import": wat('(func $f) (export "a" (func $f)) (export "_start" (func $f))'),
    "a start section": wat(f"(func $f) (start $f) {START}"),
    "data that fits": wat(f'{START} (memory 1) (data (i32.const 65535) "x")'),
    "64-bit memory": wat(f"{START} (memory i64 1)"),
    "vectors, tags, references": wat(
        f"{START} (tag) (func (param v128 externref funcref)) (global exnref (ref.null exn))"
    ),
    "custom sections": wat(START) + b"\0\4\3abc" + b"\0\1\0",
}


def problems(directory: Path, content: bytes, ready: ReadyMode | None = None) -> list[str]:
    """What is wrong with a module."""
    file = directory / "m.wasm"
    file.write_bytes(content)
    fd = os.open(file, os.O_RDONLY)
    try:
        verdict = judge.judge(fd, "m.wasm", ready, {"PATH": ""})
    finally:
        os.close(fd)
    assert all(str(finding).isprintable() for finding in verdict.findings)
    return [finding.message for finding in verdict.findings]


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No runtime is found: neither beside this Python nor anywhere else."""
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "weft-pack")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))


def run(store: Path) -> Done:
    done = subprocess.run(
        [PROGRAMS / "weft-runtime-wasmtime", APP_ID, "1"],
        env={"WEFT_APP_STORE": str(store)}, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("name", WRONG)
def test_a_module_that_cannot_be_started(tmp_path: Path, name: str) -> None:
    fields, expected = WRONG[name]
    package = install(tmp_path, wat(fields))
    done = pack("check", package)
    # In the order of the file; what has no place in it comes last.
    assert done.status == 1
    assert sorted(line.partition(": ")[2] for line in done.problems) == sorted(expected)
    assert run(tmp_path).out == ""


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("no_engine")
def test_the_same_without_the_engine(tmp_path: Path, name: str) -> None:
    fields, expected = WRONG[name]
    assert problems(tmp_path, wat(fields)) == expected


@pytest.mark.parametrize("name", ENGINE_ONLY)
def test_what_only_the_engine_sees(tmp_path: Path, name: str) -> None:
    content, beginning = ENGINE_ONLY[name]
    done = pack("check", install(tmp_path, content))
    assert done.status == 1
    assert len(done.problems) == 1
    assert done.err.partition(": ")[2].startswith(beginning)
    assert run(tmp_path).out == ""


def test_the_engine_tells_where(tmp_path: Path) -> None:
    content = functions([b"\0\xff\x0b"])
    done = pack("check", install(tmp_path, content))
    assert done.err.startswith(f"app.wasm:{content.index(0xFF):#x}: is not a valid module: ")


def test_wrong_imports_are_told_before_wrong_code(tmp_path: Path) -> None:
    content = binary(
        (1, b"\1\x60\0\0"), (2, b"\1\1x\1y\0\0"), (3, b"\1\0"), (10, b"\1" + sized(b"\0\xff\x0b"))
    )
    done = pack("check", install(tmp_path, content))
    assert [line.partition(" ")[0] for line in done.problems] == [
        "app.wasm:0x11:",
        "app.wasm:",
    ]


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.usefixtures("no_engine")
def test_a_malformed_module_without_the_engine(name: str) -> None:
    content, offset, complaint = MALFORMED[name]
    with pytest.raises(Malformed) as caught:
        reader.read(content)
    assert (caught.value.offset, caught.value.complaint) == (offset, complaint)
    assert not isinstance(caught.value, Unsupported)
    with pytest.raises(wasmtime.WasmtimeError):
        wasmtime.Module(wasmtime.Engine(), content)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_module_passes_and_starts(tmp_path: Path, name: str) -> None:
    assert pack("check", install(tmp_path, GOOD[name])) == (0, "OK\n", "")
    assert run(tmp_path).out == "READY\n"


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.usefixtures("no_engine")
def test_a_good_module_passes_without_the_engine(tmp_path: Path, name: str) -> None:
    assert problems(tmp_path, GOOD[name]) == []


def test_without_the_engine_there_is_a_note(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    done = pack("check", install(tmp_path, GOOD["least"]), python=tmp_path / "venv/bin/python")
    note = "weft-pack: the engine is not installed: the code of the module was not validated\n"
    assert done == (0, "OK\n", note)


def newer(types: bytes) -> bytes:
    """A module with types of a form that nobody knows yet, and a plain function `_start`."""
    return binary(
        (1, types), (3, b"\1\0"), (7, b"\1" + sized(b"_start") + b"\0\0"), (10, b"\1" + sized(b"\0\x0b"))
    )


@pytest.mark.parametrize(
    "fields",
    [
        "(type (struct)) (type (array (mut i8)))",
        "(rec (type $a (sub (struct (field (ref null $a)) (field i16)))) (type (sub final $a (struct (field (ref null $a)) (field i16)))))",
        "(func (param anyref eqref i31ref structref arrayref nullref (ref extern) (ref null func)))",
        "(table 1 (ref null any)) (global (ref null none) (ref.null none))",
    ],
)
@pytest.mark.usefixtures("no_engine")
def test_types_of_garbage_collection_can_be_read(tmp_path: Path, fields: str) -> None:
    content = wat(f"{fields} {START}")
    assert reader.read(content).unread is None
    assert problems(tmp_path, content) == []
    assert could_start(content)


def test_what_the_reader_does_not_know_is_left_to_the_engine(tmp_path: Path) -> None:
    content = wat(f"(func $f) (table 1 (ref func) (ref.func $f)) {START}")
    assert reader.read(content).unread is not None
    assert pack("check", install(tmp_path, content)) == (0, "OK\n", "")
    assert run(tmp_path).out == "READY\n"


@pytest.mark.usefixtures("no_engine")
def test_what_the_reader_does_not_know_does_not_pass_without_the_engine(tmp_path: Path) -> None:
    assert problems(tmp_path, newer(b"\2\x60\0\0\x5d\0")) == [
        "has a type of the form 0x5d: whether it can be run only the engine can tell, which is not installed"
    ]


@pytest.mark.usefixtures("no_engine")
def test_beside_what_the_reader_does_not_know_it_sees_what_is_certain(tmp_path: Path) -> None:
    content = newer(b"\2\x60\0\0\x5d\0")
    assert problems(tmp_path, content.replace(b"_start", b"_strat")) == [
        "exports no _start [a WASI command has one; a library or a reactor does not]"
    ]


def test_export_mode_needs_the_export(tmp_path: Path) -> None:
    expected = ["exports no weft_ready, but its manifest has runtime.ready = 'export'"]
    assert problems(tmp_path, wat(START), ReadyMode.EXPORT) == expected
    install(tmp_path, wat(START), toml=manifest(runtime='ready = "export"'))
    assert run(tmp_path).out == ""


def test_a_module_made_to_be_large_is_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "ITEMS_MAX", 1000)
    for content in (
        binary((1, leb(1001) + b"\x60\0\0" * 1001)),
        HEADER + b"\0\1\0" * 1001,
        binary((10, leb(1001) + b"\0" * 1001)),
    ):
        unread = reader.read(content).unread
        assert unread is not None
        assert unread.complaint == "more than 1000 items"


@pytest.mark.parametrize("name", wasi.FUNCTIONS)
def test_the_engine_offers_each_function_of_wasi_with_this_type(name: str) -> None:
    parameters, results = wasi.FUNCTIONS[name]
    signature = f"(param {' '.join(parameters)}) (result {' '.join(results)})"
    link(wat(f'(import "wasi_snapshot_preview1" "{name}" (func {signature})) {START}'))


def test_the_engine_offers_no_other_function() -> None:
    # Its linker does not tell what it has, but each name must be a word of its library.
    library = next(Path(wasmtime.__file__).parent.glob("*/_libwasmtime.so")).read_bytes()
    known = set(wasi.FUNCTIONS)
    words = {
        word
        for word in map(bytes.decode, set(re.findall(rb"[a-z]+_[a-z_]+", library)))
        if word.startswith(
            ("args_", "clock_", "environ_", "fd_", "path_", "poll_", "proc_", "random_", "sched_", "sock_")
        )
    }
    engine = Engine()
    extra = set()
    for word in sorted(words - known):
        content = wat(f'(import "wasi_snapshot_preview1" "{word}" (func))')
        try:
            engine.linker.instantiate_pre(wasmtime.Module(engine.engine, content))
        except wasmtime.WasmtimeError as error:
            if "unknown import" in str(error):
                continue
        extra.add(word)
    assert extra == set()


def link(content: bytes) -> None:
    engine = Engine()
    Guest(engine).link(wasmtime.Module(engine.engine, content))


def could_start(content: bytes) -> bool:
    """What a launch makes of a module, in this process."""
    engine = Engine()
    try:
        compiled = wasmtime.Module(engine.engine, content)
    except wasmtime.WasmtimeError:
        return False
    start, ready = entries(compiled, "_start", "weft_ready")
    if start is None or not start.is_plain_function or (ready is not None and not ready.is_plain_function):
        return False
    guest_ = Guest(engine)
    try:
        guest_.instantiate(guest_.link(compiled), GuestSetup((), (), ()))
    except WeftError:
        return False
    return True


TYPES = st.lists(st.sampled_from(["i32", "i64", "f32", "f64", "externref"]), max_size=3).map(" ".join)
NAMES = st.sampled_from(["fd_write", "proc_exit", "args_get", "sched_yield", "fd_readdir", "nothing"])


@st.composite
def modules(draw: st.DrawFn) -> bytes:
    fields = []
    for _ in range(draw(st.integers(0, 3))):
        name = draw(NAMES)
        parameters, results = wasi.FUNCTIONS.get(name, ((), ()))
        if draw(st.integers(0, 3)) == 0:
            parameters, results = tuple(draw(TYPES).split()), tuple(draw(TYPES).split())
        place = "wasi_snapshot_preview1" if draw(st.integers(0, 5)) else "env"
        fields.append(
            f'(import "{place}" "{name}" (func (param {" ".join(parameters)}) (result {" ".join(results)})))'
        )
    for name in draw(st.sets(st.sampled_from(["_start", "weft_ready", "other"]))):
        kind = draw(st.sampled_from(["func", "func", "func", "taking", "memory", "table", "global"]))
        fields.append(
            {
                "func": f'(func (export "{name}"))',
                "taking": f'(func (export "{name}") (param {draw(TYPES)}) (result {draw(TYPES)}) unreachable)',
                "memory": f'(memory (export "{name}") {draw(st.sampled_from([0, 1, 16384, 16385]))})',
                "table": f'(table (export "{name}") {draw(st.sampled_from([0, 10**6, 10**6 + 1]))} funcref)',
                "global": f'(global (export "{name}") i32 (i32.const 0))',
            }[kind]
        )
    return wat(" ".join(fields))


@given(modules())
@settings(deadline=None)
def test_the_reader_and_the_engine_agree_on_whole_modules(content: bytes) -> None:
    contents = reader.read(content)
    assert (not rules.complaints(contents, None)) == could_start(content)


@given(st.sampled_from(sorted(GOOD)), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_what_the_engine_accepts_the_reader_can_read(name: str, chance: random.Random) -> None:
    content = bytearray(GOOD[name])
    for _ in range(chance.randrange(1, 4)):
        content[chance.randrange(8, len(content))] = chance.randrange(256)
    try:
        contents = reader.read(bytes(content))
    except Malformed:
        assert not could_start(bytes(content))
        return
    if could_start(bytes(content)):
        assert rules.complaints(contents, ReadyMode.HOST) == []


@given(st.binary(max_size=60))
def test_the_reader_ends_on_anything(content: bytes) -> None:
    with suppress(Malformed):
        reader.read(HEADER + content)
