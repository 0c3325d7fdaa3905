# SPDX-License-Identifier: Apache-2.0
"""A machine that does nothing, with which a fork server follows plans before its first fork.

What the interpreter writes when it runs code for the first times, each fork would write to pages of its own: the code
that it specializes (PEP 659), the methods that it remembers, the symbols that are looked up. Nothing here calls the
engine: of what that makes, random numbers above all, no two sessions may have the same.
"""

from __future__ import annotations

import ctypes

from weft_runtime.plan import Plan
from weft_runtime.thin.library import PROTOTYPES, Library
from weft_runtime.thin.session import Machine

TIMES = 16
"""Code is specialized when it has run eight times, and what did not work out is tried again a little later."""

PLAN = Plan(
    app_id=b"org.example.practice", session_id=b"1", argv=(b"app.wasm", b"argument"), environment=((b"NAME", b"value"),),
    preopens=(), ready=b"", memory=1, memories=1, table_elements=1, tables=1, command=(b"program", b"app", b"1"),
).encode()  # fmt: skip

# What the machine says that a module exports, as the library would: a list of one function without parameters.
_NAME = ctypes.create_string_buffer(b"_start", 6)
_EXPORT = (ctypes.c_uint64 * 2)(len(_NAME), ctypes.addressof(_NAME))
_LIST = (ctypes.c_uint64 * 1)(ctypes.addressof(_EXPORT))
_EXPORTS = (ctypes.c_uint64 * 2)(len(_LIST), ctypes.addressof(_LIST))
_NOTHING = (ctypes.c_uint64 * 1)()


def machine(real: Machine) -> Machine:
    """One of the very classes that `real` has, whose every module exports a function, which does nothing."""
    return real.with_library(_library())


def _library() -> Library:
    library, libc = Library.__new__(Library), ctypes.CDLL(None)
    for name, (result, arguments) in PROTOTYPES.items():
        # Whatever it is called with, it gives 0.
        still = libc["sched_yield"]
        still.restype, still.argtypes = result, arguments
        setattr(library, name, _STILL.get(name, _true if result is ctypes.c_bool else still))
    return library


def _true(*_: object) -> bool:
    return True


_STILL = {
    "wasmtime_module_exports": lambda _, vector: ctypes.memmove(vector, _EXPORTS, 16),
    "wasm_exporttype_name": lambda _: ctypes.addressof(_EXPORT),
    "wasm_functype_params": lambda _: ctypes.addressof(_NOTHING),
    "wasm_functype_results": lambda _: ctypes.addressof(_NOTHING),
}
