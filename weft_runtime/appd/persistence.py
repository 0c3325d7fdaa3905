# SPDX-License-Identifier: Apache-2.0
"""`last-session.json`: the apps that run, so that the next daemon can start them again."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from weft_runtime.ids import AppId

FILE_NAME = "last-session.json"
ATTEMPT_NAME = "restore-attempts"

ATTEMPTS_MAX = 3
"""Restores in a row that did not last STABLE_S: no app may take the device down for ever."""

STABLE_S = 60.0
"""Seconds after which a restore counts as survived."""

_SIZE_MAX = 1024 * 1024


class RestoreRefused(Exception):
    """The apps are not started again; the text says why and where the list is now."""


class LastSession:
    """The file in the daemon's state directory. All methods raise OSError."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE_NAME
        self._attempts = directory / ATTEMPT_NAME

    def save(self, app_ids: Iterable[str], *, durable: bool = True) -> None:
        """Replace the list, in one step; `durable` waits until it would survive a power failure."""
        _write(self._file, json.dumps(list(app_ids), separators=(",", ":")), durable=durable)

    def take(self) -> list[AppId]:
        """The apps to start again. The list stays until the next `save`, should this start end at once.

        Raises RestoreRefused where the last ATTEMPTS_MAX restores all ended the daemon or the device.
        A file that is absent or unparsable counts as empty.
        """
        try:
            with self._file.open("rb") as file:
                values = json.loads(file.read(_SIZE_MAX))
            app_ids = [AppId.parse(value) for value in values if isinstance(value, str)]
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            app_ids = []
        if not app_ids:
            self.survived()
            return []
        attempts = self._count_attempts() + 1
        if attempts > ATTEMPTS_MAX:
            kept = self._file.with_suffix(".refused.json")
            self._file.replace(kept)
            self.survived()
            message = f"the last {ATTEMPTS_MAX} starts of these apps did not last {STABLE_S:g} s"
            raise RestoreRefused(f"{message}; their list is in {kept}")
        _write(self._attempts, str(attempts), durable=True)
        return app_ids

    def survived(self) -> None:
        """The restore has lasted long enough, or ended in good order."""
        self._attempts.unlink(missing_ok=True)

    def _count_attempts(self) -> int:
        try:
            return int(self._attempts.read_text(encoding="utf-8")[:8])
        except (FileNotFoundError, ValueError):
            return 0


def _write(path: Path, text: str, *, durable: bool, mode: int = 0o600) -> None:
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_port(path: Path, port: int) -> None:
    """Write `appd.wsport`, bare decimal without a line break as clients expect. Raises OSError.

    Whatever our umask is, clients of other users read it.
    """
    _write(path, str(port), durable=False, mode=0o644)
