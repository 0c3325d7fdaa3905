# SPDX-License-Identifier: Apache-2.0
"""A package store as weft-pack changes it: one at a time, and each change in one step.

Beside the directory of an app, which nothing but a rename ever touches, there are others of names that no app id
has, so that nobody starts anything from them:

    .ID@incomplete-X  being copied, by a process that has it locked: that waits for files from anywhere, so the
                      store itself is not locked meanwhile
    .ID@INODE         complete, about to change places with the app's; INODE is the number of the new version, so
                      that whoever finds it knows whether that has happened
    .ID@previous      the version before the last upgrade
    .ID@highest       a file: the highest version that was installed with a trusted signature, also after uninstall
    .ID@rubbish-X     being removed
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weft_runtime import limits
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import quote
from weft_runtime.ids import AppId
from weft_runtime.pack.files import DIRECTORY_MODE, FILE_MODE, sync_directory

_LOCK = ".lock"
_OURS = re.compile(r"\.([a-z0-9.]+)@(incomplete(?:-[0-9a-f]+)?|previous|rubbish-[0-9a-f]+|[0-9]+)", re.ASCII)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Store:
    """One store, locked for as long as this is used; made by `opened`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def live(self, app_id: AppId) -> Path:
        return self.path / app_id

    def previous(self, app_id: AppId) -> Path:
        return self.path / f".{app_id}@previous"

    def begin(self, app_id: AppId) -> tuple[Path, int]:
        """A new directory for a version that is to come, and the descriptor by which it is locked."""
        incomplete = self.path / f".{app_id}@incomplete-{secrets.token_hex(4)}"
        incomplete.mkdir(mode=0o700)
        fd = os.open(incomplete, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return incomplete, fd

    def highest(self, app_id: AppId) -> str | None:
        """The highest version that is remembered. Raises OSError."""
        try:
            fd = os.open(self._highest(app_id), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            return file.read(limits.MANIFEST.value).decode(errors="replace").strip()

    def remember(self, app_id: AppId, version: str) -> None:
        """Have `version` as the highest one. Raises OSError."""
        path = self._highest(app_id)
        temporary = self.path / f".{app_id}@rubbish-{secrets.token_hex(4)}"
        with temporary.open("xb") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(f"{version}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(self.path)

    def put(self, app_id: AppId, complete: Path) -> None:
        """Make the version in `complete`, whose files are durable, the app's; the one that was there is kept.

        Raises WeftError or OSError: before the two have changed places nothing has happened then, and after that
        the next run does what is left.
        """
        complete.chmod(DIRECTORY_MODE)
        sync_directory(complete)
        live = self.live(app_id)
        if not os.path.lexists(live):
            complete.rename(live)
            sync_directory(self.path)
            return
        ready = self.path / f".{app_id}@{complete.stat().st_ino}"
        complete.rename(ready)
        sync_directory(self.path)
        try:
            exchange(ready, live)
        except (OSError, WeftError):
            self.discard(ready)
            raise
        sync_directory(self.path)
        self._keep(app_id, ready)

    def roll_back(self, app_id: AppId) -> None:
        """The previous version becomes the app's, and the other way round. Raises OSError."""
        exchange(self.previous(app_id), self.live(app_id))
        sync_directory(self.path)

    def remove(self, app_id: AppId) -> None:
        """Remove an app in one step, then what is left of it. Raises OSError."""
        # What could come back by --rollback first: an app that is there without it is whole.
        for path in (self.previous(app_id), self.live(app_id)):
            if os.path.lexists(path):
                self.discard(path)

    def discard(self, path: Path) -> None:
        """Remove a directory tree, of which nothing may be seen in part. Raises OSError."""
        app_id = path.name if not path.name.startswith(".") else path.name[1:].partition("@")[0]
        rubbish = self.path / f".{app_id}@rubbish-{secrets.token_hex(4)}"
        path.rename(rubbish)
        sync_directory(self.path)
        _remove(rubbish)

    def tidy(self) -> None:
        """Finish or undo what a run that was ended has begun. Raises OSError."""
        for path in sorted(self.path.iterdir()):
            match = _OURS.fullmatch(path.name)
            if match is None or match[2] == "previous":
                continue
            if match[2].startswith("incomplete-") and _is_locked(path):
                continue
            if match[2].isdigit() and path.lstat().st_ino != int(match[2]):
                # It is not the new version any more: they had changed places.
                self._keep(AppId(match[1]), path)
            else:
                _remove(path)

    def _highest(self, app_id: AppId) -> Path:
        return self.path / f".{app_id}@highest"

    def _keep(self, app_id: AppId, replaced: Path) -> None:
        previous = self.previous(app_id)
        if os.path.lexists(previous):
            self.discard(previous)
        replaced.rename(previous)
        sync_directory(self.path)


@contextmanager
def opened(path: Path, wait: Callable[[], None]) -> Iterator[Store]:
    """The store at `path`, made if it is not there, for this process alone; `wait` is called before waiting.

    Raises WeftError for what the system refuses, also in the body of the with statement.
    """
    try:
        path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        # For its owner alone: whoever can open a file can lock it, and hold up everybody else.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        lock = os.open(path / _LOCK, flags, 0o600)
    except OSError as error:
        raise from_os_error(f"write to the package store {quote(str(path))}", error, _hint(error)) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        store = Store(path)
        store.tidy()
        yield store
    except OSError as error:
        raise from_os_error(f"write to the package store {quote(str(path))}", error, _hint(error)) from None
    finally:
        os.close(lock)


@contextmanager
def staging(path: Path, app_id: AppId, wait: Callable[[], None]) -> Iterator[Path]:
    """A private directory in the store at `path` for a version that is to come; removed unless it was put in place.

    The store is locked for a moment only. Raises WeftError, as `opened` does.
    """
    with opened(path, wait) as store:
        incomplete, fd = store.begin(app_id)
    try:
        yield incomplete
    except OSError as error:
        raise from_os_error(f"write to the package store {quote(str(path))}", error, _hint(error)) from None
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)
        os.close(fd)


def _is_locked(directory: Path) -> bool:
    """Whether a process that lives fills this directory. Raises OSError."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def exchange(one: Path, other: Path) -> None:
    """Let two directories change their names in one step. Raises OSError, or WeftError where that cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        message = f"the file system of {quote(str(one.parent))} cannot exchange two directories in one step"
        raise WeftError(Problem.OS_ERROR, message, "uninstall the app first: its data stays")
    raise OSError(number, os.strerror(number), os.fspath(other))


def _remove(directory: Path) -> None:
    if directory.is_symlink() or not directory.is_dir():
        directory.unlink(missing_ok=True)
        return
    # A copy can have been ended before a directory got its mode.
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:  # whoever was filling it has ended just now, and removes it as well
        shutil.rmtree(directory, ignore_errors=True)


def _hint(error: OSError) -> str | None:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "become root for the store of the system, or use --user"
    return None
