# SPDX-License-Identifier: Apache-2.0
"""The tree of files that a package is: what may be in it, and where its links lead.

Everything that signs, copies, bundles or unpacks a package goes by the rules here.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, NoReturn

from weft_runtime import limits, package_limits, paths
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import quote

SIGNATURE = "signature.sig"
"""The file that holds the signature, and the only one that it does not cover."""

LINKS_MAX = 40
"""Links on the way to one file, as for the kernel (path_resolution(7))."""


class Kind(StrEnum):
    DIRECTORY = "directory"
    FILE = "file"
    LINK = "symbolic link"


class Entry(NamedTuple):
    """One thing in a package."""

    path: str
    """Below the package's directory, without a leading slash; text as `paths` has it."""
    kind: Kind
    size: int = 0
    """Of a file, in bytes."""
    target: str = ""
    """Of a link, as it is written in it; text as `paths` has it."""


class Place(NamedTuple):
    """Where to open an entry without following any link: its directory's descriptor and its name there."""

    directory_fd: int
    name: bytes
    status: os.stat_result


class Tree:
    """The entries of one package, no more than allowed, under names that can be signed."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Raises WeftError: PACKAGE_INVALID or LIMIT_EXCEEDED."""
        check_path(entry.path)
        if entry.path in self.entries:
            raise invalid(entry.path, "is there twice")
        parent = entry.path.rpartition("/")[0]
        if parent and (above := self.entries.get(parent)) and above.kind is not Kind.DIRECTORY:
            raise invalid(entry.path, f"is below {quote(parent)}, which is a {above.kind}")
        if entry.path == SIGNATURE and entry.kind is not Kind.FILE:
            raise invalid(entry.path, f"is a {entry.kind}: expected a file, which holds the signature")
        if entry.kind is Kind.LINK and (not entry.target or entry.target.startswith("/")):
            raise invalid(entry.path, "is a link with an absolute path: it would lead out of the package")
        if (size := len(paths.bytes_of(entry.target))) > package_limits.TARGET.value:
            raise limits.exceeded(package_limits.TARGET, f"that of {quote(entry.path)} has {size} bytes")
        self.entries[entry.path] = entry
        self._bytes += entry.size
        if len(self.entries) > package_limits.ENTRIES.value:
            raise limits.exceeded(package_limits.ENTRIES, f"there are more than {len(self.entries) - 1}")
        if self._bytes > package_limits.BYTES.value:
            raise limits.exceeded(package_limits.BYTES, f"with {quote(entry.path)} there are {self._bytes}")

    def sorted(self) -> list[Entry]:
        """All entries by the bytes of their paths: a directory before what is in it."""
        return sorted(self.entries.values(), key=lambda entry: paths.bytes_of(entry.path))

    def check_links(self) -> None:
        """Raises WeftError(PACKAGE_INVALID) unless every link leads to a file or directory of the package."""
        for entry in self.sorted():
            if entry.kind is Kind.LINK:
                self.resolve(entry.path)

    def resolve(self, path: str) -> Entry | None:
        """What `path` is when links are followed; None for the package's own directory.

        Raises WeftError(PACKAGE_INVALID) where they lead elsewhere.
        """
        done: list[str] = []
        left = path.split("/")[::-1]
        followed = 0
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not done:
                    raise invalid(path, "is a link that leads out of the package")
                done.pop()
                continue
            here = "/".join((*done, part))
            entry = self.entries.get(here)
            if entry is None:
                raise invalid(path, f"is a link to {quote(here)}, which is not there")
            if entry.kind is Kind.LINK:
                followed += 1
                if followed > LINKS_MAX:
                    raise invalid(path, "is a loop of links, or a chain of too many")
                left.extend(entry.target.split("/")[::-1])
                continue
            if left and entry.kind is Kind.FILE:
                raise invalid(path, f"is a link through {quote(here)}, which is a file")
            done.append(part)
        return self.entries["/".join(done)] if done else None

    def files(self) -> list[tuple[str, str]]:
        """Every file's path as seen when links are followed, and the path of the file itself.

        In the order of the first one's bytes. Raises WeftError: PACKAGE_INVALID for a link that leads elsewhere
        or to a directory above itself, LIMIT_EXCEEDED where links multiply what there is.
        """
        children: dict[str, list[Entry]] = {}
        for entry in self.entries.values():
            children.setdefault(entry.path.rpartition("/")[0], []).append(entry)
        found: list[tuple[str, str]] = []
        self._expand("", "", children, found, ("",))
        return sorted(found, key=lambda pair: paths.bytes_of(pair[0]))

    def _expand(
        self,
        shown: str,
        real: str,
        children: Mapping[str, list[Entry]],
        found: list[tuple[str, str]],
        open_directories: tuple[str, ...],
    ) -> None:
        for entry in children.get(real, []):
            name = entry.path.rpartition("/")[2]
            path = f"{shown}/{name}" if shown else name
            resolved = self.resolve(entry.path) if entry.kind is Kind.LINK else entry
            if resolved is not None and resolved.kind is Kind.FILE:
                found.append((path, resolved.path))
                if len(found) > package_limits.ENTRIES.value:
                    what = f"with links followed there are more than {len(found) - 1}"
                    raise limits.exceeded(package_limits.ENTRIES, what)
                continue
            target = "" if resolved is None else resolved.path
            if target in open_directories:
                raise invalid(entry.path, "is a link to a directory that it is in")
            check_path(path)
            self._expand(path, target, children, found, (*open_directories, target))


def check_path(path: str) -> None:
    """Raises WeftError: PACKAGE_INVALID for a name that cannot be signed, LIMIT_EXCEEDED for a long one."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise invalid(path, "has a name that is not UTF-8") from None
    if "\t" in path or "\n" in path:
        raise invalid(path, "has a TAB or a line break in its name, which no signature can tell apart")
    if size > package_limits.PATH.value:
        raise limits.exceeded(package_limits.PATH, f"{quote(path)} has {size} bytes")
    longest = max(len(name.encode()) for name in path.split("/"))
    if longest > package_limits.NAME.value:
        raise limits.exceeded(package_limits.NAME, f"{quote(path)} has one of {longest} bytes")
    if path.count("/") > package_limits.DEPTH.value:
        raise limits.exceeded(package_limits.DEPTH, f"{quote(path)} is below {path.count('/')}")


def walk(directory: Path) -> Iterator[tuple[Entry, Place]]:
    """Every entry below `directory`, a directory before what is in it, each as it is found.

    No link is followed, whatever somebody else does to the tree meanwhile. Raises WeftError: PACKAGE_INVALID,
    LIMIT_EXCEEDED, OS_ERROR, NOT_PERMITTED.
    """
    # Bytes all the way: what a locale makes of a name is not its name.
    top = os.path.realpath(os.fsencode(directory))
    try:
        if not stat.S_ISDIR(os.stat(top).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        for here, directories, files, directory_fd in os.fwalk(top, onerror=_raise):
            prefix = here[len(top) :].strip(b"/")
            directories.sort()  # the order in which they are gone into, too
            for name in directories + sorted(files):
                path = paths.text_of(prefix + b"/" + name if prefix else name)
                # Before anything goes deeper.
                check_path(path)
                yield _entry(path, name, directory_fd)
    except OSError as error:
        # What was opened by its descriptor has a number for its name.
        where = error.filename if isinstance(error.filename, bytes) else os.fsencode(directory)
        raise from_os_error(f"read {quote(paths.text_of(where))}", error) from None


def scan(directory: Path) -> Tree:
    """The tree below `directory`, its links checked. Raises WeftError as `walk` and `Tree` do."""
    tree = Tree()
    for entry, _ in walk(directory):
        tree.add(entry)
    tree.check_links()
    return tree


def open_file(place: Place, path: str) -> int:
    """A descriptor for reading the file at `place`. Raises WeftError, PACKAGE_INVALID if it is none any more."""
    # O_NONBLOCK: should a FIFO have taken its place, opening it must not wait for a writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
    try:
        fd = os.open(place.name, flags, dir_fd=place.directory_fd)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    except OSError as error:
        raise from_os_error(f"open {quote(path)}", error) from None
    raise invalid(path, "has become something else meanwhile")


def invalid(path: str, complaint: str) -> WeftError:
    return WeftError(Problem.PACKAGE_INVALID, f"{quote(path)} {complaint}")


def _entry(path: str, name: bytes, directory_fd: int) -> tuple[Entry, Place]:
    status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    place = Place(directory_fd, name, status)
    if stat.S_ISREG(status.st_mode):
        return Entry(path, Kind.FILE, size=status.st_size), place
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, Kind.DIRECTORY), place
    if stat.S_ISLNK(status.st_mode):
        target = paths.text_of(os.readlink(name, dir_fd=directory_fd))
        return Entry(path, Kind.LINK, target=target), place
    raise invalid(path, f"is {_special(status.st_mode)}: expected files, directories and links")


def _special(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def _raise(error: OSError) -> NoReturn:
    raise error
