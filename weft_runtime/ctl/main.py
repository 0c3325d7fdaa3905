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
from weft_runtime.ctl import commands, history, logs, restore
from weft_runtime.ctl.launch import Until, launch
from weft_runtime.ctl.listing import list_all
from weft_runtime.ctl.restart import restart
from weft_runtime.ctl.screen import PROGRAM, Screen
from weft_runtime.ctl.status import status
from weft_runtime.ctl.top import INTERVAL_MIN_S, INTERVAL_S, Order, top
from weft_runtime.ctl.watch import watch
from weft_runtime.errors import ExitStatus, Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.ids import AppId, SessionId

_SECONDS_MAX = 86400
"""A day: what waits for longer than that is no command."""

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
        description="Drive weft-appd: launch, watch and end sessions of apps, and look at their services.",
        epilog=f"See {PROGRAM}(1) for the exit statuses, and '{PROGRAM} COMMAND --help' for one command.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    add = parser.add_subparsers(metavar="COMMAND", dest="command", required=True).add_parser

    def command(name: str, summary: str, *, json: str) -> argparse.ArgumentParser:
        text = f"{summary[0].upper()}{summary[1:]}."
        sub = add(name, help=summary, description=text)
        sub.add_argument("--json", action="store_true", help=json)
        return sub

    sub = command("list", "list the sessions and services that live", json="print an array of objects")
    sub.add_argument(
        "-a", "--all", action="store_true", help="also those that have ended, as far as remembered"
    )
    sub.add_argument("--wide", action="store_true", help="all columns, however wide that is")
    sub = command("launch", "start an app, and print the number of its session", json="print an object")
    sub.add_argument("app", metavar="APP", type=checked(AppId.parse), help="app id, as 'apps' lists it")
    sub.add_argument(
        "-w", "--wait", action="store_true", help="wait for its end, and exit with its exit status"
    )
    sub.add_argument("-f", "--follow", action="store_true", help="the same, and show what the app prints")
    sub.add_argument("--no-wait", action="store_true", help="do not even wait until it is ready")
    sub.add_argument(
        "--wait-stable",
        metavar="SECONDS",
        type=checked(_seconds),
        help="it is a failure if it ends so soon after",
    )
    sub = command("stop", "end a session, or all of an app", json="print an array of objects")
    _add_target(sub)
    sub = command("restart", "start a session, or all of an app, anew", json="print an array of objects")
    _add_target(sub)
    sub = command(
        "status",
        "tell all about a session, an app, or weft-appd",
        json="print an object, of an app an array",
    )
    _add_target(sub, nargs="?")
    command("apps", "list the apps that can be launched", json="print an array of objects")
    sub = command("logs", "show what the journal has of a session or an app", json="print an object a line")
    _add_target(sub)
    sub.add_argument("-f", "--follow", action="store_true", help="go on showing what comes")
    sub.add_argument("-n", "--lines", metavar="N", type=checked(_count), help="show the last N entries only")
    command("watch", "tell of launches, READY and ends as they come", json="print an object a line")
    sub = command("top", "show what sessions and services use", json="print an array of objects a line")
    sub.add_argument("--once", action="store_true", help="only once")
    sub.add_argument(
        "--sort", metavar="KEY", type=checked(_order), default=Order.CPU, help=f"one of {', '.join(Order)}"
    )
    sub.add_argument(
        "--interval",
        metavar="SECONDS",
        type=checked(_interval),
        default=INTERVAL_S,
        help="between two looks",
    )
    sub = command("history", "tell what was done with apps, and by whom", json="print an array of objects")
    sub.add_argument("app", metavar="APP", nargs="?", type=checked(AppId.parse), help="of this app alone")
    sub.add_argument(
        "-n", "--lines", metavar="N", type=checked(_count), default=history.COUNT, help="the last N of it"
    )
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
            return list_all(screen, environ, with_ended=options.all, wide=options.wide)
        case "launch":
            return _launch(screen, environ, options)
        case "stop":
            return commands.stop(screen, environ, options.target)
        case "status":
            if options.target is None:
                return commands.daemon_status(screen, environ)
            return status(screen, environ, options.target)
        case "restart":
            return restart(screen, environ, options.target)
        case "apps":
            return commands.apps(screen, environ)
        case "logs":
            return logs.show(screen, environ, options.target, follow=options.follow, lines=options.lines)
        case "watch":
            return watch(screen, environ)
        case "top":
            return top(screen, environ, order=options.sort, interval=options.interval, once=options.once)
        case "history":
            return history.history(screen, environ, options.app, lines=options.lines)
        case "restore":
            act = restore.forget if options.forget else restore.restore
            return act(screen, environ, options.app)
        case _:
            from weft_runtime.ctl.doctor import doctor  # noqa: PLC0415 - a quarter of the time of any other command

            return doctor(screen, environ)


def _launch(screen: Screen, environ: Mapping[str, str], options: argparse.Namespace) -> int:
    waits = [
        (name, until)
        for name, given, until in (
            ("--wait", options.wait, Until.ENDED),
            ("--follow", options.follow, Until.ENDED),
            ("--no-wait", options.no_wait, Until.LAUNCHED),
            ("--wait-stable", options.wait_stable is not None, Until.STABLE),
        )
        if given
    ]
    if len({until for _, until in waits}) > 1:
        names = " and ".join(name for name, _ in waits)
        raise WeftError(Problem.USAGE, f"{names} do not go together", _LAUNCH_HINT)
    until = waits[0][1] if waits else Until.READY
    stable_s = options.wait_stable or 0
    return launch(screen, environ, options.app, until=until, follow=options.follow, stable_s=stable_s)


def _add_target(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    parser.add_argument(
        "target",
        metavar="ID|APP",
        nargs=nargs,
        type=checked(_target),
        help="number of a session, or an app id",
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


def _seconds(text: str) -> float:
    """A positive number of seconds, of a day at most."""
    try:
        value = float(text) if text.isascii() and len(text) < 20 else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value <= _SECONDS_MAX:
        raise ValueError(f"{printable(text, 32)} is no number of seconds from 0 to {_SECONDS_MAX}")
    return value


def _interval(text: str) -> float:
    return max(INTERVAL_MIN_S, _seconds(text))


def _order(text: str) -> Order:
    try:
        return Order(text)
    except ValueError:
        raise ValueError(f"{printable(text, 32)} is none of {', '.join(Order)}") from None


if __name__ == "__main__":
    sys.exit(main())
