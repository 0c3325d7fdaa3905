# SPDX-License-Identifier: Apache-2.0
"""The decision about a launch: what will run and with what, and whether a session can follow a plan for that.

Daemon and runtime decide by this module, and each thing is judged by the very function that a runtime without a plan judges it
with. A plan is for what is as it should be; where anything is unusual, or would have to be told, or takes its time, there
is none, and the full runtime does it and tells it.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from weft_runtime import code_cache, limits, manifest, paths, policy, store
from weft_runtime.binary import CORE_MODULE, HEADER_SIZE
from weft_runtime.capabilities import Grants
from weft_runtime.code_cache import Caches
from weft_runtime.errors import WeftError
from weft_runtime.escape import printable
from weft_runtime.ids import AppId
from weft_runtime.integrity import Identity
from weft_runtime.manifest import Manifest
from weft_runtime.plan import Plan
from weft_runtime.policy import Policy
from weft_runtime.sources import FILE, NAME, SOURCES_MAX, STEP, WRITABLE, Code, Source, Sources
from weft_runtime.statusline import VERSION_MAX
from weft_runtime.store import Package

if TYPE_CHECKING:
    from weft_runtime.trust import Places


class Directory(NamedTuple):
    """A host directory that the guest gets, and its name there."""

    host: str
    guest: str
    writable: bool


class Asked(NamedTuple):
    """What a launch is asked for with, and where everything is looked for."""

    app_id: AppId
    stores: Sequence[Path]
    caches: Caches
    made_by: bytes | None
    """The digest of what the engine says of its compatibility; None where there is to be no plan."""
    grant: Callable[[Manifest], Grants]
    """What the app's capabilities become. May raise WeftError."""
    granted_from: tuple[Source, ...]
    """What `grant` depends on besides the manifest."""
    parse: Callable[[int, str], Manifest] = store.parse_file
    places: "Places | None" = None
    """Where root says what it trusts; None for the usual places."""
    directories: tuple[Directory, ...] = ()
    """Those that the guest gets whatever its capabilities are."""
    judges_way: bool = False
    """Whether whoever follows the plan judges by itself who could write to the caller's own cache, as it reads the plan from
    there. Then the way to it is no source: to a service with a user of its own, systemd mounts that anew at each start."""


class Decision(NamedTuple):
    """What was decided about a launch."""

    package: Package
    """Its descriptor is closed."""
    grants: Grants
    plan: Plan | None
    """For any session of the app; without a session and a command line of the full runtime."""
    code: Code | None = None
    why: str = ""
    """Why there is no plan: one safe line."""
    sources: Sources | None = None
    """What the plan was made of; None where it must not be used again."""


class _Planned(NamedTuple):
    plan: Plan
    code: Code
    sources: list[Source]


class _Unusual(Exception):
    """Why the full runtime has to do it: one safe line."""


def decide(asked: Asked) -> Decision:
    """Decide about one launch. Raises WeftError for what keeps the app from being launched, as far as a daemon looks at it,
    and whatever `parse` and `grant` raise."""
    first, names = _once(asked)
    # Only now is it known what is to be looked at: what is remembered is what was decided between two looks.
    before = None if first.plan is None else _look(names)
    if before is None or not before.are_settled:
        return first
    decided, names_then = _once(asked)
    if decided.plan is None or names_then != names or not before.are_unchanged():
        return decided
    return decided._replace(sources=before)


def _once(asked: Asked) -> tuple[Decision, list[Source]]:
    """A decision that must not be used again, and what its plan was made of. Raises as `decide` does."""
    package, grants = _open(asked)
    try:
        planned = _plan(asked, package, grants)
    except _Unusual as unusual:
        return Decision(package, grants, None, why=str(unusual)), []
    finally:
        os.close(package.module_fd)
    return Decision(package, grants, planned.plan, planned.code), planned.sources


def _look(names: list[Source]) -> Sources | None:
    unique = tuple(dict.fromkeys(names))
    # A relative path would mean something else in another directory.
    if len(unique) > SOURCES_MAX or not all(path.startswith(b"/") for _, path in unique):
        return None
    return Sources(unique)


def _open(asked: Asked) -> tuple[Package, Grants]:
    package = store.open_package(asked.app_id, asked.stores, asked.parse)
    try:
        return package, asked.grant(package.manifest)
    except BaseException:
        os.close(package.module_fd)
        raise


def _plan(asked: Asked, package: Package, grants: Grants) -> _Planned:
    """The plan for a package that is open. Raises _Unusual."""
    values = package.manifest
    if asked.made_by is None:
        raise _Unusual("nobody follows a plan here")
    if values.id != asked.app_id:
        raise _Unusual("the manifest has another id")
    if os.pread(package.module_fd, HEADER_SIZE, 0) != CORE_MODULE:
        raise _Unusual("the module is no core module")
    names = [*_package_sources(asked, package), *asked.granted_from]
    try:
        names += _trust_sources(asked, package)
        found = code_cache.recall(asked.caches, package.module_fd, asked.made_by)
    except WeftError as error:
        raise _Unusual(error.message) from None
    if found is None or found.entry is None:
        raise _Unusual("its code is not known")
    try:
        code = Code(
            os.fsencode(Path(f"/proc/self/fd/{found.entry.fd}").readlink()),
            Identity.of(os.fstat(found.entry.fd)),
        )
    finally:
        os.close(found.entry.fd)
    names += code_cache.sources(asked.caches, found, with_way=not asked.judges_way)
    # An app that cannot write to its data is not launched, which has to be told.
    names += [(WRITABLE, os.fsencode(each.host)) for each in grants.directories if each.writable]
    directories = [
        *asked.directories,
        *(Directory(os.fspath(each.host), each.guest, each.writable) for each in grants.directories),
    ]
    try:
        plan = Plan(
            app_id=asked.app_id.encode(),
            session_id=b"",
            argv=tuple(text.encode() for text in (values.module.rpartition("/")[2], *values.args)),
            environment=tuple((name.encode(), value.encode()) for name, value in values.env),
            preopens=tuple((_utf8(each.host), each.guest.encode(), each.writable) for each in directories),
            ready=b"" if values.ready is None else values.ready.encode(),
            memory=limits.MEMORY.value,
            memories=limits.MEMORIES.value,
            table_elements=limits.TABLE_ELEMENTS.value,
            tables=limits.TABLES.value,
            command=(),
            version=printable(values.version, VERSION_MAX).encode(),
            package=printable(str(package.directory)).encode(),
            module=printable(str(package.module)).encode(),
        )  # fmt: skip
    except ValueError as error:  # UnicodeEncodeError is one
        raise _Unusual(printable(str(error))) from None
    return _Planned(plan, code, names)


def _utf8(path: str) -> bytes:
    """A path for the engine, which takes UTF-8 and nothing else. Raises ValueError."""
    if "::" in path or not paths.is_utf8(path):
        raise ValueError("a directory cannot be named on a command line")
    return os.fsencode(path)


def _trust_sources(asked: Asked, package: Package) -> list[Source]:
    """What it depends on that the policy lets this package run. Raises _Unusual, and WeftError."""
    config, owner = policy.CONFIG_FILE, 0
    if asked.places is not None:
        config, owner = asked.places.config, asked.places.owner
    names: list[Source] = [(FILE, os.fsencode(config))]
    if policy.read(config, owner=owner) is Policy.REQUIRE:
        from weft_runtime import trust  # noqa: PLC0415 - only where the policy asks for it

        places = asked.places or trust.places(asked.caches.own)
        module = package.manifest.module
        trusted = trust.recall(package.directory, package.module_fd, module, places)
        if trusted is None:
            raise _Unusual("what its signature says is not known")
        names += trusted
    return names


def _package_sources(asked: Asked, package: Package) -> list[Source]:
    """What it depends on that this package was found, and that its files are in it. Raises _Unusual."""
    names: list[Source] = []
    for each in asked.stores:
        directory = each / asked.app_id
        if directory == package.directory:
            break
        names.append((NAME, os.fsencode(directory / manifest.FILE_NAME)))
    base = os.fsencode(package.directory)
    for path in filter(None, (manifest.FILE_NAME, package.manifest.ui_entry, package.manifest.module)):
        if store.without_links(package.directory, path) is None:
            raise _Unusual("a file of the package is a link")
        *above, name = paths.bytes_of(path).split(b"/")
        here = base
        for part in above:
            here += b"/" + part
            names.append((STEP, here))
        names.append((NAME, here + b"/" + name))
    return names
