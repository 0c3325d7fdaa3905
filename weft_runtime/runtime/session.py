# SPDX-License-Identifier: Apache-2.0
"""Running an app on the engine: load, link, instantiate, say READY, call `_start`."""

import os
import time
from typing import NamedTuple

from weft_runtime import store
from weft_runtime.binary import CORE_MODULE, HEADER_SIZE, has_start_section
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.journal import Event, Level
from weft_runtime.manifest import ReadyMode
from weft_runtime.runtime import engine
from weft_runtime.runtime.app import App, CodeSettings
from weft_runtime.runtime.arguments import CheckRequested, Preopen
from weft_runtime.runtime.ending import Ending, Outcome, exited, trapped
from weft_runtime.runtime.engine import Entry, Guest, GuestExit, GuestSetup, GuestTrap, Linked, Module
from weft_runtime.runtime.loading import Launch, Loading
from weft_runtime.settings import SYSTEM_STORES, EngineKind
from weft_runtime.wasm import START, WEFT_READY

START_SECTION = "its start section"


def engine_name() -> str:
    """The engine and its version, for --version."""
    return engine.version()


class Loaded(NamedTuple):
    """A module on its way to its instance."""

    guest: Guest
    linked: Linked
    mode: ReadyMode


def run(app: App) -> Outcome:
    """Run `app` to its end and say what that was. Raises WeftError for whatever keeps it from running."""
    try:
        return _run(app)
    except (GuestExit, GuestTrap) as error:
        return outcome(error, app.ending.phase.removeprefix("running "))


def outcome(error: Exception, where: str) -> Outcome:
    """What it means that running `where` ended with `error`. Raises WeftError where that is no end of the app's own."""
    match error:
        case GuestExit() if where == START_SECTION:
            return exited(error.status, f" in its start section, before READY{error.note}{error.memory}")
        case GuestExit() if where == WEFT_READY:
            message = f"{WEFT_READY} ended the app with status {error.status} instead of returning: READY was not sent"
            raise WeftError(Problem.MODULE_INVALID, message) from None
        case GuestExit():
            return exited(error.status, f"{error.note}{error.memory if error.status else ''}")
        case GuestTrap():
            if where == START_SECTION and not error.backtrace:
                where = "its data or element segments"
            return trapped(where, error.kind, f"{error.cause}{error.memory}", error.backtrace)
    raise error


def check(request: CheckRequested, code: CodeSettings, ending: Ending) -> None:
    """Do with a module all that a run does before the app's first instruction.

    Raises WeftError for whatever would keep it from running.
    """
    source = store.shown(request.path)
    ending.phase = "checking a module"
    fd = store.open_module(request.path)
    _check_kind(fd, source)
    ending.phase = "compiling"
    loading = Loading(code, fd, source, ending.log, copy_to=request.code_to)
    guest, linked, _ = _load(loading, source, None, ending)
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)  # the compiler's child has read it, and shares the position
        if has_start_section(file.read()):
            return
    try:
        guest.instantiate(linked, GuestSetup((), (), ()))
    except GuestTrap as error:
        message = f"{source} has data or element segments that do not fit: {error.cause}"
        raise WeftError(Problem.MODULE_INVALID, message) from None


def _run(app: App) -> Outcome:
    manifest, ending = app.package.manifest, app.ending
    source = printable(str(app.package.module))
    _check_kind(app.package.module_fd, source)
    _check_preopens(app.preopens)

    begun, done = time.monotonic(), "loaded the compiled code of"
    ending.phase = "compiling"
    loading = Loading(
        app.code, app.package.module_fd, source, ending.log, launch=_launch(app), ready=manifest.ready
    )
    if loading.is_new:
        done = "compiled"
        ending.log.release()
    guest, linked, mode = _load(loading, source, manifest.ready, ending)
    milliseconds = round((time.monotonic() - begun) * 1000)
    target = "" if app.code.engine is EngineKind.NATIVE else f" for {app.code.engine}"
    level = Level.INFO if done == "compiled" else ending.course
    ending.log.entry(level, f"{done} {source}{target} in {milliseconds} ms", Event.LOADED)

    if mode is ReadyMode.GUEST and app.readiness.mirrored:
        # The one case in which something stands between the guest and standard output.
        from weft_runtime.runtime.tap import StdoutTap  # noqa: PLC0415 - brings in threading

        ending.drain = StdoutTap(app.readiness.heard).close
    else:
        app.leave_plan()
    if mode is not ReadyMode.HOST:
        ending.log.release()
    ending.phase = f"running {START_SECTION}"
    setup = GuestSetup((manifest.module.rpartition("/")[2], *manifest.args), manifest.env, app.preopens)
    guest.instantiate(linked, setup)
    ending.phase = "saying READY"
    match mode:
        case ReadyMode.HOST:
            app.readiness.announce()
        case ReadyMode.EXPORT:
            ending.phase = f"running {WEFT_READY}"
            guest.call(WEFT_READY)
            ending.phase = "saying READY"
            app.readiness.announce()
        case ReadyMode.GUEST:
            ending.log.debug("the app says READY itself")
    ending.phase = f"running {START}"
    guest.call(START)
    return exited(0)


def _launch(app: App) -> Launch:
    def tell(what: str) -> None:
        app.ending.tell_delay()
        app.readiness.delayed(what)

    package = app.package
    # Which sees to root's stores, and compiles for the processor alone.
    can_be_asked = package.directory.parent in SYSTEM_STORES and app.code.engine is EngineKind.NATIVE
    has_background = app.code.has_background and can_be_asked
    return Launch(package.app_id, has_background, app.is_service, tell)


def _load(loading: Loading, source: str, ready_mode: ReadyMode | None, ending: Ending) -> Loaded:
    """Wait for what is being loaded, and link it."""
    guest = Guest(loading.engine)
    ending.on_stop = loading.stopped
    module = loading.result()
    ending.phase = "checking its exports"
    return _link(guest, module, source, ready_mode)


def _link(guest: Guest, module: Module, source: str, ready_mode: ReadyMode | None) -> Loaded:
    """Make certain of the exports, and resolve the imports. Raises WeftError."""
    start, ready = engine.entries(module, START, WEFT_READY)
    mode = _ready_mode(ready_mode, start, ready, source)
    try:
        return Loaded(guest, guest.link(module), mode)
    except WeftError as error:
        raise WeftError(error.problem, f"{source} {error.message}", error.hint) from None


def _check_kind(module_fd: int, source: str) -> None:
    if os.pread(module_fd, HEADER_SIZE, 0) == CORE_MODULE:
        return
    from weft_runtime.wasm import filekind  # noqa: PLC0415 - for what is no module

    filekind.expect_module(module_fd, source)


def _check_preopens(preopens: tuple[Preopen, ...]) -> None:
    """Open each directory once: the engine's own error says neither which nor why."""
    for preopen in preopens:
        try:
            os.close(os.open(preopen.host, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise from_os_error(f"preopen the directory {quote(preopen.host)}", error) from None


def _ready_mode(
    wanted: ReadyMode | None, start: Entry | None, ready: Entry | None, source: str
) -> ReadyMode:
    """How READY is said, once it is certain that the app can start. Raises WeftError(MODULE_INVALID)."""
    mode = wanted or (ReadyMode.HOST if ready is None else ReadyMode.EXPORT)
    needed = (start, ready) if mode is ReadyMode.EXPORT else (start,)
    if all(entry is not None and entry.is_plain_function for entry in needed):
        return mode
    # Nobody has judged it before: its code was in a cache already, or has types that only the engine can read.
    from weft_runtime.wasm import rules  # noqa: PLC0415 - a launch has no need of it

    if start is None:
        complaint = rules.no_start()
    elif not start.is_plain_function:
        complaint = rules.not_plain(START, start.type)
    elif ready is None:
        complaint = rules.no_weft_ready()
    else:
        complaint = rules.not_plain(WEFT_READY, ready.type)
    raise WeftError(complaint.problem, f"{source} {complaint.message}", complaint.hint)
