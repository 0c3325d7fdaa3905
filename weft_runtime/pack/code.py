# SPDX-License-Identifier: Apache-2.0
"""The compiled code of installed apps: made when one is installed, so that its first launch need not."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from weft_runtime import code_cache, settings, store
from weft_runtime.code_cache import Caches, Key, Lookup, Vain, Why
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.ids import AppId
from weft_runtime.integrity import Identity
from weft_runtime.limits import CompileBounds
from weft_runtime.pack import engine
from weft_runtime.pack.engine import Answer, ShortOfMemoryError
from weft_runtime.store import WrongPath

# One type () -> (), one function of it, exported as _start, with an empty body.
_SMALLEST = bytes.fromhex("0061736d01000000 010401600000 03020100 070a01065f73746172740000 0a040102000b")

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Module(NamedTuple):
    """What tells one module from all others; the size spares reading most of them."""

    size: int
    digest: bytes


class Cache(NamedTuple):
    """Where compiled code is kept."""

    directory: Path
    is_public: bool
    """Whether it is for everybody: root's, for the apps in root's stores."""


def cache_for(environ: Mapping[str, str], path: Path) -> Cache | None:
    """Where the code of the apps in the store `path` is kept; None where whoever installs has no such place."""
    if os.geteuid() == 0 and path in settings.SYSTEM_STORES:
        return Cache(Caches().system, is_public=True)
    own = settings.cache_directory(environ)
    return None if own is None else Cache(own, is_public=False)


class TooCostly(WeftError):
    """The compiler ran into a limit, or was short of memory, and that is noted: nobody compiles this module again for now."""


@contextmanager
def receptacle() -> Iterator[int]:
    """An empty file for a compiler to write to, which has no name and can be sealed. Raises WeftError."""
    try:
        fd = os.memfd_create("weft-code", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise from_os_error("make a file in memory", error) from None
    try:
        yield fd
    finally:
        os.close(fd)


def keep(code_fd: int, module: BufferedReader, digest: bytes | None, cache: Cache) -> None:
    """Put into the cache what a compiler has written to `code_fd`, if it is the code of this module.

    The module is not read for it where its digest is known. Raises WeftError.
    """
    key = Key(_sealed(code_fd).engine, digest or _digest(module))
    if (complaint := code_cache.complaint(code_fd, key)) is not None:
        raise WeftError(Problem.INTERNAL_ERROR, f"what the compiler has put out {complaint}")
    found = Lookup(key, Identity.of(os.fstat(module.fileno())), entry=None, complaints=())
    try:
        os.close(code_cache.keep(cache.directory, found, code_fd, public=cache.is_public))
    except OSError as error:
        raise from_os_error(f"write to the cache {quote(str(cache.directory))}", error) from None


def ensure(
    app_id: AppId,
    stores: Sequence[Path],
    environ: Mapping[str, str],
    cache: Cache,
    for_engine: bytes,
    waiting: Callable[[], None],
    *,
    by_hand: bool = True,
) -> bool:
    """Have the code of an installed app in the cache; returns whether it was compiled for that.

    `for_engine` is what `engine_digest` says. What was too costly before is tried again only `by_hand`. Raises
    WeftError as `store.open_package` does, and where the module cannot be compiled or its code not be kept; TooCostly
    where that has just been found out.
    """
    package = store.open_package(app_id, stores)
    with open(package.module_fd, "rb") as module, receptacle() as code_fd:
        found = code_cache.find(Caches(cache.directory), module.fileno(), for_engine)
        if found.entry is not None:
            with open(found.entry.fd, "rb"):
                # A module of another package, or in a file that an upgrade has replaced by the same.
                code_cache.remember(cache.directory, found, public=cache.is_public)
            return False
        bounds = CompileBounds.here()
        before = None if by_hand else code_cache.vain(cache.directory, found.key)
        if before is not None and before.counts(bounds):
            raise WeftError(
                Problem.COMPILE_MEMORY if before.why is Why.MEMORY else Problem.COMPILE_LIMIT,
                f"not compiled again: {before.reason}",
                f"'weft-pack compile {app_id}' does",
            )
        source = printable(str(package.module))
        try:
            answer = _compiled(module.fileno(), environ, code_fd, waiting)
        except ShortOfMemoryError as error:
            if by_hand:
                raise
            complaint = f"{source} {error.complaint}"
            _note_vain(cache, found.key, Vain(bounds, complaint, why=Why.MEMORY))
            raise TooCostly(error.problem, complaint) from None
        if answer.complaint:
            complaint = f"{source} {answer.complaint}"
            if not answer.is_too_costly:
                raise WeftError(Problem.MODULE_INVALID, complaint)
            _note_vain(cache, found.key, Vain(bounds, complaint))
            raise TooCostly(Problem.COMPILE_LIMIT, complaint)
        keep(code_fd, module, found.key.module, cache)
    return True


def _note_vain(cache: Cache, key: Key, vain: Vain) -> None:
    """Raises WeftError."""
    try:
        code_cache.note_vain(cache.directory, key, vain, public=cache.is_public)
    except OSError as error:
        raise from_os_error(f"write to the cache {quote(str(cache.directory))}", error) from None


def engine_digest(environ: Mapping[str, str]) -> bytes:
    """What tells the engine that is installed from others: it is in all code that it makes. Raises WeftError."""
    with receptacle() as module_fd, receptacle() as code_fd:
        os.write(module_fd, _SMALLEST)
        complaint = _compiled(module_fd, environ, code_fd, lambda: None).complaint
        if complaint:
            raise WeftError(
                Problem.INTERNAL_ERROR, f"the engine refuses the smallest module: it {complaint}"
            )
        return _sealed(code_fd).engine


def modules_of(directories: Iterable[Path]) -> set[Module]:
    """The modules of packages, as far as they can be read."""
    found = set()
    for directory in directories:
        fd = _open_module(directory)
        if fd is not None:
            with open(fd, "rb") as file, suppress(OSError):
                found.add(Module(os.fstat(fd).st_size, _digest(file)))
    return found


def forget(modules: Iterable[Module], stores: Iterable[Path], cache: Cache) -> None:
    """Remove the code of modules that no package in `stores` has any more. Raises WeftError."""
    try:
        for module in modules:
            if not _is_in(module, stores):
                code_cache.forget(cache.directory, module.digest)
    except OSError as error:
        raise from_os_error(f"write to the cache {quote(str(cache.directory))}", error) from None


def _compiled(
    module_fd: int, environ: Mapping[str, str], code_fd: int, waiting: Callable[[], None]
) -> Answer:
    """What the engine has against a module; nothing, and there is code. Raises WeftError."""
    answer = engine.ask(module_fd, environ, code_fd, waiting=waiting)
    if answer is None:
        raise WeftError(Problem.ENGINE_MISSING, "the engine is not installed")
    if answer.note is not None:
        raise WeftError(Problem.NOT_PERMITTED, answer.note)
    return answer


def _sealed(code_fd: int) -> Key:
    """Let nobody change what a compiler has written any more, and see what it says of itself. Raises WeftError."""
    try:
        fcntl.fcntl(code_fd, fcntl.F_ADD_SEALS, _SEALS)
        key = code_cache.key_of(code_fd)
    except OSError as error:
        raise from_os_error("seal the compiled code", error) from None
    if key is None:
        raise WeftError(Problem.INTERNAL_ERROR, "what the compiler has put out is no compiled code")
    return key


def _is_in(module: Module, stores: Iterable[Path]) -> bool:
    for path in stores:
        for directory in path.glob("*"):
            fd = _open_module(directory)
            if fd is None:
                continue
            with open(fd, "rb") as file:
                if os.fstat(fd).st_size == module.size and _digest(file) == module.digest:
                    return True
    return False


def _open_module(directory: Path) -> int | None:
    """The module of a package; None where it has none that can be opened."""
    try:
        return store.open_file(directory, store.read_manifest(directory).module)
    except (WeftError, WrongPath, OSError):
        return None


def _digest(file: BufferedReader) -> bytes:
    return hashlib.file_digest(file, "sha256").digest()
