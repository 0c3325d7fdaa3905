# SPDX-License-Identifier: Apache-2.0
"""What every session does, done once by a fork before it knows which session it will be.

A fork shares its memory with the fork server until it writes to it, and then waits for the kernel at each page.
After a rehearsal most of these pages are its own. It is the fork that rehearses: the fork server never runs anything, and
what the engine keeps for a guest, such as its generator of random numbers, must not be the same in two sessions.
"""

import os

from weft_runtime import code_cache, manifest, policy, settings
from weft_runtime.code_cache import Caches
from weft_runtime.errors import WeftError
from weft_runtime.runtime import arguments, engine
from weft_runtime.runtime.compiler import Compilation
from weft_runtime.runtime.engine import Guest, GuestSetup
from weft_runtime.settings import EngineKind

# (module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
#   (memory (export "memory") 1) (func (export "_start")))
_MODULE = (
    b"\0asm\1\0\0\0\1\x08\2\x60\1\x7f\0\x60\0\0\2\x24\1\x16wasi_snapshot_preview1\x09proc_exit\0\0"
    b"\3\2\1\1\5\3\1\0\1\7\x13\2\6memory\2\0\6_start\0\1\n\4\1\2\0\x0b"
)
_MANIFEST = b"""\
[package]
id = "org.example.rehearsal"
name = "Rehearsal"
version = "1.0.0"

[runtime]
module = "app.wasm"

[ui]
entry = "ui/index.html"
"""


class Rehearsal:
    """The course of a session up to READY, with a module of ours."""

    def __init__(self, kind: EngineKind) -> None:
        """Compile the module, in a child: whoever makes a rehearsal compiles nothing. Raises WeftError or OSError."""
        self._engine = engine.machine(kind)
        self._module_fd = os.memfd_create("weft-rehearsal")
        os.write(self._module_fd, _MODULE)
        self._code_fd = Compilation(self._engine, self._module_fd, "the rehearsal", None).result()
        key = code_cache.key_of(self._code_fd)
        assert key is not None  # it has just been sealed
        engine.tell_compatibility(kind, key.engine)

    def perform(self, program: str) -> None:
        """Raises WeftError."""
        arguments.parse(["org.example.rehearsal", "1"], program)
        manifest.parse(_MANIFEST, "the rehearsal")
        try:
            policy.read()
        except WeftError:
            pass  # the session itself is the one to say so
        made_by = engine.compatibility(self._engine.kind)
        assert made_by is not None  # the constructor has told it
        found = code_cache.find(Caches(own=settings.cache_directory()), self._module_fd, made_by)
        if found.entry is not None:
            os.close(found.entry.fd)
        module = self._engine.load(self._code_fd)
        guest = Guest(self._engine, GuestSetup(("app.wasm",), (), ()))
        engine.entries(module, "_start", "weft_ready")
        guest.instantiate(guest.link(module))
        os.close(self._code_fd)
        os.close(self._module_fd)
