# SPDX-License-Identifier: Apache-2.0
"""The program `weftctl`."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence

from weft_runtime import __version__
from weft_runtime.commandline import ArgumentParser, checked, prepare_streams, write_note
from weft_runtime.ctl import commands, logs, restore
from weft_runtime.ctl.doctor import doctor
from weft_runtime.ctl.launch import Until, launch
from weft_runtime.ctl.screen import PROGRAM, Screen
from weft_runtime.ctl.watch import watch
from weft_runtime.errors import ExitStatus, Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.ids import AppId, SessionId

_LAUNCH_HINT = f"see {PROGRAM} launch --help"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. The one place that turns exceptions into one."""
    prepare_streams()
    try:
        return _run(build_parser().parse_args(argv), os.environ)
    except WeftError as error:
        Screen(os.environ).note(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has gone
        return 128 + signal.SIGPIPE
    except Exception as error:
        text = f"internal error: {type(error).__name__}: {printable(str(error))}"
        write_note(f"{PROGRAM}: {text}\n{traceback.format_exc().rstrip()}")
        return ExitStatus.SOFTWARE


def build_parser() -> argparse.ArgumentParser:
    """The parser; manual page and completion are checked against it."""
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Drive weft-appd: launch, watch and end sessions of apps.",
        epilog=f"See {PROGRAM}(1) for the exit statuses, and '{PROGRAM} COMMAND --help' for one command.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    add = parser.add_subparsers(metavar="COMMAND", dest="command", required=True).add_parser

    def command(name: str, summary: str, *, json: str) -> argparse.ArgumentParser:
        text = f"{summary[0].upper()}{summary[1:]}."
        sub = add(name, help=summary, description=text)
        sub.add_argument("--json", action="store_true", help=json)
        return sub

    sub = command("list", "list the sessions that live", json="print an array of objects")
    sub.add_argument(
        "-a", "--all", action="store_true", help="also those that have ended, as far as remembered"
    )
    sub = command("launch", "start an app, and print the number of its session", json="print an object")
    sub.add_argument("app", metavar="APP", type=checked(AppId.parse), help="app id, as 'apps' lists it")
    sub.add_argument(
        "-w", "--wait", action="store_true", help="wait for its end, and exit with its exit status"
    )
    sub.add_argument("-f", "--follow", action="store_true", help="the same, and show what the app prints")
    sub.add_argument("--no-wait", action="store_true", help="do not even wait until it is ready")
    sub = command("stop", "end a session, or all of an app", json="print an array of objects")
    _add_target(sub)
    sub = command("status", "tell all about a session, or about weft-appd", json="print an object")
    sub.add_argument(
        "id", metavar="ID", nargs="?", type=checked(SessionId.parse), help="number of the session"
    )
    command("apps", "list the apps that can be launched", json="print an array of objects")
    sub = command("logs", "show what the journal has of a session or an app", json="print an object a line")
    _add_target(sub)
    sub.add_argument("-f", "--follow", action="store_true", help="go on showing what comes")
    sub.add_argument("-n", "--lines", metavar="N", type=checked(_count), help="show the last N entries only")
    command("watch", "tell of launches, READY and ends as they come", json="print an object a line")
    sub = command(
        "restore", "start now what waits to be started again, or forget it", json="print an object"
    )
    sub.add_argument(
        "app", metavar="APP", nargs="?", type=checked(AppId.parse), help="only sessions of this app"
    )
    sub.add_argument("--forget", action="store_true", help="do not start them again")
    command("doctor", "find out what is wrong, and what to do", json="print an array of objects")
    return parser


def _run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    screen = Screen(environ, as_json=options.json)
    match options.command:
        case "list":
            return commands.list_sessions(screen, environ, all_sessions=options.all)
        case "launch":
            if options.no_wait and (options.wait or options.follow):
                raise WeftError(
                    Problem.USAGE, "--no-wait goes with neither --wait nor --follow", _LAUNCH_HINT
                )
            until = Until.ENDED if options.wait or options.follow else Until.READY
            if options.no_wait:
                until = Until.LAUNCHED
            return launch(screen, environ, options.app, until=until, follow=options.follow)
        case "stop":
            return commands.stop(screen, environ, options.target)
        case "status":
            if options.id is None:
                return commands.daemon_status(screen, environ)
            return commands.status(screen, environ, options.id)
        case "apps":
            return commands.apps(screen, environ)
        case "logs":
            return logs.show(screen, environ, options.target, follow=options.follow, lines=options.lines)
        case "watch":
            return watch(screen, environ)
        case "restore":
            act = restore.forget if options.forget else restore.restore
            return act(screen, environ, options.app)
        case _:
            return doctor(screen, environ)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", metavar="ID|APP", type=checked(_target), help="number of a session, or an app id"
    )


def _target(text: str) -> SessionId | AppId:
    if text[:1] in tuple("+0123456789"):
        return SessionId.parse(text)
    try:
        return AppId.parse(text)
    except ValueError as error:
        raise ValueError(f"{error}, or the number of a session") from None


def _count(text: str) -> int:
    """A number of lines, as journalctl takes it."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{printable(text, 32)} is no number of lines")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
