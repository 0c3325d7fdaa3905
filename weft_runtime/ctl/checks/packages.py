# SPDX-License-Identifier: Apache-2.0
"""Packages: whether each can be launched, by the daemon's user, and whether its code could be compiled."""

import hashlib
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from weft_runtime import capabilities, code_cache, store
from weft_runtime.code_cache import Key
from weft_runtime.ctl.daemon import own_store
from weft_runtime.ctl.finding import Finding, note, ok, problem
from weft_runtime.ctl.scene import CACHE, SYSTEM_CACHE, Scene
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable, quote
from weft_runtime.ids import AppId
from weft_runtime.plural import counted
from weft_runtime.settings import SYSTEM_STORES
from weft_runtime.statusline import VERSION_MAX
from weft_runtime.versions import is_older
from weft_runtime.wasm import filekind

_DIGEST_DIGITS = 64
_ENTRIES_MAX = 20_000
"""Files of one package that are looked at."""


def packages(scene: Scene) -> list[Finding]:
    """The stores that the daemon reads, and what is in them."""
    found = scene.as_daemon(lambda: _stores(scene))
    found += scene.as_services(_stores, found)
    if found:
        return found
    there = [directory for directory in scene.stores if _is_directory(directory)]
    if not there and scene.is_system and scene.setting("app_store", "WEFT_APP_STORE"):
        return [
            ok(f"none: {scene.stores[0]} is not there")
        ]  # the check of the settings says what is wrong with that
    if not there:
        mend = f"mkdir -p {shlex.quote(str(scene.stores[0]))}"
        return [note(f"none: {', '.join(map(str, scene.stores))}", "install apps there", mend)]
    text = f"{counted(len(store.installed(scene.stores)), 'app')} in {', '.join(map(str, there))}"
    own = own_store(scene.caller)
    if own is not None and own not in scene.stores and (others := store.installed([own])):
        text += f"; {counted(len(others), 'app')} in {own}, which this weft-appd does not read"
        mend = f"weft-pack install {shlex.quote(str(own))}/*" if scene.is_system else ""
        return [note(text, f"install them into {scene.stores[0]}", mend or None)]
    return [ok(text)]


def remove(app_id: str, directory: Path) -> str:
    """The command that removes a package, or has it installed again where another package of Debian brought it."""
    if directory == SYSTEM_STORES[0]:
        return f"weft-pack uninstall {app_id}"
    path = shlex.quote(str(directory / app_id))
    if directory == SYSTEM_STORES[1]:
        return f'apt-get install --reinstall "$(dpkg-query --search {path} | cut -d: -f1)"'
    return f"WEFT_APP_STORE={shlex.quote(str(directory))} weft-pack uninstall {app_id}"


def _stores(scene: Scene) -> list[Finding]:
    found: list[Finding] = []
    versions: dict[str, tuple[str, Path]] = {}
    for directory in scene.stores:
        if complaint := _unfit(scene, directory):
            found.append(complaint)
        for app_id in _apps(directory):
            if app_id in versions:
                found += _hidden(app_id, directory, *versions[app_id])
                continue
            try:
                version = _check(app_id, directory)
            except WeftError as error:
                versions[app_id] = ("", directory)
                found += _broken(scene, app_id, directory, error)
                continue
            versions[app_id] = (version, directory)
            found += _unread(scene, app_id, directory)
    return found


def _unfit(scene: Scene, directory: Path) -> Finding | None:
    """What is wrong with a store as a directory."""
    path = shlex.quote(str(directory))
    if scene.account is not None:
        try:
            barrier = scene.account.barrier(directory, os.R_OK | os.X_OK)
        except OSError:
            barrier = None
        if barrier is not None:
            what = f"the user {scene.account.name} cannot read {directory}"
            mode = f"the mode of {barrier} is {stat.S_IMODE(barrier.stat().st_mode):o}"
            return problem(what, f"no app of it starts; {mode}", f"chmod 755 {shlex.quote(str(barrier))}")
    try:
        status = directory.stat()
    except OSError:
        return None
    if scene.is_system and (status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        what = f"{directory} can be written by others than root"
        return problem(what, "they could put in any app", f"chown root: {path} && chmod 755 {path}")
    return None


def _apps(directory: Path) -> Iterator[AppId]:
    """What is in a store under the name of an app, package or not."""
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return
    for name in names:
        try:
            yield AppId.parse(name)
        except ValueError:
            continue


def _check(app_id: AppId, directory: Path) -> str:
    """The version of a package that can be launched. Raises WeftError for one that cannot."""
    package = store.open_package(app_id, [directory])
    try:
        filekind.expect_module(package.module_fd, printable(str(package.module)))
    finally:
        os.close(package.module_fd)
    for name in package.manifest.capabilities:
        if not capabilities.is_known(name):
            source = printable(str(package.directory))
            raise WeftError(
                Problem.MANIFEST_INVALID, f"{source} asks for the unknown capability {quote(name)}"
            )
    return package.manifest.version


def _broken(scene: Scene, app_id: AppId, directory: Path, error: WeftError) -> list[Finding]:
    if error.problem is Problem.PACKAGE_NOT_FOUND:
        return []  # a directory without a manifest is no package
    if error.problem is Problem.NOT_PERMITTED:
        # Without its own rights nobody can tell what the daemon sees.
        return _unread(scene, app_id, directory) if scene.account is not None else []
    why = "it does not start: install it again, or remove it"
    return [problem(error.message, why, remove(app_id, directory))]


def _unread(scene: Scene, app_id: AppId, directory: Path) -> list[Finding]:
    """Files of a package that the daemon's user cannot read."""
    account, package = scene.account, directory / app_id
    if account is None or not scene.sees_all:
        return []
    if account.barrier(directory, os.R_OK | os.X_OK) is not None:
        return []  # told of the store already
    closed = [path for path in _entries(package) if not _may_read(scene, path)]
    if not closed:
        return []
    what = f"the user {account.name} cannot read {printable(str(closed[0]))}"
    if len(closed) > 1:
        what += f" and {counted(len(closed) - 1, 'more file')} of {app_id}"
    path = shlex.quote(str(package))
    return [problem(what, f"{app_id} does not start, or not all of it is there", f"chmod -R a+rX {path}")]


def _may_read(scene: Scene, path: Path) -> bool:
    assert scene.account is not None
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
        return scene.account.may(path, os.R_OK | os.X_OK if is_directory else os.R_OK)
    except PermissionError:
        return False
    except OSError:
        return True  # a link to nothing: what needs it says so


def _entries(package: Path) -> Iterator[Path]:
    yield package
    left = _ENTRIES_MAX
    for above, directories, files in os.walk(package):
        for name in (*directories, *files):
            if (left := left - 1) < 0:
                return
            yield Path(above, name)


def _hidden(app_id: AppId, directory: Path, version: str, first: Path) -> list[Finding]:
    """A package that the one of a store before hides, if it is newer."""
    try:
        newer = store.read_manifest(directory / app_id).version
    except WeftError:
        return []
    if not version or not is_older(version, newer):
        return []
    what = f"{app_id} {printable(version, VERSION_MAX)} in {first} hides the newer {printable(newer, VERSION_MAX)} in {directory}"
    return [note(what, "the older one runs", remove(app_id, first))]


def code(scene: Scene) -> list[Finding]:
    """Apps whose code the compiler could not make within its limits."""
    if not scene.is_system:
        return [ok("not looked at")]
    notes = {**_notes(SYSTEM_CACHE), **_notes(CACHE)}
    found = []
    if notes:
        for app_id in store.installed(scene.stores):
            if (vain := notes.get(_digest(app_id, scene.stores))) is not None:
                what = f"{app_id} was compiled in vain"
                found.append(problem(what, vain.reason, f"weft-pack compile {app_id}"))
    return found or [ok("no app was compiled in vain")]


def _notes(cache: Path) -> dict[str, code_cache.Vain]:
    """By the digest of the module."""
    try:
        names = [path.stem for path in (cache / code_cache.SUBDIRECTORY).glob(f"*{code_cache.VAIN_SUFFIX}")]
    except OSError:
        return {}
    found = {}
    for name in names:
        engine, _, module = name.partition("-")
        try:
            key = Key(bytes.fromhex(engine), bytes.fromhex(module))
        except ValueError:
            continue
        if len(module) == _DIGEST_DIGITS and (vain := code_cache.vain(cache, key)) is not None:
            found[module] = vain
    return found


def _digest(app_id: AppId, stores: Sequence[Path]) -> str:
    try:
        package = store.open_package(app_id, stores)
    except WeftError:
        return ""
    with open(package.module_fd, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # it cannot be looked at, and so not read either
