# SPDX-License-Identifier: Apache-2.0
"""Files that are there as a whole or not at all, also after a loss of power."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

from weft_runtime import paths, tree
from weft_runtime.errors import from_os_error
from weft_runtime.escape import quote
from weft_runtime.tree import Entry, Kind, Tree

_READ_SIZE = 1024 * 1024


FILE_MODE, DIRECTORY_MODE = 0o644, 0o755
"""Of everything that is packed or installed: no package has a use for others, and the daemon's user must read it."""


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


def sync_directory(directory: Path | bytes) -> None:
    """Make the names in `directory` durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(directory: Path, files: Tree) -> None:
    """Make the names in a tree durable; its files are already. Raises OSError."""
    for entry in files.sorted():
        if entry.kind is Kind.DIRECTORY:
            sync_directory(paths.below(directory, entry.path))
    sync_directory(directory)


def write_file(path: bytes, chunks: Iterator[bytes]) -> None:
    """Make a file of a package, durably. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb", buffering=0) as file:
        for data in chunks:
            while data:
                data = data[file.write(data) :]
        os.fchmod(fd, FILE_MODE)
        os.fsync(fd)


def make_directory(path: bytes) -> None:
    """Make a directory of a package, whatever the umask. Raises OSError."""
    os.mkdir(path, 0o700)  # noqa: PTH102 - bytes
    os.chmod(path, DIRECTORY_MODE)  # noqa: PTH101


def copy_tree(source: Path, destination: Path) -> None:
    """Copy a package into a new directory that is nobody else's, durably and whatever happens to the source.

    Raises WeftError as `tree.walk` does, or OSError.
    """
    copied = Tree()
    for entry, place in tree.walk(source):
        copied.add(entry)
        path = paths.below(destination, entry.path)
        match entry.kind:
            case Kind.DIRECTORY:
                make_directory(path)
            case Kind.LINK:
                os.symlink(paths.bytes_of(entry.target), path)  # noqa: PTH211 - bytes
            case Kind.FILE:
                with open(tree.open_file(place, entry.path), "rb", buffering=0) as file:
                    write_file(path, _at_most(entry, file))
    copied.check_links()
    sync_tree(destination, copied)


def _at_most(entry: Entry, file: io.FileIO) -> Iterator[bytes]:
    """The content of a file, which must not grow beyond what was counted. Raises WeftError."""
    left = entry.size
    while data := file.read(_READ_SIZE):
        left -= len(data)
        if left < 0:
            break
        yield data
    if left:
        raise tree.invalid(entry.path, "has changed while it was read")
