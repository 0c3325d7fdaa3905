# SPDX-License-Identifier: Apache-2.0
"""The engine's library, called directly: the binding around it takes longer to import than a session takes to run.

The library is the binding's own. `PROTOTYPES` and the sizes are what a test compares with the binding's declarations.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import c_bool, c_int64, c_size_t, c_uint8, c_uint64, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BINDING = "wasmtime"

PLATFORMS = {"x86_64": "linux-x86_64", "aarch64": "linux-aarch64"}
"""Where the binding keeps the library, by the machine of uname(2)."""

_P = c_void_p  # all that is pointed to is opaque, or laid out by hand in memory of ours

PROTOTYPES = {
    "wasm_config_new": (_P, ()),
    "wasmtime_config_parallel_compilation_set": (None, (_P, c_bool)),
    "wasm_engine_new_with_config": (_P, (_P,)),
    "wasmtime_module_new": (_P, (_P, _P, c_size_t, _P)),
    "wasmtime_module_serialize": (_P, (_P, _P)),
    "wasmtime_linker_new": (_P, (_P,)),
    "wasmtime_linker_define_wasi": (_P, (_P,)),
    "wasmtime_linker_instantiate_pre": (_P, (_P, _P, _P)),
    "wasmtime_store_new": (_P, (_P, _P, _P)),
    "wasmtime_store_context": (_P, (_P,)),
    "wasmtime_store_limiter": (None, (_P, c_int64, c_int64, c_int64, c_int64, c_int64)),
    "wasmtime_module_deserialize_file": (_P, (_P, _P, _P)),
    "wasmtime_module_exports": (None, (_P, _P)),
    "wasm_exporttype_name": (_P, (_P,)),
    "wasm_exporttype_type": (_P, (_P,)),
    "wasm_exporttype_vec_delete": (None, (_P,)),
    "wasm_externtype_kind": (c_uint8, (_P,)),
    "wasm_externtype_as_functype_const": (_P, (_P,)),
    "wasm_functype_params": (_P, (_P,)),
    "wasm_functype_results": (_P, (_P,)),
    "wasi_config_new": (_P, ()),
    "wasi_config_set_argv": (c_bool, (_P, c_size_t, _P)),
    "wasi_config_set_env": (c_bool, (_P, c_size_t, _P, _P)),
    "wasi_config_inherit_stdout": (None, (_P,)),
    "wasi_config_inherit_stderr": (None, (_P,)),
    "wasi_config_preopen_dir": (c_bool, (_P, _P, _P, c_bool)),
    "wasmtime_context_set_wasi": (_P, (_P, _P)),
    "wasmtime_instance_pre_instantiate": (_P, (_P, _P, _P, _P)),
    "wasmtime_instance_export_get": (c_bool, (_P, _P, _P, c_size_t, _P)),
    "wasmtime_func_call": (_P, (_P, _P, _P, c_size_t, _P, c_size_t, _P)),
    "wasmtime_error_exit_status": (c_bool, (_P, _P)),
    "wasmtime_error_message": (None, (_P, _P)),
    "wasm_trap_message": (None, (_P, _P)),
    "wasmtime_memory_data_size": (c_size_t, (_P, _P)),
}
"""Result and arguments of each function that is called."""

POINTER, TRAP, STATUS, VECTOR, INSTANCE, EXTERN, NAME = 0, 1, 2, 3, 5, 7, 11
"""Where in `Words` there is: a pointer; a pointer to a trap; an int of C; each wasm_*_vec_t, which is a number of elements
and their address; a wasmtime_instance_t; a wasmtime_extern_t; the wasm_name_t of an export."""

_WORDS = 13

EXTERN_UNION = 8
"""Where in a wasmtime_extern_t its union begins, which is the function where it is one: bytes."""

EXTERN_FUNC = 0
"""The kind of a function, of a wasm_externtype_t."""

MEMORY = 3
"""The kind of a memory, of a wasmtime_extern_t."""

EMPTY_MODULE = b"\0asm\1\0\0\0"


def path() -> str:
    """The file of the library. Raises OSError where this machine has none."""
    for finder in sys.meta_path:
        spec = finder.find_spec(BINDING, None)
        if spec is not None and spec.origin is not None:
            directory, _, _ = spec.origin.rpartition("/")
            return f"{directory}/{PLATFORMS.get(os.uname().machine)}/_libwasmtime.so"
    raise OSError(f"{BINDING} is not installed")


class Words:
    """Memory of ours that the library writes to: words of 64 bits, and the address of each place.

    Whatever is made of ctypes anew costs much more than to read these.
    """

    def __init__(self) -> None:
        self.words = (c_uint64 * _WORDS)()
        address = ctypes.addressof(self.words)
        self.pointer, self.trap, self.status, self.vector, self.instance, self.extern, self.name = [
            address + 8 * place for place in (POINTER, TRAP, STATUS, VECTOR, INSTANCE, EXTERN, NAME)
        ]


class Library:
    """The functions of `PROTOTYPES`, as attributes. Pointers are numbers, and None is the one that is null."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self) -> None:
        """Load it. Raises OSError."""
        # Read by the library when it first needs threads: one of its own is as many as a guest can keep busy.
        os.environ["TOKIO_WORKER_THREADS"] = "1"
        library = ctypes.CDLL(path())
        for name, (result, arguments) in PROTOTYPES.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise OSError(f"the engine's library has no {name}") from None
            function.restype = result
            function.argtypes = arguments
            setattr(self, name, function)

    def compatibility(self) -> bytes:
        """The SHA-256 that `runtime.engine.compatibility` finds out, of what native code the engine takes.

        It compiles, so whoever forks has a child ask. Raises OSError where that is not possible.
        """
        from weft_runtime.digest import sha256  # noqa: PLC0415 - for nobody but that child

        ours = Words()
        config = self.wasm_config_new()
        # A thread would not survive a fork.
        self.wasmtime_config_parallel_compilation_set(config, False)
        engine = self.wasm_engine_new_with_config(config)
        if self.wasmtime_module_new(engine, EMPTY_MODULE, len(EMPTY_MODULE), ours.pointer):
            raise OSError("the engine does not compile here")
        if self.wasmtime_module_serialize(ours.words[POINTER], ours.vector):
            raise OSError("the engine does not say what it has compiled")
        digest: bytes = sha256(ctypes.string_at(ours.words[VECTOR + 1], ours.words[VECTOR])).digest()
        return digest
