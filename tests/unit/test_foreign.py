# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.wasm.foreign: what a program is told by what it imports."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft_runtime.wasm import foreign
from weft_runtime.wasm.reader import Import, Module

WASI = [("wasi_snapshot_preview1", "fd_write"), ("wasi_snapshot_preview1", "proc_exit")]
EMSCRIPTEN = "it was built by Emscripten for JavaScript: build it with -sSTANDALONE_WASM"
GO = "it was built by Go for a browser (GOOS=js): build it with GOOS=wasip1"
WASM_BINDGEN = "it was built by wasm-bindgen for a browser: build it for the target wasm32-wasip1"
ASSEMBLYSCRIPT = "it looks like AssemblyScript without WASI: build it with @assemblyscript/wasi-shim"


def diagnose(names: list[tuple[str, str]]) -> str | None:
    """What is said of a module that imports this: functions, and a memory where it has that name."""
    imports = [
        Import(module, name, "memory" if name == "memory" else "function", None, 0) for module, name in names
    ]
    return foreign.diagnose(Module(tuple(imports), (), (), ()))


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        (
            "wasi_unstable", "fd_write",
            "it was built for WASI snapshot 0 (wasi_unstable): rebuild it with a current toolchain",
        ),
        ("go", "runtime.wasmExit", GO),
        ("gojs", "runtime.wasmExit", GO),
        (
            "wasi", "thread-spawn",
            "it uses WASI threads, which the engine does not offer: build it without threads",
        ),
        ("wbg", "__wbg_log_1d3ae0273d8f4f8a", WASM_BINDGEN),
        ("__wbindgen_placeholder__", "__wbindgen_throw", WASM_BINDGEN),
        ("a", "b", "it looks like a minified Emscripten program: build it with -sSTANDALONE_WASM"),
        ("env", "emscripten_resize_heap", EMSCRIPTEN),
        ("env", "_emscripten_memcpy_js", EMSCRIPTEN),
        ("env", "__syscall_openat", EMSCRIPTEN),
        ("env", "invoke_vii", EMSCRIPTEN),
        ("env", "__cxa_throw", EMSCRIPTEN),
        ("env", "_embind_register_void", EMSCRIPTEN),
        ("env", "memory", "it expects its memory from its host: link it without --import-memory"),
        ("env", "abort", ASSEMBLYSCRIPT),
        (
            "wasi:cli/run@0.2.6", "run",
            "it imports an interface of the component model, but is no component itself",
        ),
    ],
)  # fmt: skip
def test_a_toolchain_is_told_by_its_imports(module: str, name: str, hint: str) -> None:
    assert diagnose([(module, name)]) == hint
    assert diagnose([*WASI, (module, name), *WASI]) == hint


@pytest.mark.parametrize(
    "names",
    [[], WASI, [("env", "print")], [("", "")], [("Go", "x")], [("host", "abort")], [("env", "emscripten")]],
)
def test_of_an_unknown_program_nothing_is_said(names: list[tuple[str, str]]) -> None:
    assert diagnose(names) is None


def test_emscripten_is_told_wherever_its_own_imports_stand() -> None:
    assert diagnose([("env", "emscripten_resize_heap"), ("env", "abort")]) == EMSCRIPTEN
    assert diagnose([("env", "abort"), ("env", "emscripten_resize_heap")]) == EMSCRIPTEN


@given(st.lists(st.tuples(st.text(st.characters()), st.text(st.characters())), max_size=4))
def test_nothing_of_a_hostile_name_is_repeated(names: list[tuple[str, str]]) -> None:
    hint = diagnose([("env\n", "x\n"), *names])
    assert hint is None or hint.isprintable()


def test_names_of_any_length_and_number_are_looked_at_in_time() -> None:
    long = "a:" + "b/" * 2**20
    names = [(long, long), *((f"m{number}", f"n{number}") for number in range(100_000))]
    begun = time.process_time()
    assert diagnose(names) is not None
    assert time.process_time() - begun < 5
