# SPDX-License-Identifier: Apache-2.0
"""The daemon's small files: opened so that nothing that somebody put in their place can hold it up."""

import contextlib
import errno
import os
import stat
from pathlib import Path

from weft_runtime.limits import MIB

SIZE_MAX = 1 * MIB
"""Bytes that are read of a file: a hundred times the longest honest one."""

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotRegularError(OSError):
    """What has the name is a link, a directory, a FIFO, a socket or a device."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "it is not a regular file", os.fspath(path))


def read(path: Path, *, is_ours: bool = True) -> bytes:
    """The beginning of a file, up to SIZE_MAX bytes. Never waits for anybody but the disk. Raises OSError.

    Raises NotRegularError for anything but a regular file; where an operator has named it, a link or a device such as
    /dev/null will do.
    """
    try:
        fd = os.open(path, _READ | (os.O_NOFOLLOW if is_ours else 0))
    except OSError as error:
        if error.errno == errno.ENXIO or (is_ours and error.errno == errno.ELOOP):
            raise NotRegularError(path) from None
        raise
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not is_ours)):
            raise NotRegularError(path)
        with open(fd, "rb", closefd=False) as file:
            return file.read(SIZE_MAX)
    finally:
        os.close(fd)


def put(path: Path, data: bytes, *, durable: bool, mode: int = 0o600) -> None:
    """Put a file in place of whatever has the name, in one step. Raises OSError, and then nothing has changed.

    `durable` waits until it would survive a power failure. `mode` is the file's whatever our umask is.
    """
    temporary, fd = _create(path)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(fd, mode)
            if durable:
                os.fsync(fd)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _create(path: Path) -> tuple[Path, int]:
    """A new file beside `path`, under a name that a later call cleans up. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(OSError):
        temporary.unlink()  # left by a crash, or put there
    try:
        return temporary, os.open(temporary, _CREATE, 0o600)
    except FileExistsError:  # a directory
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.new")
        return temporary, os.open(temporary, _CREATE, 0o600)
