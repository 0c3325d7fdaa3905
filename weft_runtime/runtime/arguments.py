# SPDX-License-Identifier: Apache-2.0
"""The command line of weft-runtime."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from weft_runtime import paths
from weft_runtime.escape import quote
from weft_runtime.ids import AppId, SessionId
from weft_runtime.journal import Level

SOCKET_PATH_MAX = 107
"""Bytes of a Unix socket's path: sun_path of unix(7) without its final NUL."""


class Preopen(NamedTuple):
    """A host directory that the guest may open, and the name it has there."""

    host: str
    guest: str
    """Whatever the locale, this is UTF-8."""
    writable: bool


class Arguments(NamedTuple):
    """A command line that says what to run."""

    app_id: AppId
    session_id: SessionId | None
    """None for a service, of which there is one at a time."""
    preopens: tuple[Preopen, ...]
    ipc_socket: str | None
    sd_notify: bool
    log_level: Level | None


class HelpRequested(Exception):
    """--help was given; the text is the argument."""


class VersionRequested(Exception):
    """--version was given: what it prints needs the engine, which parsing does not."""


class CheckRequested(Exception):
    """--check-module was given."""

    def __init__(self, path: str, code_to: int | None) -> None:
        super().__init__(path, code_to)
        self.path = path
        self.code_to = code_to
        """The descriptor to write the sealed code to."""


def subject(argv: Sequence[str]) -> dict[str, str]:
    """The fields of the log that say which app, and which session, a command line is about, if it is a right one."""
    fields: dict[str, str] = {}
    for number, argument in enumerate(argv):
        try:
            fields["WEFT_APP_ID"] = AppId.parse(argument)
            fields["WEFT_SESSION_ID"] = str(SessionId.parse(argv[number + 1]))
        except (ValueError, IndexError):
            pass
        if fields:
            break
    return fields


def parse(argv: Sequence[str], program: str) -> Arguments:
    """Parse the arguments after the program's name.

    Raises WeftError(USAGE), HelpRequested, VersionRequested or CheckRequested.
    """
    try:
        plain = parse_plain(argv)
    except ValueError:
        plain = None
    if plain is not None:
        return plain
    from weft_runtime.runtime.parser import parse_any  # noqa: PLC0415 - argparse costs a launch 8 ms

    return parse_any(argv, program)


def parse_plain(argv: Sequence[str]) -> Arguments | None:
    """Parse a command line without a mistake, in the usual form; None or a ValueError for any other.

    What is wrong, asks for a text, or has words that begin with a dash without being options is left to
    argparse, which says and knows more. Where this has a result, it is the same.
    """
    words: list[str] = []
    preopens: list[Preopen] = []
    ipc_socket = log_level = None
    service = sd_notify = False
    rest = iter(argv)
    for word in rest:
        if not word.startswith("-"):
            words.append(word)
        elif word == "--service":
            service = True
        elif word == "--sd-notify":
            sd_notify = True
        else:
            option, equals, value = word.partition("=")
            if not equals:
                value = next(rest, "-")
            if value.startswith("-"):
                return None
            match option:
                case "--preopen":
                    preopens.append(writable_preopen(value))
                case "--preopen-ro":
                    preopens.append(read_only_preopen(value))
                case "--ipc-socket":
                    ipc_socket = socket_path(value)
                case "--log-level":
                    log_level = Level.parse(value)
                case _:
                    return None
    if len(words) != (1 if service else 2):
        return None
    session_id = None if service else SessionId.parse(words[1])
    return Arguments(AppId.parse(words[0]), session_id, tuple(preopens), ipc_socket, sd_notify, log_level)


def writable_preopen(text: str) -> Preopen:
    """The value of --preopen. Raises ValueError."""
    return _preopen(text, writable=True)


def read_only_preopen(text: str) -> Preopen:
    """The value of --preopen-ro. Raises ValueError."""
    return _preopen(text, writable=False)


def _preopen(text: str, *, writable: bool) -> Preopen:
    host, separator, guest = text.partition("::")
    if not separator:
        guest = host
    if not host or not guest:
        raise ValueError(f"{quote(text)} is not HOST[::GUEST]: a path is empty")
    # The engine takes paths as UTF-8.
    if not text.isascii():
        if not paths.is_utf8(text):
            raise ValueError(f"{quote(text)} is not UTF-8")
        guest = paths.shown(guest)
    return Preopen(host, guest, writable)


def socket_path(text: str) -> str:
    """The value of --ipc-socket. Raises ValueError."""
    size = len(os.fsencode(text))
    if not 0 < size <= SOCKET_PATH_MAX:
        raise ValueError(f"{quote(text)} is not the path of a socket: expected 1 to {SOCKET_PATH_MAX} bytes")
    return text
