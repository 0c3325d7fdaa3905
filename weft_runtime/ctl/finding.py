# SPDX-License-Identifier: Apache-2.0
"""What a doctor has found: one sentence, why it matters, and the command that mends it."""

from enum import StrEnum
from typing import NamedTuple

SERVICES = "weft-appd.socket weft-appd.service"
INSTALL = "apt-get install --reinstall ./weft-runtime_*.deb"
"""In the directory of the package's file."""

RESET = f"systemctl reset-failed {SERVICES}"
RESTART = f"{RESET}; systemctl restart weft-appd"
"""The commands of several findings may be more restarts than systemd allows in a minute: it has to forget those before."""

USERS = f"systemd-sysusers && {RESET}; systemctl restart {SERVICES}"


class Status(StrEnum):
    OK = "ok"
    NOTE = "note"
    """Worth knowing; apps run all the same."""
    PROBLEM = "problem"


class Finding(NamedTuple):
    status: Status
    what: str
    why: str | None = None
    """What follows from it, or where it comes from."""
    mend: str | None = None
    """A command of a shell, for root unless it says so."""

    @property
    def text(self) -> str:
        return self.what if self.why is None else f"{self.what}: {self.why}"


def ok(what: str) -> Finding:
    return Finding(Status.OK, what)


def note(what: str, why: str | None = None, mend: str | None = None) -> Finding:
    return Finding(Status.NOTE, what, why, mend)


def problem(what: str, why: str | None, mend: str) -> Finding:
    return Finding(Status.PROBLEM, what, why, mend)
