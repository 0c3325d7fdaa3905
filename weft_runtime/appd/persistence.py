# SPDX-License-Identifier: Apache-2.0
"""`last-session.json`: the apps that run, so that the next daemon can start them again."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from weft_runtime.appd import files
from weft_runtime.escape import quote
from weft_runtime.ids import AppId

FILE_NAME = "last-session.json"
ATTEMPT_NAME = "restore-attempts"

ATTEMPTS_MAX = 3
"""Restores in a row that did not last STABLE_S: no app may take the device down for ever."""

STABLE_S = 60.0
"""Seconds after which a restore counts as survived."""


class RestoreRefused(Exception):
    """The apps are not started again; the text says why and where the list is now."""


class LastSession:
    """The file in the daemon's state directory. Its methods may wait for a disk, and raise OSError."""

    def __init__(self, directory: Path, volatile: Path) -> None:
        """What cannot be written to `directory` goes to `volatile`, if that can help."""
        self.file = directory / FILE_NAME
        self._attempts = directory / ATTEMPT_NAME
        self._attempts_beside = volatile / ATTEMPT_NAME
        self.is_unread = False
        """Whether the file holds a list whose apps were not started: it must not be replaced."""

    def save(self, app_ids: Iterable[str], *, durable: bool = True) -> None:
        """Replace the list, in one step; `durable` waits until it would survive a power failure."""
        if self.is_unread:
            with contextlib.suppress(FileNotFoundError):
                self.file.replace(self._kept("unread"))
            self.is_unread = False
        text = json.dumps(list(app_ids), separators=(",", ":"))
        files.put(self.file, text.encode(), durable=durable)

    def take(self) -> tuple[list[AppId], list[str]]:
        """The apps to start again, and what an operator should know of it, each a sentence to be completed by nothing.

        The list stays until the next `save`, should this start end at once. A file that is absent or unparsable counts
        as empty, and so does what is no regular file. Raises RestoreRefused where the last ATTEMPTS_MAX restores all
        ended the daemon or the device.
        """
        warnings = []
        # Until it is read and its apps are about to be started.
        self.is_unread = True
        try:
            values = json.loads(files.read(self.file))
            if not isinstance(values, list):
                raise TypeError
            app_ids = [app_id for value in values if (app_id := _app_id(value)) is not None]
            if len(app_ids) < len(values):
                no_ids = (
                    f"{len(values) - len(app_ids)} of the {len(values)} entries of {quote(str(self.file))}"
                )
                warnings.append(f"ignoring {no_ids}: they are no app ids")
        except files.NotRegularError as error:
            warnings.append(
                f"cannot read the last session, ignoring {quote(str(self.file))}: {error.strerror}"
            )
            app_ids = []
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            app_ids = []
        if not app_ids:
            self.is_unread = False
            with contextlib.suppress(OSError):
                self.survived()
            return [], warnings
        attempts = self._count_attempts() + 1
        if attempts > ATTEMPTS_MAX:
            raise RestoreRefused(self._refuse())
        warnings += self._note(attempts)
        self.is_unread = False
        return app_ids, warnings

    def survived(self) -> None:
        """The restore has lasted long enough, or ended in good order."""
        try:
            self._attempts.unlink(missing_ok=True)
        except OSError:
            if self._has_place_beside:
                files.put(self._attempts_beside, b"0", durable=False)
            raise
        if self._has_place_beside:
            self._attempts_beside.unlink(missing_ok=True)

    def _refuse(self) -> str:
        kept = self._kept("refused")
        try:
            self.file.replace(kept)
            self.is_unread = False
        except OSError:  # it stays where it is, and is not replaced
            kept = self.file
        with contextlib.suppress(OSError):
            self.survived()
        message = f"the last {ATTEMPTS_MAX} starts of these apps did not last {STABLE_S:g} s"
        return f"{message}; their list is in {kept}"

    def _kept(self, why: str) -> Path:
        return self.file.with_suffix(f".{why}.json")

    @property
    def _has_place_beside(self) -> bool:
        return self._attempts_beside != self._attempts

    def _note(self, attempts: int) -> list[str]:
        """Write down which attempt this is; what an operator should know of it."""
        text = str(attempts).encode()
        try:
            files.put(self._attempts, text, durable=True)
            if self._has_place_beside:
                self._attempts_beside.unlink(missing_ok=True)
            return []
        except OSError as error:
            problem = f"cannot count the starts of the last session in {quote(str(self._attempts))}"
            problem = f"{problem}: {error.strerror}"
        try:
            if self._has_place_beside:
                files.put(self._attempts_beside, text, durable=False)
                return [
                    f"{problem}; {quote(str(self._attempts_beside))} has the number until the device is off"
                ]
        except OSError:
            pass
        return [f"{problem}; apps that end the daemon would be started again for ever"]

    def _count_attempts(self) -> int:
        # The one beside is written only where the other cannot be, and so is newer.
        for path in (self._attempts_beside, self._attempts):
            with contextlib.suppress(OSError, ValueError):
                return int(files.read(path)[:8])
        return 0


def _app_id(value: object) -> AppId | None:
    try:
        return AppId.parse(value) if isinstance(value, str) else None
    except ValueError:
        return None


def write_port(path: Path, port: int) -> None:
    """Write `appd.wsport`, bare decimal without a line break as clients expect. Raises OSError.

    Whatever our umask is, clients of other users read it.
    """
    files.put(path, str(port).encode(), durable=False, mode=0o644)
