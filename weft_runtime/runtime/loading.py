# SPDX-License-Identifier: Apache-2.0
"""A module on its way into this process: from the cache of compiled code, or else from the compiler."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from weft_runtime import code_cache, limits
from weft_runtime.code_cache import Caches, Key, Lookup, Vain, Why
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable
from weft_runtime.ids import AppId
from weft_runtime.journal import Event, Level, Log
from weft_runtime.limits import CompileBounds, Limit
from weft_runtime.manifest import ReadyMode
from weft_runtime.runtime.app import CodeSettings
from weft_runtime.runtime.engine import CodeRefused, Module, compatibility, machine

_IN_VAIN = {Problem.COMPILE_LIMIT: Why.LIMIT, Problem.COMPILE_MEMORY: Why.MEMORY}
"""What of the compiler's errors the next launch had better not try to bring about again."""

_LOOK_S = 1.0
"""Seconds between two looks whether the background compiler is done."""


class Launch(NamedTuple):
    """What a launch does where no code is kept: it compiles, within less than an installation does if that is left to do."""

    app_id: AppId
    has_background: bool
    """Whether a background compiler of root's is asked for the app, too."""
    may_wait: bool
    """Whether it waits for that one, rather than to be tried again."""
    tell: Callable[[str], None]
    """Called every few seconds with what takes its time: that does not count into the time until READY."""

    @property
    def hint(self) -> str:
        how = ", with higher limits" if self.has_background else ""
        return f"try again, or compile it ahead{how}: 'weft-pack compile {self.app_id}'"

    @property
    def cpu(self) -> Limit:
        """The bound on CPU time: a lower one only where somebody does what is beyond it."""
        return limits.LAUNCH_COMPILE_CPU if self.has_background else limits.COMPILE_CPU


def _find(settings: CodeSettings, module_fd: int) -> Lookup | None:
    if settings.caches is None or (made_by := compatibility(settings.engine)) is None:
        return None
    return code_cache.find(settings.caches, module_fd, made_by)


class Loading:
    """Loads one module; where it is being compiled the guest can be prepared meanwhile."""

    def __init__(
        self,
        settings: CodeSettings,
        module_fd: int,
        source: str,
        log: Log,
        *,
        launch: Launch | None = None,
        copy_to: int | None = None,
        ready: ReadyMode | None = None,
    ) -> None:
        """Begin with the module open on `module_fd`; `source` is its path for messages, `ready` what its manifest says.

        What is compiled goes, as a sealed entry, to the file open on `copy_to` as well. Raises WeftError where a `launch`
        had better not compile: COMPILE_LIMIT while the background compiler does, COMPILE_MEMORY where the launch before was
        killed at it, LIMIT_EXCEEDED where even the background could not.
        """
        self.engine = machine(settings.engine)
        self._settings = settings
        self._source = source
        self._log = log
        self._copy_to = copy_to
        self._found = _find(settings, module_fd)
        self._launch = launch
        self._begun_fd: int | None = None
        """Of the note that it has begun to compile."""
        self._module = None if self._found is None else self._load_found(self._found)
        if self._module is None and self._found is not None and launch is not None:
            self._module = self._mind_the_background(self._found, launch, module_fd)
        self.is_new = self._module is None
        """Whether it had to be compiled."""
        self._tell_decision()
        if self._module is None:
            from weft_runtime.runtime.compiler import Bounds, Compilation  # noqa: PLC0415 - only where it must be

            bounds = None if launch is None else Bounds(launch.cpu, hint=launch.hint)
            self._compilation = Compilation(
                self.engine, module_fd, source, settings.compiler_group, bounds, ready
            )

    def result(self) -> Module:
        """The module. Raises WeftError as `Compilation.result` does, or where its code cannot be loaded."""
        if self._module is None:
            launch = self._launch
            tell = None if launch is None else lambda: launch.tell("compiling the module")
            self._note_begun()
            try:
                code_fd = self._compilation.result(tell or (lambda: None))
            except WeftError as error:
                why = _IN_VAIN.get(error.problem)
                self._note_end(None if why is None else Vain(self._bounds, error.message, why=why))
                raise
            finally:
                if self._compilation.note:
                    self._log.debug(f"compiling {self._source}: {self._compilation.note}")
            try:
                self._module = self._load_compiled(code_fd)
            finally:
                os.close(code_fd)
                self._note_end(None)
        return self._module

    def _tell_decision(self) -> None:
        """Say where the code comes from, and why."""
        if self._log.level < Level.DEBUG:
            return
        if self._found is None:
            why = (
                "there is no cache"
                if self._settings.caches is None
                else "no cache has what this engine makes"
            )
        elif self._found.entry is None:
            why = "no cache has its code"
        else:
            why = f"its code is {printable(str(self._found.entry.path))}"
            if self._module is None:
                why += ", which cannot be used"
        what = "loading" if self._module is not None else "compiling"
        self._log.debug(f"{what} {self._source}: {why}")

    def stopped(self) -> None:
        """This process is about to end because it was told to: that it compiled until then is no reason not to again.

        Unless memory was short: then the service manager may be who tells it.
        """
        if self._begun_fd is not None and not self._compilation.is_short_of_memory():
            self._note_end(None)

    def _mind_the_background(self, found: Lookup, launch: Launch, module_fd: int) -> Module | None:
        """Do not compile in vain what is known to need more than a launch may use; None to compile all the same.

        Raises WeftError.
        """
        caches = self._settings.caches
        if caches is None or not launch.has_background:
            return None
        while True:
            self._refuse_what_is_in_vain(caches, found.key, launch)
            own = None if caches.own is None else code_cache.vain(caches.own, found.key)
            # Not for ever: perhaps nobody compiles in the background, or the device was busy just then.
            if own is None or not own.bounds.covers(self._bounds) or not own.is_recent:
                return None
            if own.why is Why.BEGUN:
                # With the status that has the background asked for; the next launch finds a note of the usual kind.
                message = f"{self._source} is not compiled again at once: the launch before this one was killed while it did"
                self._note(Vain(self._bounds, message, why=Why.MEMORY))
                raise WeftError(Problem.COMPILE_MEMORY, message, launch.hint)
            if not launch.may_wait:
                message = f"{self._source} is left to weft-compile.service, which has not compiled it yet: {own.reason}"
                raise WeftError(Problem.COMPILE_LIMIT, message, launch.hint)
            launch.tell("waiting for weft-compile.service to compile the module")
            if code_cache.is_there(caches.system, found.key):
                again = _find(self._settings, module_fd)
                return None if again is None else self._load_found(again)
            time.sleep(_LOOK_S)

    def _refuse_what_is_in_vain(self, caches: Caches, key: Key, launch: Launch) -> None:
        vain = code_cache.vain(caches.system, key)
        if vain is not None and vain.counts(self._bounds):
            message = f"{self._source} could not be compiled in the background either: {vain.reason}"
            hint = f"'weft-pack compile {launch.app_id}' tries it again"
            raise WeftError(Problem.LIMIT_EXCEEDED, message, hint)

    @property
    def _bounds(self) -> CompileBounds:
        """Those of this launch."""
        return CompileBounds.here(limits.COMPILE_CPU if self._launch is None else self._launch.cpu)

    @property
    def _notes(self) -> tuple[Path, Key] | None:
        """Where it is noted for the next launch what became of this one, if somebody else may do better."""
        own = self._settings.caches and self._settings.caches.own
        if self._launch is None or not self._launch.has_background or self._found is None or own is None:
            return None
        return own, self._found.key

    def _note_begun(self) -> None:
        """Before all else: whoever runs out of memory is killed without a last word."""
        if (notes := self._notes) is not None:
            with self._noting():
                self._begun_fd = code_cache.note_begun(*notes, self._bounds)

    def _note_end(self, vain: Vain | None) -> None:
        """It has ended, and was in vain or not."""
        if self._begun_fd is None:
            return
        if vain is not None:
            self._note(vain)
        elif (notes := self._notes) is not None:
            with self._noting():
                code_cache.forget_vain(*notes)
        os.close(self._begun_fd)
        self._begun_fd = None

    def _note(self, vain: Vain) -> None:
        if (notes := self._notes) is not None:
            with self._noting():
                code_cache.note_vain(*notes, vain)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Where nothing can be noted each launch tries for itself."""
        try:
            yield
        except (OSError, WeftError) as error:
            self._log.debug(f"cannot note what becomes of compiling {self._source}: {error}")

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
        problem = f"the compiled code of {self._source} is not kept: {why}"
        self._log.entry(Level.NOTICE, problem, Event.CODE_NOT_KEPT, WEFT_REASON=problem)
        return None
