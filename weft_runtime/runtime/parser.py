# SPDX-License-Identifier: Apache-2.0
"""The command line of weft-runtime by argparse: help, errors, and all that is not in the usual form."""

import argparse
import os
import stat
from collections.abc import Sequence
from typing import NoReturn

from weft_runtime.commandline import ArgumentParser, checked
from weft_runtime.escape import quote
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

_SESSION = ("app_id", "session_id")
_SERVICE = ("app_id",)
_CHECK_MODULE = "--check-module"


def parse_any(argv: Sequence[str], program: str) -> Arguments:
    """Parse any command line; raises what `arguments.parse` does."""
    # Not as optional arguments: argparse would then accept no option between the two.
    if any(argument.partition("=")[0] == _CHECK_MODULE for argument in argv):
        options, _ = build_parser(program, positional=()).parse_known_args(argv)
        raise CheckRequested(options.check_module, options.code_to)
    service = "--service" in argv
    options = build_parser(program, positional=_SERVICE if service else _SESSION).parse_args(argv)
    return Arguments(
        app_id=options.app_id,
        session_id=None if service else options.session_id,
        preopens=tuple(options.preopens),
        ipc_socket=options.ipc_socket,
        sd_notify=options.sd_notify,
        log_level=options.log_level,
    )


def build_parser(program: str, *, positional: Sequence[str] = _SESSION) -> argparse.ArgumentParser:
    """The parser; the manual page is checked against it."""
    parser = ArgumentParser(
        prog=program,
        description="Run the WASI module of one installed app in this process.",
        epilog="See weft-runtime(1) for the exit statuses, the environment and the limits.",
        add_help=False,
    )
    add = parser.add_argument
    if "app_id" in positional:
        add("app_id", metavar="app_id", type=checked(AppId.parse), help="the app, such as org.example.notes")
    if "session_id" in positional:
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
        _CHECK_MODULE, metavar="FILE",
        help="say whether FILE (- is standard input) could be run, without running any of it, and exit",
    )  # fmt: skip
    add(
        "--code-to", metavar="FD", type=checked(_file_descriptor),
        help="write the compiled code of that FILE, as the cache has it, to the open file FD",
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


class _ForkServerAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error("--fork-server must be the only argument")


class _VersionAction(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        raise VersionRequested


def _file_descriptor(text: str) -> int:
    try:
        fd = int(text) if text.isascii() and text.isdigit() else -1
        if fd > 2 and stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
    except (OSError, OverflowError, ValueError):
        pass
    raise ValueError(f"{quote(text)} is not the number of an open file, 3 or above")
