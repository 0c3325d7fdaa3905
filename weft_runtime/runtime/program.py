# SPDX-License-Identifier: Apache-2.0
"""The one course of every run: settings, arguments, package, app, end."""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from weft_runtime import __version__, manifest, policy, settings, store
from weft_runtime.code_cache import Caches
from weft_runtime.errors import ExitStatus, Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.journal import Event, Level, Log, open_log, stderr_sink
from weft_runtime.notify import open_notifier
from weft_runtime.runtime import arguments
from weft_runtime.runtime.app import App, CodeSettings, Runner
from weft_runtime.runtime.ending import Ending, Outcome, bug, failed, status_line
from weft_runtime.runtime.readiness import Readiness
from weft_runtime.settings import RuntimeSettings
from weft_runtime.statusline import VERSION_MAX
from weft_runtime.store import Package

IDENTIFIER = "weft-runtime"
"""SYSLOG_IDENTIFIER of every entry, whichever of the two programs runs."""

INSTALL_HINT = (
    "the Debian package weft-runtime brings it; elsewhere: pip install 'weft-runtime[wasmtime-runtime]'"
)


def run(program: str, argv: Sequence[str], *, needs_engine: bool) -> NoReturn:
    """Do all that `program` does and end the process."""

    def course(ending: Ending) -> Outcome:
        about = arguments.subject(argv)
        ending.log.bind(**about)
        ending.watch_signals()
        return go(program, argv, prepare(ending, about), needs_engine=needs_engine)

    conclude(course)


def conclude(course: Callable[[Ending], Outcome]) -> NoReturn:
    """End the process with what becomes of `course`. The one place that turns exceptions into an end."""
    ending = Ending(Log(stderr_sink(IDENTIFIER, with_priority=False)))
    try:
        outcome = course(ending)
    except WeftError as error:
        outcome = failed(error)
    except MemoryError:
        outcome = failed(WeftError(Problem.OUT_OF_MEMORY, f"out of memory while {ending.phase}"))
    except Exception as error:
        outcome = bug(error)
    ending.finish(outcome)


class Prepared(NamedTuple):
    """A run that does not know its arguments yet."""

    ending: Ending
    environment: RuntimeSettings
    code: CodeSettings
    stdout_is_open: bool


def prepare(ending: Ending, about: Mapping[str, str] = {}) -> Prepared:
    """Do what a run does whatever its arguments are; the log has `about` with each entry. Raises WeftError."""
    stdout_is_open = _complete_standard_streams()
    # First where to tell what is wrong with all the rest.
    ending.report_fd = settings.report_descriptor()
    ending.log = open_log(IDENTIFIER, settings.log_settings())
    ending.log.bind(**about)
    environment = settings.runtime_settings()
    caches = Caches(own=settings.cache_directory())
    code = CodeSettings(
        environment.engine, caches, environment.compiler_group, has_background=environment.has_background
    )
    return Prepared(ending, environment, code, stdout_is_open)


def go(
    program: str,
    argv: Sequence[str],
    prepared: Prepared,
    *,
    needs_engine: bool,
) -> Outcome:
    """Do what the arguments say. Raises WeftError."""
    ending, environment, code, stdout_is_open = prepared
    log = ending.log
    # Not before: of a process that still waits to become a session nobody reads the report.
    ending.is_supervised = ending.report_fd is not None and settings.is_supervised()
    if ending.report_fd is not None and ending.is_supervised:
        _end_with_supervisor(ending.report_fd)
    try:
        options = arguments.parse(argv, program)
    except arguments.HelpRequested as request:
        _print_and_leave(log, str(request), prepared)
    except arguments.CheckRequested as request:
        # Into no cache: its result goes to whoever asked for it.
        find_runner(needs_engine=True).check(request, code._replace(caches=None), ending)
        _leave(log)
    except arguments.VersionRequested:
        engine = find_runner(needs_engine=False).engine_name()
        _print_and_leave(log, f"{program} {__version__} ({engine})\n", prepared)
    if options.log_level is not None:
        log.level = options.log_level
    log.bind(WEFT_APP_ID=options.app_id)
    if options.session_id is not None:
        log.bind(WEFT_SESSION_ID=str(options.session_id))
    notifier = open_notifier(
        log, wanted=options.sd_notify or environment.sd_notify, notify_socket=environment.notify_socket
    )
    readiness = Readiness(log, notifier, ending.course)
    ending.awaits_ready = lambda: readiness.mirrored and not readiness.told
    ending.last_words = lambda outcome: notifier.send("STOPPING=1", status_line(outcome))
    if not stdout_is_open:
        raise WeftError(Problem.OS_ERROR, "standard output is closed: READY could not be told")
    ending.phase = "loading the engine"
    runner = find_runner(needs_engine=needs_engine)
    ending.phase = "opening the package"
    package = store.open_package(options.app_id, environment.stores, directory=environment.directory)
    rule = policy.read()
    if rule is policy.Policy.REQUIRE:
        _demand_trust(package)
    if log.level >= Level.DEBUG:
        searched = ", ".join(quote(str(path)) for path in environment.stores)
        where = f"of the stores {searched}" if environment.directory is None else "which $WEFT_APP_DIR names"
        log.debug(f"the package is {quote(str(package.directory))}, {where}")
        log.debug(f"the policy in {policy.CONFIG_FILE} is '{rule}'")
    if package.manifest.id != options.app_id:
        where = f"{printable(str(package.directory))}/{manifest.FILE_NAME}"
        log.warning(f"{where}: package.id is '{package.manifest.id}', ignoring: the directory's name counts")
    version = printable(package.manifest.version, VERSION_MAX)
    readiness.version = version
    ending.last_words = lambda outcome: notifier.send("STOPPING=1", status_line(outcome, version))
    if options.session_id is not None:
        log.hold()  # clients wait for its READY, which comes first where it is near: session.py
    log.entry(
        ending.course,
        f"starting {version} from {printable(str(package.directory))}",
        Event.STARTING,
        WEFT_VERSION=version,
    )
    preopens = options.preopens
    if options.session_id is None:
        from weft_runtime.runtime import service  # noqa: PLC0415 - in a session its supervisor has done that

        granted = service.grants(package.manifest, settings.service_settings())
        preopens += service.preopens(granted, log)

    def leave_plan() -> None:
        if ending.report_fd is None:  # whose supervisor remembers plans by itself
            from weft_runtime.runtime import remembering  # noqa: PLC0415

            remembering.leave(argv, options, environment.stores, code)

    is_service = options.session_id is None
    return runner.run(App(package, preopens, code, readiness, ending, leave_plan, is_service))


def _end_with_supervisor(report_fd: int) -> None:
    """What the app does cannot keep it alive then, and the next supervisor would start the app once more."""
    from weft_runtime.runtime import parent  # noqa: PLC0415 - a service has none, and the plain command neither

    parent.end_with_parent()
    if not parent.has_reader(report_fd):  # it has ended before
        os._exit(ExitStatus.OS_ERROR)


def _demand_trust(package: Package) -> None:
    """Raises WeftError(NOT_TRUSTED) unless a trusted key has signed the package as it is now."""
    from weft_runtime import trust  # noqa: PLC0415 - only where the policy asks for it

    places = trust.places(settings.cache_directory())
    trust.demand(package.directory, package.module_fd, package.manifest.module, places)


def find_runner(*, needs_engine: bool) -> Runner:
    """The module that runs apps: on the engine where it is installed, else the stub, if that will do."""
    try:
        from weft_runtime.runtime import session  # noqa: PLC0415 - imports the engine

        return session
    except ModuleNotFoundError as error:
        if error.name != "wasmtime":
            raise
        if needs_engine:
            message = "the engine, wasmtime, is not installed"
            raise WeftError(Problem.ENGINE_MISSING, message, INSTALL_HINT) from None
    except (ImportError, OSError, RuntimeError) as error:  # the binding's words for a foreign machine
        message = f"the engine, wasmtime, is installed but cannot be loaded: {printable(str(error))}"
        raise WeftError(Problem.ENGINE_MISSING, message, INSTALL_HINT) from error
    from weft_runtime.runtime import stub  # noqa: PLC0415

    return stub


def _complete_standard_streams() -> bool:
    """Put /dev/null where a standard stream is closed, lest a file opened later takes its number.

    The other two are made blocking: the guest takes "try again" for an error and loses its output. Returns
    whether standard output was open.
    """
    closed = []
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            closed.append(fd)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    os.set_blocking(1, True)
    os.set_blocking(2, True)
    return 1 not in closed


def _print_and_leave(log: Log, text: str, prepared: Prepared) -> NoReturn:
    try:
        if not prepared.stdout_is_open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        os.write(1, text.encode())
    except OSError as error:
        raise from_os_error("write to standard output", error) from None
    _leave(log)


def _leave(log: Log) -> NoReturn:
    log.flush()
    os._exit(0)
