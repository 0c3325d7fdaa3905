# SPDX-License-Identifier: Apache-2.0
"""The failures that we name ourselves, and the exit status of each."""

import errno
from enum import IntEnum, StrEnum

from weft_runtime.escape import printable


class ExitStatus(IntEnum):
    """Exit statuses of `weft-runtime` that are not the guest's own 0 to 125.

    Ours are 100 + sysexits(3): systemd.exec(5) leaves 150 to 199 to applications, so that nobody
    mistakes one for the guest's. `meaning` is the text of the manual page.
    """

    meaning: str

    TRAP = 134, "the app trapped"
    USAGE = 164, "the command line is wrong"
    DATA = 165, "the manifest or the module is invalid"
    NO_INPUT = 166, "the package or its module was not found"
    UNAVAILABLE = 169, "the engine is not installed"
    SOFTWARE = 170, "internal error"
    OS_ERROR = 171, "operating system error"
    TRY_AGAIN = 175, "compiling ran into a limit; a later attempt may succeed"
    NO_PERMISSION = 177, "not permitted"
    CONFIG = 178, "the configuration is wrong"

    def __new__(cls, value: int, meaning: str) -> "ExitStatus":
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


GUEST_STATUS_MAX = 125
"""The largest status that the engine passes on from the guest's `proc_exit`."""


class Problem(StrEnum):
    """A short, stable code for each kind of failure, for scripts (`WEFT_PROBLEM` in the journal)."""

    USAGE = "usage"
    MANIFEST_INVALID = "manifest-invalid"
    PACKAGE_INVALID = "package-invalid"
    MODULE_INVALID = "module-invalid"
    LIMIT_EXCEEDED = "limit-exceeded"
    COMPILE_LIMIT = "compile-limit"
    COMPILE_STARVED = "compile-starved"
    COMPILE_MEMORY = "compile-memory"
    PACKAGE_NOT_FOUND = "package-not-found"
    MODULE_NOT_FOUND = "module-not-found"
    ENGINE_MISSING = "engine-missing"
    INTERNAL_ERROR = "internal-error"
    OS_ERROR = "os-error"
    NOT_PERMITTED = "not-permitted"
    NOT_TRUSTED = "not-trusted"
    CHANGED = "changed-after-signing"
    CAPABILITY_REFUSED = "capability-refused"
    OUT_OF_MEMORY = "out-of-memory"
    CONFIG_INVALID = "config-invalid"


EXIT_STATUS_OF = {
    Problem.USAGE: ExitStatus.USAGE,
    Problem.MANIFEST_INVALID: ExitStatus.DATA,
    Problem.PACKAGE_INVALID: ExitStatus.DATA,
    Problem.MODULE_INVALID: ExitStatus.DATA,
    Problem.LIMIT_EXCEEDED: ExitStatus.DATA,
    Problem.COMPILE_LIMIT: ExitStatus.TRY_AGAIN,
    Problem.COMPILE_STARVED: ExitStatus.TRY_AGAIN,
    Problem.COMPILE_MEMORY: ExitStatus.TRY_AGAIN,
    Problem.PACKAGE_NOT_FOUND: ExitStatus.NO_INPUT,
    Problem.MODULE_NOT_FOUND: ExitStatus.NO_INPUT,
    Problem.ENGINE_MISSING: ExitStatus.UNAVAILABLE,
    Problem.INTERNAL_ERROR: ExitStatus.SOFTWARE,
    Problem.OS_ERROR: ExitStatus.OS_ERROR,
    Problem.NOT_PERMITTED: ExitStatus.NO_PERMISSION,
    Problem.NOT_TRUSTED: ExitStatus.NO_PERMISSION,
    Problem.CHANGED: ExitStatus.NO_PERMISSION,
    Problem.CAPABILITY_REFUSED: ExitStatus.NO_PERMISSION,
    Problem.OUT_OF_MEMORY: ExitStatus.OS_ERROR,
    Problem.CONFIG_INVALID: ExitStatus.CONFIG,
}


class WeftError(Exception):
    """A failure that a person can act on: what was wrong, where, and perhaps what to do.

    `message` and `hint` are shown as they are: whoever raises puts text from outside through
    `escape.quote` or `escape.printable` first.
    """

    def __init__(self, problem: Problem, message: str, hint: str | None = None) -> None:
        super().__init__(problem, message, hint)
        self.problem = problem
        self.message = message
        self.hint = hint

    @property
    def exit_status(self) -> ExitStatus:
        return EXIT_STATUS_OF[self.problem]

    def __str__(self) -> str:
        return f"{self.message} [{self.hint}]" if self.hint else self.message


def stack_of(error: BaseException) -> str:
    """The stack of an exception for the log, without its text, which may be anything."""
    import traceback  # noqa: PLC0415 - costs each launch 4 ms, and is for nothing but this

    return "".join(
        ["Traceback (most recent call last):\n", *traceback.format_tb(error.__traceback__)]
    ).rstrip()


def from_os_error(doing: str, error: OSError, hint: str | None = None) -> WeftError:
    """The error of a system call as ours; `doing` completes "cannot ..."."""
    denied = error.errno in (errno.EACCES, errno.EPERM)
    problem = Problem.NOT_PERMITTED if denied else Problem.OS_ERROR
    return WeftError(problem, f"cannot {doing}: {printable(error.strerror or str(error))}", hint)
