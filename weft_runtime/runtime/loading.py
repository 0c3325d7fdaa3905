# SPDX-License-Identifier: Apache-2.0
"""A module on its way into this process: from the cache of compiled code, or else from the compiler."""

import os

from weft_runtime import code_cache, limits
from weft_runtime.code_cache import Lookup
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable
from weft_runtime.journal import Event, Log
from weft_runtime.runtime.app import CodeSettings
from weft_runtime.runtime.engine import CodeRefused, Module, compatibility, machine


def load_known(settings: CodeSettings, module_fd: int) -> tuple[Module, int] | None:
    """The module open on `module_fd` with a descriptor of its code, if that is there and nothing is to be said of it.

    Raises WeftError.
    """
    found = _find(settings, module_fd)
    if found is None or found.entry is None:
        return None
    try:
        if not found.complaints:
            return machine(settings.engine).load(found.entry.fd), found.entry.fd
    except CodeRefused:
        pass
    os.close(found.entry.fd)
    return None


def _find(settings: CodeSettings, module_fd: int) -> Lookup | None:
    if settings.caches is None or (made_by := compatibility(settings.engine)) is None:
        return None
    return code_cache.find(settings.caches, module_fd, made_by)


class Loading:
    """Loads one module; where it is being compiled the guest can be prepared meanwhile."""

    def __init__(
        self, settings: CodeSettings, module_fd: int, source: str, log: Log, *, copy_to: int | None = None
    ) -> None:
        """Begin with the module open on `module_fd`; `source` is its path for messages.

        What is compiled goes, as a sealed entry, to the file open on `copy_to` as well.
        """
        self.engine = machine(settings.engine)
        self._settings = settings
        self._source = source
        self._log = log
        self._copy_to = copy_to
        self._found = _find(settings, module_fd)
        self._module = None if self._found is None else self._load_found(self._found)
        self.is_new = self._module is None
        """Whether it had to be compiled."""
        if self._module is None:
            from weft_runtime.runtime.compiler import Compilation  # noqa: PLC0415 - only where it must be

            time_limit = limits.COMPILE_SECONDS if copy_to is None else limits.COMPILE_AHEAD_SECONDS
            self._compilation = Compilation(
                self.engine, module_fd, source, settings.compiler_group, time_limit
            )

    def result(self) -> Module:
        """The module. Raises WeftError as `Compilation.result` does, or where its code cannot be loaded."""
        if self._module is None:
            code_fd = self._compilation.result()
            try:
                if self._compilation.note:
                    self._log.debug(f"compiling {self._source}: {self._compilation.note}")
                self._module = self._load_compiled(code_fd)
            finally:
                os.close(code_fd)
        return self._module

    def _load_found(self, found: Lookup) -> Module | None:
        for complaint in found.complaints:
            self._reject(complaint)
        if found.entry is None:
            return None
        try:
            return self.engine.load(found.entry.fd)
        except CodeRefused as error:
            self._reject(f"{found.entry.path} {error}")
            return None
        finally:
            os.close(found.entry.fd)

    def _reject(self, complaint: str) -> None:
        self._log.warning(f"{complaint}, ignoring this compiled code", Event.CODE_REJECTED)

    def _load_compiled(self, code_fd: int) -> Module:
        if self._copy_to is not None:
            try:
                code_cache.copy(code_fd, self._copy_to)
            except OSError as error:
                raise from_os_error("write the compiled code", error) from None
        kept_fd = self._keep(code_fd)
        try:
            if kept_fd is not None:
                return self.engine.load(kept_fd)
            # Mapped, it would go on to count as memory of the control group in which it was compiled.
            return self.engine.load(code_fd, mapped=self._settings.compiler_group is None)
        except CodeRefused as error:
            message = f"the compiled code of {self._source} {error}"
            raise WeftError(Problem.OS_ERROR, message) from None
        finally:
            if kept_fd is not None:
                os.close(kept_fd)

    def _keep(self, code_fd: int) -> int | None:
        """A descriptor of the new entry in the cache, if there can be one."""
        own = self._settings.caches and self._settings.caches.own
        if self._found is None or own is None:
            return None
        try:
            return code_cache.keep(own, self._found, code_fd)
        except WeftError as error:
            why = error.message
        except OSError as error:
            why = printable(error.strerror or str(error))
        self._log.notice(f"the compiled code of {self._source} is not kept: {why}")
        return None
