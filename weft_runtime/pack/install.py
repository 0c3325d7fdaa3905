# SPDX-License-Identifier: Apache-2.0
"""`weft-pack install`, `uninstall` and `list`."""

import argparse
import os
import shutil
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from weft_runtime import manifest, paths, policy, settings, signature, store, trust
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.ids import AppId
from weft_runtime.manifest import Manifest
from weft_runtime.pack import check, code, storage, story, unit
from weft_runtime.pack.code import Cache
from weft_runtime.pack.files import copy_tree
from weft_runtime.pack.screen import Screen
from weft_runtime.pack.storage import Store
from weft_runtime.policy import Policy
from weft_runtime.programs import app_unit
from weft_runtime.statusline import VERSION_MAX
from weft_runtime.trust import Places
from weft_runtime.versions import is_older, is_version

SYSTEM_STORE = settings.SYSTEM_STORES[0]
APPD_CONFIG = Path("/etc/weft/appd.toml")
SYSTEM_DATA = Path("/var/lib/weft/data")
SERVICE_DATA = (Path("/var/lib/weft-apps"), Path("/var/lib/private/weft-apps"))
"""Where systemd keeps the state of weft-app@.service: a link, and what it leads to (DynamicUser=)."""

ANSWER_TIMEOUT_S = 5.0
"""Seconds for weft-appd to say what runs; it takes milliseconds."""


def install(
    screen: Screen, environ: Mapping[str, str], options: argparse.Namespace, places: Places | None = None
) -> int:
    """Install a package, or go back to the version before. Raises WeftError; the app is as it was then."""
    places = places or trust.places(settings.cache_directory(environ))
    path = target_store(environ, user=options.user)
    rule = policy.read(places.config, owner=places.owner)
    cache = code.cache_for(environ, path)
    if options.rollback:
        app_id = _roll_back(screen, environ, path, options.source, rule, places)
        if cache is not None:
            _compile(screen, environ, app_id, path, cache)
        return 0
    source = Path(options.source)
    app_id = _app_id_of(source)
    waiting = partial(_say_waiting, screen, path)
    with code.receptacle() as code_fd, storage.staging(path, app_id, waiting) as incomplete:
        # Whatever may take its time comes before the store is locked.
        with screen.progress(f"copying {source}"):
            _fetch(source, incomplete)
        # Only now: what is checked is what will be there, whoever can write to the source.
        wanted = None if cache is None else code_fd
        found = _checked(incomplete, environ, screen, source, app_id, wanted)
        verified = _verified(screen, incomplete, app_id, rule, places)
        forced: tuple[str, str] | None = None
        before: str | None = None
        is_there = False
        try:
            with storage.opened(path, waiting) as opened:
                later = _later(opened, found, rule)
                if later is not None and not options.force:
                    raise _older(found, *later)
                # Before the exchange: where this cannot be written, nothing has happened yet.
                if verified.key is not None:
                    _remember_version(opened, app_id, found.version)
                forced, before = later, _version_of(opened.live(app_id))
                opened.put(app_id, incomplete)
                is_there = True
                _remember(opened.live(app_id), verified, places)
                if cache is not None:
                    module = opened.live(app_id) / paths.local(found.module)
                    _keep_code(screen, code_fd, module, verified.digest_of(found.module), cache)
        finally:
            # Whatever went wrong after the exchange: the version is there, and so is the reason to say so.
            if is_there or (forced is not None and _is_version(path / app_id, found.version)):
                story.installed(environ, app_id, found.version, before, source, verified.key)
                if forced is not None:
                    _tell_forced(screen, found, *forced)
    screen.line(f"installed {app_id} -> {path / app_id}")
    _say_where(screen, environ, path)
    return 0


def uninstall(
    screen: Screen, environ: Mapping[str, str], options: argparse.Namespace, places: Places | None = None
) -> int:
    """Remove an app, and its data where that is asked for. Raises WeftError."""
    places = places or trust.places(settings.cache_directory(environ))
    app_id: AppId = options.app
    path = target_store(environ, user=options.user)
    data = _data_of(app_id, path, environ) if options.purge else []
    if not os.path.lexists(path / app_id) and not data:
        raise _not_installed(app_id, path, environ)
    if not options.force:
        _refuse_running(screen, environ, app_id, path)
    cache = code.cache_for(environ, path)
    with storage.opened(path, lambda: _say_waiting(screen, path)) as opened:
        versions = (opened.live(app_id), opened.previous(app_id))
        modules = code.modules_of(versions) if cache is not None else set()
        if policy.read(places.config, owner=places.owner) is Policy.REQUIRE:
            for directory in versions:
                _remember_removed(opened, app_id, directory, places)
        before = _version_of(opened.live(app_id))
        opened.remove(app_id)
        trust.forget(path / app_id, places)
        for directory in data:
            _remove_data(directory)
        if cache is not None:
            _forget_code(screen, modules, path, cache)
    story.removed(environ, app_id, before)
    disabled = unit.disable(screen, app_id) if path == SYSTEM_STORE else None
    if options.json:
        screen.json({"id": app_id, "disabled": disabled})
    else:
        screen.line(f"uninstalled {app_id}")
    return 0


def list_packages(screen: Screen, environ: Mapping[str, str], *, as_json: bool) -> int:
    """Print what is installed, in the order of the search for it."""
    stores = settings.stores(environ)
    found = [
        (app_id, values, store.find(app_id, stores)) for app_id, values in store.installed(stores).items()
    ]
    if as_json:
        screen.json(
            [
                {
                    "id": app_id,
                    "name": values.name,
                    "version": values.version,
                    "directory": paths.shown(directory),
                }
                for app_id, values, directory in found
            ]
        )
        return 0
    for app_id, values, _ in found:
        screen.line(f"{app_id}  {values.name}  {values.version}")
    if not found:
        screen.line("no packages installed")
    return 0


def target_store(environ: Mapping[str, str], *, user: bool) -> Path:
    """Where to install. Raises WeftError(CONFIG_INVALID) where there is no such place."""
    override = environ.get("WEFT_APP_STORE")
    if override is not None and not user:
        return Path(override)
    if os.geteuid() == 0 and not user:
        return SYSTEM_STORE
    home = environ.get("HOME")
    if not home:
        raise WeftError(Problem.CONFIG_INVALID, "there is no package store: $HOME is not set")
    return settings.stores({"HOME": home})[0]


def _app_id_of(source: Path) -> AppId:
    """The app id of a package, before anything of it is believed. Raises WeftError."""
    if source.is_dir():
        return store.read_manifest(source).id
    if not os.path.lexists(source):
        raise WeftError(Problem.PACKAGE_NOT_FOUND, f"there is no {quote(str(source))}")
    from weft_runtime.pack import archive  # noqa: PLC0415 - needs a library that directories do without

    return archive.file_app_id(source)


def _fetch(source: Path, destination: Path) -> None:
    if source.is_dir():
        copy_tree(source, destination)
        return
    from weft_runtime.pack import archive  # noqa: PLC0415

    app_id, expected = archive.unpack(source, destination), archive.file_app_id(source)
    if app_id != expected:
        message = f"{quote(str(source))} has the top directory {quote(app_id)}: expected {quote(expected)}"
        raise WeftError(Problem.PACKAGE_INVALID, message)


def _checked(
    directory: Path,
    environ: Mapping[str, str],
    screen: Screen,
    source: Path,
    app_id: AppId,
    code_fd: int | None,
) -> Manifest:
    """The manifest of a package in which nothing is wrong; shows what is. Raises WeftError.

    To `code_fd` goes the code of its module, where the engine is there to compile it.
    """
    checked = check.check(directory, environ, screen, code_fd)
    if checked.note is not None:
        screen.note(checked.note)
    check.tell(screen, checked.findings)
    check.tell(screen, checked.remarks)
    if checked.findings or checked.manifest is None:
        count = len(checked.findings)
        what = "one thing is" if count == 1 else f"{count} things are"
        raise WeftError(
            Problem.PACKAGE_INVALID, f"{quote(str(source))} is not installed: {what} wrong with it"
        )
    if checked.manifest.id != app_id:
        message = (
            f"{quote(str(source))} is the package of {quote(checked.manifest.id)}, not of {quote(app_id)}"
        )
        raise WeftError(Problem.PACKAGE_INVALID, message)
    return checked.manifest


def _later(opened: Store, new: Manifest, rule: Policy) -> tuple[str, str] | None:
    """A version that is or was there and is later than the new one, and which of the two; None if there is none."""
    try:
        old = store.read_manifest(opened.live(new.id)).version
    except WeftError:  # there is none, or a broken one, which anything is better than
        old = new.version
    if is_older(new.version, old):
        return old, "is installed"
    # Uninstalling must not be the way to an old version with a hole in it, whose signature is as good as ever.
    highest = opened.highest(new.id) if rule is Policy.REQUIRE else None
    if highest is not None and (is_older(new.version, highest) or not is_version(highest)):
        return highest, "was installed before"
    return None


def _older(new: Manifest, old: str, how: str) -> WeftError:
    message = f"version {printable(old, VERSION_MAX)} of {new.id} {how}, which is later than {new.version}"
    return WeftError(Problem.NOT_PERMITTED, message, "use --force to go back")


def _remember_version(opened: Store, app_id: AppId, version: str) -> None:
    if _is_highest(opened, app_id, version):
        opened.remember(app_id, version)


def _is_highest(opened: Store, app_id: AppId, version: str) -> bool:
    highest = opened.highest(app_id)
    return highest is None or not is_version(highest) or is_older(highest, version)


def _remember_removed(opened: Store, app_id: AppId, directory: Path, places: Places) -> None:
    """Remember a version that is about to go, if a trusted key has signed it: a forged one must not bar the way.

    Most are remembered since they were installed, but not what came while the policy was that nobody looks.
    """
    with suppress(WeftError):  # a broken package has no version
        version = store.read_manifest(directory).version
        if not _is_highest(opened, app_id, version):
            return
        if trust.judge(directory, trust.trusted_keys(places)).key is not None:
            opened.remember(app_id, version)


def _is_version(directory: Path, version: str) -> bool:
    try:
        return store.read_manifest(directory).version == version
    except WeftError:
        return False


def _tell_forced(screen: Screen, new: Manifest, old: str, how: str) -> None:
    """Say that --force was used, here and in the journal: it undoes what the versions are for."""
    in_place_of = f"in place of {printable(old, VERSION_MAX)}, which {how}: --force was used"
    screen.note(f"version {new.version} of {new.id} {in_place_of}")
    story.forced(new.id, new.version, old, f"version {new.version} {in_place_of}")


class _Verified(NamedTuple):
    """What was read to verify a package; nothing where the policy is that nobody looks."""

    content: signature.Content | None = None
    key: str | None = None
    """The name of the trusted key that has signed it."""
    keys: trust.Keys = trust.Keys({}, ())

    def digest_of(self, path: str) -> bytes | None:
        return None if self.content is None else self.content.digest_of(path)


def _verified(screen: Screen, directory: Path, app_id: AppId, rule: Policy, places: Places) -> _Verified:
    """What the policy says of a package. Raises WeftError(NOT_TRUSTED)."""
    if rule is Policy.OFF:
        return _Verified()
    keys = trust.trusted_keys(places)
    with screen.progress(f"verifying {app_id}"):
        content = signature.read(directory)
        verdict = trust.judge(directory, keys, content)
    if verdict.key is not None:
        screen.note(f"{app_id} is signed by the trusted key {quote(verdict.key)}")
        return _Verified(content, verdict.key, keys)
    for complaint in keys.complaints:
        screen.note(f"{complaint}, ignoring")
    if rule is Policy.REQUIRE:
        hint = f"the policy in {places.config} is '{rule}'"
        raise WeftError(Problem.NOT_TRUSTED, f"{app_id} {verdict.reason}", hint)
    screen.note(f"warning: {app_id} {verdict.reason}")
    return _Verified(content)


def _remember(directory: Path, verified: _Verified, places: Places) -> None:
    if verified.content is not None and verified.key is not None:
        trust.remember(directory, verified.content, verified.key, verified.keys, places, wait=True)


def _keep_code(screen: Screen, code_fd: int, module: Path, digest: bytes | None, cache: Cache) -> None:
    """What was compiled for the check, for the launches to come. The app is installed, whatever becomes of it."""
    if not os.fstat(code_fd).st_size:  # there is no engine, or the check has told why
        return
    try:
        with module.open("rb") as file:
            code.keep(code_fd, file, digest, cache)
    except (WeftError, OSError) as error:
        screen.note(f"the compiled code is not kept: {error}")


def _compile(screen: Screen, environ: Mapping[str, str], app_id: AppId, path: Path, cache: Cache) -> None:
    """Make certain that there is compiled code for an app that is installed again."""
    try:
        with screen.progress(f"compiling {app_id}") as go_on:
            code.ensure(app_id, (path,), environ, cache, code.engine_digest(environ), go_on)
    except WeftError as error:
        if error.problem is not Problem.ENGINE_MISSING:
            screen.note(f"{app_id} is not compiled yet: {error}")


def _forget_code(screen: Screen, modules: set[code.Module], path: Path, cache: Cache) -> None:
    stores = settings.SYSTEM_STORES if path in settings.SYSTEM_STORES else (path,)
    try:
        code.forget(modules, stores, cache)
    except WeftError as error:
        screen.note(f"its compiled code is not removed: {error}")


def _version_of(directory: Path) -> str | None:
    """The version of an installed package; None where there is none, or one that is broken and has none."""
    if not os.path.lexists(directory):
        return None
    try:
        return store.read_manifest(directory).version
    except WeftError:
        return story.UNKNOWN


def _roll_back(
    screen: Screen, environ: Mapping[str, str], path: Path, text: str, rule: Policy, places: Places
) -> AppId:
    try:
        app_id = AppId.parse(text)
    except ValueError as error:
        raise WeftError(Problem.USAGE, str(error)) from None
    with storage.opened(path, lambda: _say_waiting(screen, path)) as opened:
        previous = opened.previous(app_id)
        if not previous.is_dir() or not opened.live(app_id).is_dir():
            message = f"there is no version of {app_id} before that in {quote(str(path))}"
            raise WeftError(Problem.PACKAGE_NOT_FOUND, message, "an upgrade keeps one")
        verified = _verified(screen, previous, app_id, rule, places)
        before = _version_of(opened.live(app_id))
        opened.roll_back(app_id)
        _remember(opened.live(app_id), verified, places)
        version = store.read_manifest(opened.live(app_id)).version
    story.rolled_back(environ, app_id, version, before, verified.key)
    screen.line(f"rolled back {app_id} to {printable(version, VERSION_MAX)}")
    return app_id


def _refuse_running(screen: Screen, environ: Mapping[str, str], app_id: AppId, path: Path) -> None:
    """Raises WeftError(NOT_PERMITTED) where the app is known to run."""
    hint = "end it first, or use --force: it goes on until it ends, but cannot start again"
    sessions = _sessions_of(screen, environ, app_id)
    if sessions:
        numbers = ", ".join(map(str, sessions))
        what = "session" if len(sessions) == 1 else "sessions"
        raise WeftError(Problem.NOT_PERMITTED, f"{app_id} is running: {what} {numbers}", hint)
    service = app_unit(app_id)
    if path == SYSTEM_STORE and unit.is_active(service):
        raise WeftError(Problem.NOT_PERMITTED, f"{app_id} is running: {service}", hint)


def _sessions_of(screen: Screen, environ: Mapping[str, str], app_id: AppId) -> list[int]:
    """The sessions of an app that live, as far as a weft-appd can be asked."""
    from weft_runtime.client import DaemonClient, socket_path  # noqa: PLC0415 - with msgpack behind it
    from weft_runtime.protocol import QuerySessions, Sessions, State  # noqa: PLC0415

    try:
        with DaemonClient(socket_path(environ), timeout=ANSWER_TIMEOUT_S) as daemon:
            answer = daemon.ask(QuerySessions())
    except WeftError as error:
        if error.problem is Problem.NOT_PERMITTED:
            screen.note(f"whether it runs is not known: {error}")
        return []
    if not isinstance(answer, Sessions):
        return []
    return sorted(
        session.session_id
        for session in answer.sessions
        if session.app_id == app_id and session.state is not State.STOPPED
    )


def _data_of(app_id: AppId, path: Path, environ: Mapping[str, str]) -> list[Path]:
    """The directories that an app's data is in."""
    roots: list[Path] = []
    if given := environ.get("WEFT_DATA_ROOT"):
        roots = [Path(given)]
    elif path == SYSTEM_STORE:
        roots = [_configured_data() or SYSTEM_DATA, *SERVICE_DATA]
    elif home := environ.get("HOME"):
        roots = [Path(home, ".local/share/weft/data")]
    return [root / app_id for root in roots if os.path.lexists(root / app_id)]


def _configured_data() -> Path | None:
    """The setting data_root of weft-appd. Raises WeftError where it cannot be known."""
    try:
        values = tomllib.loads(APPD_CONFIG.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(f"read {quote(str(APPD_CONFIG))}", error) from None
    except (ValueError, RecursionError) as error:
        message = f"{APPD_CONFIG} is not TOML: {printable(str(error))}"
        raise WeftError(Problem.CONFIG_INVALID, message) from None
    given = values.get("data_root")
    return Path(paths.local(given)) if isinstance(given, str) and given else None


def _remove_data(directory: Path) -> None:
    if directory.is_symlink():
        directory.unlink()
    else:
        # It belongs to the app's user, who may do anything in it meanwhile: rmtree follows no link.
        shutil.rmtree(directory)


def _not_installed(app_id: AppId, path: Path, environ: Mapping[str, str]) -> WeftError:
    elsewhere = [
        candidate
        for candidate in settings.stores(environ)
        if (candidate / app_id / manifest.FILE_NAME).is_file() and candidate != path
    ]
    hint = None
    if elsewhere:
        hint = f"it is in {printable(str(elsewhere[0]))}"
        if elsewhere[0] == settings.SYSTEM_STORES[1]:
            hint += ", which belongs to the Debian packages"
    return WeftError(Problem.PACKAGE_NOT_FOUND, f"{app_id} is not installed in {quote(str(path))}", hint)


def _say_waiting(screen: Screen, path: Path) -> None:
    screen.note(f"waiting for another weft-pack that uses {path}")


def _say_where(screen: Screen, environ: Mapping[str, str], path: Path) -> None:
    home = environ.get("HOME")
    if home and path == settings.stores({"HOME": home})[0]:
        screen.note("the weft-appd of the system does not look there: root installs for it")
