# SPDX-License-Identifier: Apache-2.0
"""What the command lines of all our programs have in common."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable

Parsed = TypeVar("Parsed")


class ArgumentParser(argparse.ArgumentParser):
    """argparse with whole option names only, and errors that are ours: WeftError(USAGE)."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})  # type: ignore[arg-type] # passed through

    def error(self, message: str) -> NoReturn:
        raise WeftError(Problem.USAGE, printable(message), f"see {self.prog} --help")

    def _print_message(self, message: str, file: object = None) -> None:
        # Only help and version come here; argparse itself passes over what cannot be written.
        write_result(message.removesuffix("\n"))

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def] # overloads of typeshed
        for argument in args or ():
            # argparse drops a value that is two dashes, and hands on an empty list in its place.
            if argument.startswith("--") and argument.endswith("=--"):
                self.error(f"argument {argument.removesuffix('=--')}: '--' is no value")
        options, surplus = self.parse_known_args(args, namespace)
        if surplus:
            self.error(f"unexpected argument: {surplus[0]}")
        return options


def checked(parse_text: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """`parse_text` as a type of argparse, which hides the text of a ValueError, but not of its own error."""

    def parse_argument(text: str) -> Parsed:
        try:
            return parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


def prepare_streams() -> None:
    """Make the standard streams fit for text from outside, whatever the locale, and for being closed.

    Where one is closed /dev/null takes its place, for us and for the programs that we execute: a file that is opened
    later, such as the lock of a store, must not get our text or theirs.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(null, True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_result(text: str, end: str = "\n") -> None:
    """Print a line of results.

    Raises BrokenPipeError where nobody reads it any more, else WeftError(OS_ERROR): a program that has printed
    nothing must not say that all is well.
    """
    try:
        if sys.stdout is None:  # as Python has it where it was closed
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        print(text, end=end, flush=True)
    except OSError as error:
        _give_up(1)
        if isinstance(error, BrokenPipeError):
            raise
        raise from_os_error("write to standard output", error) from None


def write_note(text: str, end: str = "\n") -> None:
    """Print to standard error. As for a log: that nobody reads it must not end the program."""
    if sys.stderr is None:  # print would take standard output in its place
        return
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:
        _give_up(2)


def _give_up(fd: int) -> None:
    """Let what is left of a stream go nowhere: Python would try again at its end, and end with a status of its own."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, fd)
    os.close(null)
