# SPDX-License-Identifier: Apache-2.0
"""What we say of the engine's library by ourselves is what its binding declares: an engine that is another is noticed."""

import ctypes
import os
from pathlib import Path

import pytest
import wasmtime
from wasmtime import _bindings, _ffi

from weft_runtime import limits, ready
from weft_runtime.runtime import engine
from weft_runtime.settings import EngineKind
from weft_runtime.thin import library, session
from weft_runtime.thin.library import PROTOTYPES, Library, Words


def kind_of(declared: object) -> object:
    """How we pass what the binding declares: pointers of any kind are numbers, and so are enumerations."""
    if declared is None:
        return None
    assert isinstance(declared, type)
    function = ctypes.CFUNCTYPE(None).__mro__[1]
    is_pointer = issubclass(declared, (ctypes._Pointer, ctypes.c_void_p, function))
    return ctypes.c_void_p if is_pointer else declared


@pytest.mark.parametrize("name", sorted(PROTOTYPES))
def test_a_function_is_declared_as_the_binding_declares_it(name: str) -> None:
    function = getattr(_bindings, f"_{name}")
    result, arguments = PROTOTYPES[name]
    assert kind_of(function.restype) is result
    assert [kind_of(kind) for kind in function.argtypes] == [*arguments]


def test_every_function_is_in_the_library() -> None:
    call = Library()
    assert all(hasattr(call, name) for name in PROTOTYPES)


def test_a_library_without_one_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOTYPES, "wasmtime_of_another_release", (None, ()))
    with pytest.raises(OSError, match="has no wasmtime_of_another_release"):
        Library()


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (library.POINTER, ctypes.c_void_p),
        (library.TRAP, ctypes.c_void_p),
        (library.STATUS, ctypes.c_int),
        (library.VECTOR, _ffi.wasm_exporttype_vec_t),
        (library.VECTOR, _ffi.wasm_byte_vec_t),
        (library.INSTANCE, _ffi.wasmtime_instance_t),
        (library.EXTERN, _ffi.wasmtime_extern_t),
        (library.NAME, _ffi.wasm_name_t),
    ],
)
def test_there_is_room_for_what_the_library_writes(place: int, kind: type[ctypes.Structure]) -> None:
    places = [
        library.POINTER,
        library.TRAP,
        library.STATUS,
        library.VECTOR,
        library.INSTANCE,
        library.EXTERN,
    ]
    ends = sorted([*places, library.NAME, len(Words().words)])
    assert 8 * (ends[ends.index(place) + 1] - place) >= ctypes.sizeof(kind)


def test_parts_of_structures_are_where_we_read_them() -> None:
    assert _ffi.wasmtime_extern_t.of.offset == library.EXTERN_UNION
    assert _ffi.wasmtime_extern_union_t.func.offset == 0
    for vector in (_ffi.wasm_exporttype_vec_t, _ffi.wasm_byte_vec_t, _ffi.wasm_valtype_vec_t):
        assert (vector.size.offset, vector.data.offset) == (0, 8)  # type: ignore[attr-defined]
        assert ctypes.sizeof(vector) == 16
    kinds = [kind.name for kind in _bindings.wasm_externkind_enum]
    assert kinds.index("WASM_EXTERN_FUNC") == library.EXTERN_FUNC
    assert _ffi.WASMTIME_EXTERN_MEMORY.value == library.MEMORY
    assert ctypes.sizeof(_bindings.wasm_externkind_t) == ctypes.sizeof(ctypes.c_uint8)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_machine_has_words_of_64_bits_and_the_library_where_the_binding_looks(machine: str) -> None:
    """Nothing else of what is compared here depends on the machine: all fields are of sizes that are given."""
    assert library.PLATFORMS[machine] == f"linux-{machine}"
    assert ctypes.sizeof(ctypes.c_void_p) == ctypes.sizeof(ctypes.c_size_t) == 8


def test_the_library_is_that_of_the_binding() -> None:
    assert (
        Path(library.path())
        == Path(wasmtime.__file__).parent / f"linux-{os.uname().machine}/_libwasmtime.so"
    )
    assert library.path() == str(_ffi.filename)


def test_it_takes_the_code_that_the_full_runtime_takes() -> None:
    assert Library().compatibility() == engine.compatibility(EngineKind.NATIVE)


def test_what_a_fork_does_not_import_is_the_same() -> None:
    assert limits.STACK.value == session.STACK_MIN
    assert ready.READY_LINE == session.READY_LINE
