# SPDX-License-Identifier: Apache-2.0
"""`weft-pack compile`: the code of installed apps, for what no launch has compiled yet and no install."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from weft_runtime import settings, store
from weft_runtime.errors import Problem, WeftError
from weft_runtime.ids import AppId
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
    apps = options.apps or sorted(store.installed(stores))
    told: list[dict[str, object]] = []
    engine = code.engine_digest(environ) if apps else b""
    log = open_log(PROGRAM, settings.log_settings(environ))
    for app_id in apps:
        compiled, problem = False, None
        try:
            with screen.progress(f"compiling {app_id}") as go_on:
                by_hand = not options.all
                compiled = code.ensure(app_id, stores, environ, cache, engine, go_on, by_hand=by_hand)
        except WeftError as error:
            problem = str(error)
            if isinstance(error, code.TooCostly) and log.is_native:
                _log_too_costly(log, app_id, problem)
            else:
                screen.error(f"{app_id}: {problem}")
        else:
            if not options.json:
                screen.line(f"compiled {app_id}" if compiled else f"{app_id} is compiled already")
        told.append({"id": app_id, "compiled": compiled, "problem": problem})
    log.flush()
    if options.json:
        screen.json(told)
    elif not apps:
        screen.line("no packages installed")
    return 1 if any(entry["problem"] for entry in told) else 0


def _log_too_costly(log: Log, app_id: AppId, problem: str) -> None:
    log.entry(
        Level.ERR, problem, Event.TOO_COSTLY,
        WEFT_APP_ID=app_id, WEFT_PROBLEM=Problem.COMPILE_LIMIT, WEFT_REASON=problem,
    )  # fmt: skip


def _stores(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The stores of whoever compiles: for root the system's, for anybody else only their own."""
    own = install.target_store(environ, user=False)
    if os.geteuid() == 0 and own == install.SYSTEM_STORE:
        return settings.SYSTEM_STORES
    return (own,)
