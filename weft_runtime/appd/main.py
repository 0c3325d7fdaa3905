# SPDX-License-Identifier: Apache-2.0
"""The program `weft-appd`."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft_runtime import __version__
from weft_runtime.appd import handover
from weft_runtime.appd.checking import check
from weft_runtime.appd.daemon import Daemon
from weft_runtime.appd.settings import CONFIG_FILE, describe, load
from weft_runtime.client import DaemonClient, socket_path
from weft_runtime.commandline import ArgumentParser, prepare_streams, write_result
from weft_runtime.errors import ExitStatus, Problem, WeftError, stack_of
from weft_runtime.escape import printable
from weft_runtime.journal import Event, Level, Log, open_log, stderr_sink
from weft_runtime.protocol import Error, ErrorCode, Reload, Reloaded
from weft_runtime.settings import log_settings

PROGRAM = "weft-appd"

_EVENTS = {
    Problem.USAGE: Event.USAGE,
    Problem.CONFIG_INVALID: Event.SETTINGS_INVALID,
    Problem.ENGINE_MISSING: Event.NO_RUNTIME,
}

RELOAD_TIMEOUT_S = 60.0
"""Seconds that --reload waits: the check of the next program may take 30 of them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon in the foreground; returns the exit status."""
    prepare_streams()
    log = Log(stderr_sink(PROGRAM, with_priority=False))
    try:
        log = open_log(PROGRAM, log_settings(), has_loop=True)
        state = handover.inherited_state(os.environ)
        if state is not None and log.backlog is not None and state.get("log") is not None:
            log.backlog.restore(state["log"])  # before anything else is logged
        return _run(build_parser().parse_args(argv), log, state)
    except WeftError as error:
        event = _EVENTS.get(error.problem, Event.FAILED)
        log.entry(Level.ERR, str(error), event, WEFT_REASON=str(error), WEFT_PROBLEM=error.problem)
        return error.exit_status
    except BrokenPipeError:  # whoever read our output has gone
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:  # before the signal handlers are in place
        return 128 + signal.SIGINT
    except Exception as error:
        reason = f"internal error: {type(error).__name__}: {printable(str(error))}"
        log.entry(Level.CRIT, f"{reason}\n{stack_of(error)}", Event.INTERNAL_ERROR, WEFT_REASON=reason)
        return ExitStatus.SOFTWARE
    finally:
        log.flush()


def build_parser() -> argparse.ArgumentParser:
    """The parser; the manual page is checked against it."""
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Supervise sessions of WebAssembly apps, in the foreground.",
        epilog=f"Settings, as keys of the file and as environment variables, which win:\n{describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help=f"read the settings from FILE (default: {CONFIG_FILE})")
    add("--check", action="store_true", help="check the settings, and exit")
    add("--reload", action="store_true", help="have the running daemon reload, wait for it, and exit")
    add("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def _run(options: argparse.Namespace, log: Log, state: dict[str, Any] | None) -> int:
    if options.reload:
        return _reload(log)
    if options.check:
        check(options.config, os.environ)
        write_result("the settings are valid")
        return 0
    settings = load(options.config, os.environ)
    log.level = settings.log_level

    async def serve() -> None:
        await Daemon(options.config, settings, os.environ, log).run(state)

    asyncio.run(serve())
    return 0


def _reload(log: Log) -> int:
    with DaemonClient(socket_path(os.environ), timeout=RELOAD_TIMEOUT_S) as daemon:
        answer = daemon.ask(Reload())
    match answer:
        case Reloaded():
            write_result(f"reloaded, {PROGRAM} {printable(answer.version, 64)} is running")
            return 0
        case Error(ErrorCode.TOO_MANY_CONNECTIONS) if (pid := os.environ.get("MAINPID", "")).isdigit():
            # systemd calls this one, and the daemon's own user has a way that needs no connection.
            os.kill(int(pid), signal.SIGHUP)
            write_result("there is no place for a connection: asked for a reload by SIGHUP")
            return 0
        case Error(ErrorCode.RELOAD_FAILED) if log.is_native:
            # The daemon has told it there, as what it is.
            return ExitStatus.CONFIG
        case Error():
            raise WeftError(Problem.CONFIG_INVALID, printable(answer.message))
        case _:
            raise WeftError(
                Problem.INTERNAL_ERROR, f"unexpected answer to a reload: {type(answer).__name__}"
            )


if __name__ == "__main__":
    sys.exit(main())
