# SPDX-License-Identifier: Apache-2.0
"""Files that are there as a whole or not at all, also after a loss of power."""

import os
from pathlib import Path

from weft_runtime.errors import from_os_error
from weft_runtime.escape import quote


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Make a file that must not be there yet, whatever the umask. Raises WeftError, and leaves nothing then."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                os.fchmod(fd, mode)
                file.write(data)
                file.flush()
                os.fsync(fd)
        except BaseException:
            path.unlink()
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise from_os_error(f"write {quote(str(path))}", error) from None


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
