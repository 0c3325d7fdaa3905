# SPDX-License-Identifier: Apache-2.0
"""What every session does, done once by a fork before it knows which session it will be.

A fork shares its memory with the fork server until it writes to it, and then waits for the kernel at each page.
After a rehearsal most of these pages are its own. It is the fork that rehearses: the fork server never runs anything, and
what the engine keeps for a guest, such as its generator of random numbers, must not be the same in two sessions.
"""

import os
from pathlib import Path

from weft_runtime import code_cache, policy, settings, store
from weft_runtime.code_cache import Caches
from weft_runtime.errors import WeftError
from weft_runtime.ids import AppId
from weft_runtime.runtime import arguments, engine
from weft_runtime.runtime.compiler import Compilation
from weft_runtime.runtime.engine import Guest, GuestSetup
from weft_runtime.settings import EngineKind
from weft_runtime.wasm import START, WEFT_READY

_STORE = Path(__file__).with_name("rehearsal_store")
_APP_ID = AppId.parse("org.weft.rehearsal")


class Rehearsal:
    """The course of a session up to READY, with a package of ours."""

    def __init__(self, kind: EngineKind) -> None:
        """Compile the module, in a child: whoever makes a rehearsal compiles nothing. Raises WeftError or OSError."""
        self._engine = engine.machine(kind)
        self._caches = Caches(own=settings.cache_directory())
        package = store.open_package(_APP_ID, (_STORE,))
        self._code_fd = Compilation(self._engine, package.module_fd, "the rehearsal", None).result()
        key = code_cache.key_of(self._code_fd)
        assert key is not None  # it has just been sealed
        self._made_by = key.engine
        engine.tell_compatibility(kind, key.engine)
        self._keep(package.module_fd)
        os.close(package.module_fd)

    def perform(self) -> None:
        """Do it, once in a process. Raises WeftError."""
        arguments.parse([_APP_ID, "1"], "weft-runtime")
        package = store.open_package(_APP_ID, (_STORE,))
        try:
            policy.read()
        except WeftError:
            pass  # the session itself is the one to say so
        found = code_cache.find(self._caches, package.module_fd, self._made_by)
        # Never what was found, which a session could have written: what was compiled here, and nobody can change.
        module = self._engine.load(self._code_fd)
        engine.entries(module, START, WEFT_READY)
        guest = Guest(self._engine)
        guest.instantiate(guest.link(module), GuestSetup(("app.wasm",), (), ()))
        for fd in (package.module_fd, self._code_fd, *(() if found.entry is None else (found.entry.fd,))):
            os.close(fd)

    def _keep(self, module_fd: int) -> None:
        """Put the code where that of apps is, so that finding it is part of the rehearsal."""
        found = code_cache.find(self._caches, module_fd, self._made_by)
        if found.entry is not None:
            os.close(found.entry.fd)
        elif self._caches.own is not None:
            try:
                os.close(code_cache.keep(self._caches.own, found, self._code_fd))
            except (OSError, WeftError):
                pass  # then it is not
