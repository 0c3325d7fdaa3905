# SPDX-License-Identifier: Apache-2.0
"""`weft-pack compile`: the code of installed apps, for what no launch has compiled yet and no install."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from weft_runtime import settings, store
from weft_runtime.errors import Problem, WeftError
from weft_runtime.ids import AppId
from weft_runtime.integrity import Identity
from weft_runtime.journal import Event, Level, Log, open_log
from weft_runtime.pack import code, install
from weft_runtime.pack.screen import PROGRAM, Screen


def compile_apps(screen: Screen, environ: Mapping[str, str], options: argparse.Namespace) -> int:
    """Compile apps, and tell of each what came of it; returns the exit status.

    One that cannot be compiled is told like the others. Raises WeftError for what concerns them all.
    """
    if bool(options.apps) is options.all:
        raise WeftError(Problem.USAGE, "expected the ids of apps, or --all for all of them")
    stores = _stores(environ)
    cache = code.cache_for(environ, stores[0])
    if cache is None:
        raise WeftError(Problem.CONFIG_INVALID, "there is no cache for compiled code: $HOME is not set")
    told: list[dict[str, object]] = []
    engine: bytes | None = None
    log = open_log(PROGRAM, settings.log_settings(environ))
    for app_id in options.apps or _all(stores):
        engine = engine or code.engine_digest(environ)
        compiled, problem = False, None
        try:
            with screen.progress(f"compiling {app_id}") as go_on:
                by_hand = not options.all
                compiled = code.ensure(app_id, stores, environ, cache, engine, go_on, by_hand=by_hand)
        except WeftError as error:
            problem = str(error)
            if isinstance(error, code.TooCostly) and log.is_native:
                _log_too_costly(log, app_id, error)
            else:
                screen.error(f"{app_id}: {problem}")
        else:
            if not options.json:
                screen.line(f"compiled {app_id}" if compiled else f"{app_id} is compiled already")
        told.append({"id": app_id, "compiled": compiled, "problem": problem})
    log.flush()
    if options.json:
        screen.json(told)
    elif not told:
        screen.line("no packages installed")
    return 1 if any(entry["problem"] for entry in told) else 0


def _all(stores: Sequence[Path]) -> Iterator[AppId]:
    """The apps in the stores, those included that come while the others are compiled, or get another module then.

    Whoever asks the background compiler for one of these is not heard: it runs already.
    """
    done: set[tuple[AppId, Identity | None]] = set()
    while new := [app for app in _states(stores) if app not in done]:
        for app in new:
            done.add(app)
            yield app[0]


def _states(stores: Sequence[Path]) -> list[tuple[AppId, Identity | None]]:
    """Each app with the state of its module; None for one that cannot be opened."""
    return [(app_id, _state(app_id, stores)) for app_id in sorted(store.installed(stores))]


def _state(app_id: AppId, stores: Sequence[Path]) -> Identity | None:
    try:
        package = store.open_package(app_id, stores)
    except WeftError:
        return None
    try:
        return Identity.of(os.fstat(package.module_fd))
    finally:
        os.close(package.module_fd)


def _log_too_costly(log: Log, app_id: AppId, error: WeftError) -> None:
    log.entry(
        Level.ERR, str(error), Event.TOO_COSTLY,
        WEFT_APP_ID=app_id, WEFT_PROBLEM=error.problem, WEFT_REASON=str(error),
    )  # fmt: skip


def _stores(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The stores of whoever compiles: for root the system's, for anybody else only their own."""
    own = install.target_store(environ, user=False)
    if os.geteuid() == 0 and own == install.SYSTEM_STORE:
        return settings.SYSTEM_STORES
    return (own,)
