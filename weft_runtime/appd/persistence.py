# SPDX-License-Identifier: Apache-2.0
"""`last-session.json`: the apps that run, so that the next daemon can start them again."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from weft_runtime.appd import files
from weft_runtime.escape import printable, quote
from weft_runtime.ids import AppId
from weft_runtime.limits import REFUSED_LISTS_MAX, RESTORE_APPS_MAX

FILE_NAME = "last-session.json"
ATTEMPT_NAME = "restore-attempts"

ATTEMPTS_MAX = 3
"""Restores in a row that did not last STABLE_S: no app may take the device down for ever."""

STABLE_S = 60.0
"""Seconds after which a restore counts as survived."""

HELP = "'weftctl restore' tries it again, 'weftctl restore --forget' removes it"
"""What to do with a list that was refused."""


_UNREAD = "it could not be read"


class RestoreRefused(Exception):
    """The apps are not started again; the text says why, where the list is now and what to do."""


class LastSession:
    """The file in the daemon's state directory. Its methods may wait for a disk, and raise OSError."""

    def __init__(self, directory: Path, volatile: Path) -> None:
        """What cannot be written to `directory` goes to `volatile`, if that can help."""
        self.file = directory / FILE_NAME
        self._attempts = directory / ATTEMPT_NAME
        self._attempts_beside = volatile / ATTEMPT_NAME
        self.is_unread = False
        """Whether the file holds a list whose apps were not started: it must not be replaced."""
        self.refused: dict[str, str] = {}
        """The lists whose apps were not started: by path, why. Never changed, but replaced."""

    def save(self, app_ids: Iterable[str], *, durable: bool = True) -> None:
        """Replace the list, in one step; `durable` waits until it would survive a power failure."""
        if self.is_unread:
            self._put_aside(self.refused.get(str(self.file), _UNREAD))
        text = json.dumps(list(app_ids), separators=(",", ":"))
        files.put(self.file, text.encode(), durable=durable)

    def take(self) -> tuple[list[AppId], list[str]]:
        """The apps to start again, and what an operator should know of it, each a sentence to be completed by nothing.

        The list stays until the next `save`, should this start end at once. A file that is absent counts as empty.
        Raises RestoreRefused where it holds no list, or where the last ATTEMPTS_MAX restores all ended the daemon or
        the device; then it is kept aside.
        """
        warnings = []
        # Until it is read and its apps are about to be started.
        self.is_unread = True
        self._find_refused()
        try:
            app_ids, others = _app_ids(files.read(self.file))
        except FileNotFoundError:
            app_ids, others = [], 0
        except files.NotRegularError as error:
            raise RestoreRefused(self._refuse_file(error.strerror or "")) from None
        except OSError as error:
            self.refused |= {str(self.file): printable(error.strerror or str(error))}
            raise
        except ValueError as error:
            raise RestoreRefused(self._refuse_file(str(error))) from None
        if others:
            no_ids = f"{others} of the {len(app_ids) + others} entries of {quote(str(self.file))}"
            warnings.append(f"ignoring {no_ids}: they are no app ids")
        if not app_ids:
            self.is_unread = False
            with contextlib.suppress(OSError):
                self.survived()
            return [], warnings
        attempts = self._count_attempts() + 1
        if attempts > ATTEMPTS_MAX:
            why = f"the last {ATTEMPTS_MAX} starts of these apps did not last {STABLE_S:g} s"
            raise RestoreRefused(f"{why}; their list is in {self._refuse(why)}")
        warnings += self._note(attempts)
        self.is_unread = False
        return app_ids, warnings

    def read_refused(self) -> tuple["Counter[str]", list[str]]:
        """How many sessions of each app the refused lists ask for, and which lists these are; `refused` has the others."""
        wanted: Counter[str] = Counter()
        usable = []
        self._find_refused()
        if self.is_unread:
            with contextlib.suppress(OSError):  # lest what is saved takes its place
                self._put_aside(self.refused.get(str(self.file), _UNREAD))
        refused = {}
        for path, why in self.refused.items():
            refused[path] = why
            try:
                app_ids, _ = _app_ids(files.read(Path(path)))
            except FileNotFoundError:
                del refused[path]
            except OSError as error:
                refused[path] = printable(error.strerror or str(error))
            except ValueError as error:
                refused[path] = str(error)
            else:
                # The same app may be on several of them: each start began with what the one before had left.
                wanted |= Counter(map(str, app_ids))
                usable.append(path)
        self.refused = refused
        return wanted, usable

    def drop_refused(self, paths: Iterable[str]) -> None:
        """Remove refused lists that are not needed any more. Raises OSError."""
        for name in paths:
            if name not in self.refused:
                continue
            path = Path(name)
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
            self.refused = {other: why for other, why in self.refused.items() if other != name}
            if path == self.file:
                self.is_unread = False

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

    def _refuse_file(self, why: str) -> str:
        problem = f"{quote(str(self.file))} is no list of apps to start again: {why}"
        return f"{problem}; it is kept as {self._refuse(why)}"

    def _refuse(self, why: str) -> str:
        """Keep the list aside; where it is then, and what to do."""
        try:
            kept = self._put_aside(why)
        except OSError:  # it stays where it is, and is not replaced
            kept = self.file
            self.refused = {**self.refused, str(kept): why}
        with contextlib.suppress(OSError):
            self.survived()
        return f"{printable(str(kept))} [{HELP}]"

    def _put_aside(self, why: str) -> Path:
        """Keep the file under another name. Raises OSError."""
        refused = {path: reason for path, reason in self.refused.items() if path != str(self.file)}
        kept = next((path for path in self._places_aside() if str(path) not in refused), None)
        if kept is None:  # the first of them is the oldest
            kept = next(iter(self._places_aside()))
        with contextlib.suppress(FileNotFoundError):
            self.file.replace(kept)
            refused[str(kept)] = why
        self.is_unread = False
        self.refused = refused
        return kept

    def _places_aside(self) -> Iterable[Path]:
        for number in range(1, REFUSED_LISTS_MAX + 1):
            yield self.file.with_suffix(f".refused{'' if number == 1 else f'-{number}'}.json")

    def _find_refused(self) -> None:
        """Those that are there from earlier starts."""
        # The first release gave one that could not be read a name of its own.
        known = [*self._places_aside(), self.file.with_suffix(".unread.json")]
        with contextlib.suppress(OSError):
            there = {entry.name for entry in self.file.parent.iterdir()}
            found = {str(path): "an earlier start has refused it" for path in known if path.name in there}
            self.refused = {**found, **self.refused}

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


def _app_ids(data: bytes) -> tuple[list[AppId], int]:
    """The app ids of a list, and how many other values it has. Raises ValueError where it is none."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON" if data else "it is empty") from None
    if not isinstance(values, list):
        raise ValueError("it is no JSON array")
    if len(values) > RESTORE_APPS_MAX:
        raise ValueError(f"it has {len(values)} apps, more than {RESTORE_APPS_MAX}")
    app_ids = [app_id for value in values if (app_id := _app_id(value)) is not None]
    return app_ids, len(values) - len(app_ids)


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
