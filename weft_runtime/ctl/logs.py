# SPDX-License-Identifier: Apache-2.0
"""What the journal has of apps and sessions: read by journalctl, for a person or as it comes."""

import errno
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, Self

from weft_runtime.account import DYNAMIC_USERS
from weft_runtime.client import socket_path
from weft_runtime.ctl import entries, words
from weft_runtime.ctl.daemon import NOT_FOUND, connect, is_system, sessions
from weft_runtime.ctl.entries import JOURNALCTL, text
from weft_runtime.ctl.screen import Screen
from weft_runtime.ctl.services import STATE_DIRECTORY
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.ids import AppId, SessionId
from weft_runtime.journal import Event
from weft_runtime.programs import app_unit
from weft_runtime.protocol import SessionInfo, State

JOURNAL_DIRECTORIES = (Path("/var/log/journal"), Path("/run/log/journal"))
JOURNAL_GROUP = "systemd-journal"

LAUNCH_SLACK_S = 0.25
"""Seconds before the time of a launch from which on entries are its own: the daemon takes the time a moment
after the process has begun. Ids begin again with each run of the daemon, which takes longer to start."""

SERVICE_USER = "weft"
"""The user of weft-appd.service and its sessions."""


SINCE_MAX = 2.0**40
"""Seconds since 1970, far beyond anything: journalctl takes no number of hundreds of digits."""

_READ_SIZE = 64 * 1024


def show(
    screen: Screen, environ: Mapping[str, str], target: SessionId | AppId, *, follow: bool, lines: int | None
) -> NoReturn:
    """Become journalctl with the entries of an app, or of one session. Raises WeftError."""
    path = socket_path(environ)
    if complaint := denied(of_system=is_system(path)):
        raise complaint
    subject, note = f"{target}", None
    if isinstance(target, SessionId):
        subject = f"session {target}"
        session, note = _session(environ, target)
        matches = [f"WEFT_SESSION_ID={target}"] if session is None else session_matches(session)
        matches += writers(path)
        if follow and session is not None and session.state is State.STOPPED:
            screen.note(f"{words.who(target, session.app_id)} has ended, nothing will follow")
            follow = False
    else:
        matches = [f"WEFT_APP_ID={target}", *writers(path)]
        matches += service_matches(target) if is_system(path) else ()
    if sys.stdout is None:  # journalctl would get some file of its own there
        raise WeftError(Problem.OS_ERROR, f"cannot write to standard output: {os.strerror(errno.EBADF)}")
    if not _has(matches):
        message = f"the journal has nothing of {subject}"
        if not follow:
            raise WeftError(NOT_FOUND, message, "see 'weftctl list --all' and 'weftctl history'")
        note = f"{message} yet"
    if note is not None:
        screen.note(note)
    options = ["--follow"] if follow else []
    if lines is not None:
        options.append(f"--lines={lines}")
    elif follow:
        options.append("--no-tail")
    if screen.as_json:
        options.append("--output=json")
    sys.stdout.flush()
    try:
        os.execvp(JOURNALCTL, [JOURNALCTL, *options, *matches])
    except OSError as error:
        raise from_os_error(f"run {JOURNALCTL}", error, "install systemd") from None


def writers(socket: Path) -> list[str]:
    """Arguments of journalctl: the users whose entries about sessions are believed.

    Every user can write entries with any fields; those that begin with "_" are journald's own. Not the unit: journald
    does not know it for a process that ended just after it had written. A daemon that a user runs is as trustworthy
    as the owner of its socket, and so is root.
    """
    users = {0}
    try:
        users.add(socket.lstat().st_uid)
    except OSError:  # no daemon is there now
        if not is_system(socket):
            users.add(os.getuid())
    if users == {0}:  # systemd made the socket for the service
        with suppress(KeyError):
            users.add(pwd.getpwnam(SERVICE_USER).pw_uid)
    return [f"_UID={user}" for user in sorted(users)]


def service_matches(app_id: AppId) -> list[str]:
    """Arguments of journalctl, after others: or the entries of the app's service, and those of systemd about it."""
    groups = [*([f"WEFT_APP_ID={app_id}", *writer] for writer in service_writers(app_id))]
    groups.insert(1, ["_PID=1", f"UNIT={app_unit(app_id)}"])
    return [part for group in groups for part in ("+", *group)]


def service_writers(app_id: AppId) -> list[list[str]]:
    """Each a match of journalctl for who writes as the app's service."""
    found = [[f"_SYSTEMD_UNIT={app_unit(app_id)}"]]
    with suppress(OSError):
        # systemd gives the service the user that owns its state again: for what journald knows no unit of. Only root
        # can look, and nobody can log in as such a user.
        owner = (STATE_DIRECTORY / app_id).stat().st_uid
        if owner in DYNAMIC_USERS:
            found.append([f"_UID={owner}"])
    return found


def session_matches(session: SessionInfo) -> list[str]:
    """Arguments of journalctl for all entries about a session: its own, the daemon's, its runtime's.

    A number names many sessions, one in each run of the daemon: app and time make it this one. (The unit's
    invocation id would not do: journald does not know it for processes that ended just after they logged.)
    """
    since = min(max(0.0, session.launched - LAUNCH_SLACK_S), SINCE_MAX)
    app_id = session.app_id.replace("\0", "")  # an argument cannot have it, whatever the daemon says
    return [f"--since=@{since:.6f}", f"WEFT_APP_ID={app_id}", f"WEFT_SESSION_ID={session.session_id}"]


def denied(*, of_system: bool, directories: Sequence[Path] = JOURNAL_DIRECTORIES) -> WeftError | None:
    """Why the journal cannot be read by whoever runs this, if so.

    `of_system`: what a service logs is wanted; what a user's own programs log is in the user's own file.
    """
    own = () if of_system else (f"user-{os.getuid()}.journal",)
    there = False
    for directory in directories:
        for machine in _entries(directory):
            names = [file.name for file in _entries(machine)]
            there = there or bool(names) or not os.access(machine, os.R_OK)
            if any(os.access(machine / name, os.R_OK) for name in ("system.journal", *own) if name in names):
                return None
    if not there:
        message = "there is no journal on this machine"
        return WeftError(Problem.OS_ERROR, message, "see 'systemctl status systemd-journald'")
    hint = f"become a member: 'usermod -aG {JOURNAL_GROUP} USER' as root, then log in again"
    return WeftError(Problem.NOT_PERMITTED, "permission denied on the journal of the system", hint)


class Entry(NamedTuple):
    event: str
    stream: str
    """Of an app's output: stdout or stderr."""
    message: str


class Follower:
    """The output of one session as the journal gets it, from a time on; a context manager."""

    def __init__(self, socket: Path, app_id: str, session_id: int, since: float) -> None:
        """`socket` is that of the daemon. Raises WeftError(OS_ERROR)."""
        events = (Event.OUTPUT, Event.OUTPUT_DROPPED, Event.SESSION_ENDED)
        argv = [
            *(JOURNALCTL, "--follow", "--no-tail", "--quiet", "--all", "--output=json"),
            *(f"--since=@{since:.6f}", f"WEFT_APP_ID={app_id}", f"WEFT_SESSION_ID={session_id}"),
            *(f"WEFT_EVENT={event}" for event in events),
            *writers(socket),
        ]
        try:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0
            )
        except OSError as error:
            raise from_os_error(f"run {JOURNALCTL}", error) from None
        self._rest = b""
        self.is_open = True
        """Whether more may come."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._pipe.close()

    def fileno(self) -> int:
        return self._pipe.fileno()

    def read(self) -> list[Entry]:
        """The entries that have come; blocks until there is something."""
        data = os.read(self.fileno(), _READ_SIZE)
        self.is_open = bool(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [_parse(line) for line in lines if line]

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout


def _has(matches: Sequence[str]) -> bool:
    """Whether there is any entry with these. Raises WeftError."""
    with entries.latest(matches) as found:
        return next(found, None) is not None


def _session(environ: Mapping[str, str], session_id: SessionId) -> tuple[SessionInfo | None, str | None]:
    """What the daemon knows of a session; None, and what to say of that, where it knows nothing or is not there."""
    try:
        with connect(environ) as daemon:
            found = [session for session in sessions(daemon) if session.session_id == session_id]
    except WeftError as error:
        return None, f"{error}; these are the sessions {session_id} of all its runs"
    if not found:
        return None, f"weft-appd does not know session {session_id}: these are those of all its runs"
    return found[0], None


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _parse(line: bytes) -> Entry:
    """An entry in the form of `journalctl --output=json`."""
    values = json.loads(line)
    return Entry(*(text(values, name) for name in ("WEFT_EVENT", "WEFT_STREAM", "MESSAGE")))
