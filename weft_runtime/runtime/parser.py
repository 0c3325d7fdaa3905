# SPDX-License-Identifier: Apache-2.0
"""The command line of weft-runtime by argparse: help, errors, and all that is not in the usual form."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from weft_runtime.commandline import ArgumentParser, checked
from weft_runtime.ids import AppId, SessionId
from weft_runtime.journal import Level
from weft_runtime.runtime.arguments import (
    Arguments,
    CheckRequested,
    HelpRequested,
    VersionRequested,
    read_only_preopen,
    socket_path,
    writable_preopen,
)


def parse_any(argv: Sequence[str], program: str) -> Arguments:
    """Parse any command line; raises what `arguments.parse` does."""
    # Not as an optional argument: argparse would then accept no option between the two.
    service = "--service" in argv
    options = build_parser(program, service=service).parse_args(argv)
    return Arguments(
        app_id=options.app_id,
        session_id=None if service else options.session_id,
        preopens=tuple(options.preopens),
        ipc_socket=options.ipc_socket,
        sd_notify=options.sd_notify,
        log_level=options.log_level,
    )


def build_parser(program: str, *, service: bool = False) -> argparse.ArgumentParser:
    """The parser; the manual page is checked against it."""
    parser = ArgumentParser(
        prog=program,
        description="Run the WASI module of one installed app in this process.",
        epilog="See weft-runtime(1) for the exit statuses, the environment and the limits.",
        add_help=False,
    )
    add = parser.add_argument
    add("app_id", metavar="app_id", type=checked(AppId.parse), help="the app, such as org.example.notes")
    if not service:
        add(
            "session_id",
            metavar="session_id",
            type=checked(SessionId.parse),
            help="number of this run, for the log",
        )
    add(
        "--service",
        action="store_true",
        help="run as a service: without session_id, and with the directories that the app's capabilities grant",
    )
    add(
        "--preopen", metavar="HOST[::GUEST]", dest="preopens", action="append", default=[],
        type=checked(writable_preopen),
        help="let the app read and write the directory HOST, as GUEST (default: HOST); repeatable",
    )  # fmt: skip
    add(
        "--preopen-ro", metavar="HOST[::GUEST]", dest="preopens", action="append",
        type=checked(read_only_preopen), help="the same, for reading only",
    )  # fmt: skip
    add(
        "--ipc-socket",
        metavar="PATH",
        type=checked(socket_path),
        help="accepted for later use; only checked",
    )
    add(
        "--sd-notify", action="store_true", help="tell the service manager too: READY=1, STATUS=, STOPPING=1"
    )
    add(
        "--log-level",
        metavar="LEVEL",
        type=checked(Level.parse),
        help="log this and worse: debug, info, warning, ...",
    )
    add(
        "--check-module", metavar="FILE", action=_CheckAction,
        help="say whether FILE could be run, without running any of it, and exit",
    )  # fmt: skip
    add(
        "--fork-server", action=_ForkServerAction, nargs=0,
        help="fork sessions for the weft-appd that has started this; it must be the only argument",
    )  # fmt: skip
    add("--version", action=_VersionAction, nargs=0, help="name the version and the engine, and exit")
    add("--help", action=_HelpAction, nargs=0, help="show this text and exit")
    return parser


class _HelpAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise HelpRequested(parser.format_help())


class _CheckAction(argparse.Action):
    def __call__(self, parser: object, namespace: object, values: object, option: object = None) -> NoReturn:
        raise CheckRequested(values)


class _ForkServerAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error("--fork-server must be the only argument")


class _VersionAction(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        raise VersionRequested
