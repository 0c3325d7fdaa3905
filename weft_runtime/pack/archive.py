# SPDX-License-Identifier: Apache-2.0
"""`weft-pack bundle` and `unbundle`: a package as one file, `ID.app.tar.zst`."""

import errno
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from weft_runtime import limits, package_limits, paths, store, tree
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.ids import AppId
from weft_runtime.pack.files import (
    DIRECTORY_MODE,
    FILE_MODE,
    make_directory,
    sync_directory,
    sync_tree,
    write_file,
)
from weft_runtime.pack.screen import Screen
from weft_runtime.pack.tarball import Reader, Source
from weft_runtime.tree import Entry, Kind, Tree

SUFFIX = ".app.tar.zst"


def bundle(screen: Screen, directory: Path, out: Path) -> int:
    """Write the archive of a package; none may be there yet. Raises WeftError."""
    app_id = store.read_manifest(directory).id
    path = out / f"{app_id}{SUFFIX}"
    if os.path.lexists(path):
        raise _exists(path)
    temporary = out / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with screen.progress(f"bundling {directory}"):
            _write(directory, app_id, temporary)
        # A rename would replace what somebody else has put there meanwhile.
        os.link(temporary, path)
        temporary.unlink()
        sync_directory(out)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise from_os_error(f"write {quote(str(path))}", error) from None
    finally:
        # What kept it from being made keeps it from being removed, too.
        with suppress(OSError):
            temporary.unlink()
    screen.line(f"bundled: {path}")
    return 0


def unbundle(screen: Screen, archive: Path, out: Path) -> int:
    """Unpack an archive into `out`, as a whole or not at all. Raises WeftError."""
    temporary = out / f".unbundle.{secrets.token_hex(4)}"
    try:
        temporary.mkdir(mode=0o700)
        with screen.progress(f"unpacking {archive}"):
            app_id = unpack(archive, temporary)
        temporary.chmod(DIRECTORY_MODE)
        _rename_new(temporary, out / app_id)
        sync_directory(out)
    except OSError as error:
        raise from_os_error(f"write into {quote(str(out))}", error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    screen.line(f"unbundled: {archive} -> {out}")
    return 0


def unpack(archive: Path, directory: Path) -> AppId:
    """Unpack what is below the archive's one top directory into `directory`, which is new and nobody else's.

    Returns the app id that the top directory is named after. Everything is written out to the device. Raises
    WeftError: PACKAGE_INVALID, LIMIT_EXCEEDED, OS_ERROR.
    """
    with _opened(archive) as reader:
        tree_of, top = Tree(), None
        for member in reader.members():
            top, path = _below_top(member.path, top)
            if not path:
                if member.kind is not Kind.DIRECTORY:
                    raise tree.invalid(top, f"is a {member.kind}: expected one top directory")
                continue
            for parent in _missing_parents(path, tree_of):
                tree_of.add(parent)
                _make(directory, parent, reader)
            # GNU tar names a directory again that it has named before, when told to append.
            entry = member._replace(path=path)
            if entry.kind is Kind.DIRECTORY and tree_of.entries.get(path) == entry:
                continue
            tree_of.add(entry)
            _make(directory, entry, reader)
    if top is None:
        raise WeftError(Problem.PACKAGE_INVALID, "the archive is empty")
    tree_of.check_links()
    sync_tree(directory, tree_of)
    return AppId(top)


def file_app_id(archive: Path) -> AppId:
    """The app id that an archive's file name begins with. Raises WeftError(USAGE)."""
    name = archive.name.removesuffix(SUFFIX)
    if name == archive.name:
        raise WeftError(Problem.USAGE, f"{quote(str(archive))} is neither a directory nor ID{SUFFIX}")
    try:
        return AppId.parse(name)
    except ValueError as error:
        raise WeftError(Problem.USAGE, f"{quote(archive.name)}: {error}") from None


@contextmanager
def _opened(archive: Path) -> Iterator[Reader]:
    """Reads an archive; what the library says of a damaged one becomes ours, named after the file."""
    try:
        # O_NONBLOCK: to open a FIFO must not wait for a writer.
        fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise from_os_error(f"open {quote(str(archive))}", error) from None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise WeftError(Problem.PACKAGE_INVALID, f"{quote(str(archive))} is not a regular file")
        packed = _Packed(file)
        decompressor = zstandard.ZstdDecompressor(max_window_size=package_limits.WINDOW.value)
        try:
            with decompressor.stream_reader(cast(BinaryIO, packed), read_across_frames=True) as stream:
                yield Reader(packed.unpacked_by(stream))
        except zstandard.ZstdError as error:
            if "too much memory" in str(error):
                raise limits.exceeded(package_limits.WINDOW, f"{quote(str(archive))} needs more") from None
            message = f"{quote(str(archive))} is not compressed by zstd, or damaged: {printable(str(error))}"
            raise WeftError(Problem.PACKAGE_INVALID, message) from None


class _Packed:
    """The file of an archive, of which not much more may be read than it unpacks to.

    A frame of zstd may hold nothing, or be one to skip: a file of such frames would be read to its end, however
    long it is, for no byte of content.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._surplus = 0
        """Bytes that were read, less those that came of them."""

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._surplus += len(data)
        if self._surplus > package_limits.SURPLUS.value:
            raise limits.exceeded(package_limits.SURPLUS, f"the archive has {self._surplus}")
        return data

    def unpacked_by(self, stream: Source) -> Source:
        """`stream`, which unpacks this, with its bytes counted."""
        return _Unpacked(self, stream)

    def count(self, size: int) -> None:
        self._surplus -= size


class _Unpacked:
    def __init__(self, packed: _Packed, stream: Source) -> None:
        self._packed = packed
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._packed.count(len(data))
        return data


def _below_top(name: str, top: str | None) -> tuple[str, str]:
    """The archive's one top directory, and a member's path below it. Raises WeftError(PACKAGE_INVALID)."""
    path = name.removeprefix("./").rstrip("/")
    if name.startswith("/"):
        raise tree.invalid(name, "is an absolute path")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise tree.invalid(name, "is a path that leads elsewhere")
    first, _, rest = path.partition("/")
    if top is None:
        try:
            AppId.parse(first)
        except ValueError as error:
            raise WeftError(Problem.PACKAGE_INVALID, f"the archive's top directory {error}") from None
    elif first != top:
        raise tree.invalid(name, f"is not below {quote(top)}, the archive's top directory")
    return first, rest


def _missing_parents(path: str, files: Tree) -> Iterator[Entry]:
    """Directories that the archive does not name itself."""
    parts = path.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        parent = "/".join(parts[:count])
        if parent not in files.entries:
            yield Entry(parent, Kind.DIRECTORY)


def _make(directory: Path, entry: Entry, reader: Reader) -> None:
    """Make what the tree has let pass: all directories above it are ours, and no link is among them."""
    path = paths.below(directory, entry.path)
    match entry.kind:
        case Kind.DIRECTORY:
            make_directory(path)
        case Kind.FILE:
            write_file(path, reader.chunks())
        case Kind.LINK:
            os.symlink(paths.bytes_of(entry.target), path)  # noqa: PTH211 - bytes


def _write(directory: Path, app_id: AppId, path: Path) -> None:
    """Write the archive: the same bytes for the same files, whenever and by whomever."""
    files = tree.scan(directory)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(fd, "wb") as file:
        compressor = zstandard.ZstdCompressor(write_checksum=True)
        with (
            compressor.stream_writer(file, closefd=False) as stream,
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive,
        ):
            archive.addfile(_member(str(app_id), Entry("", Kind.DIRECTORY)))
            for entry, place in tree.walk(directory):
                # What has come since the first look was not checked.
                if files.entries.get(entry.path) != entry:
                    raise tree.invalid(entry.path, "has changed while it was read")
                member = _member(f"{app_id}/{entry.path}", entry)
                if entry.kind is Kind.FILE:
                    with open(tree.open_file(place, entry.path), "rb") as content:
                        _add_file(archive, member, entry, content)
                else:
                    archive.addfile(member)
        file.flush()
        os.fsync(fd)


def _add_file(archive: tarfile.TarFile, member: tarfile.TarInfo, entry: Entry, content: object) -> None:
    try:
        archive.addfile(member, content)  # type: ignore[arg-type] # a file opened for reading bytes
    except OSError as error:
        if str(error) == "unexpected end of data":
            raise tree.invalid(entry.path, "has changed while it was read") from None
        raise


def _member(name: str, entry: Entry) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    match entry.kind:
        case Kind.DIRECTORY:
            member.type, member.mode = tarfile.DIRTYPE, DIRECTORY_MODE
        case Kind.FILE:
            member.size, member.mode = entry.size, FILE_MODE
        case Kind.LINK:
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, entry.target, 0o777
    return member


def _rename_new(directory: Path, path: Path) -> None:
    """Rename a directory, which replaces nothing but an empty one. Raises WeftError, OSError."""
    try:
        directory.rename(path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _exists(path) from None
        raise


def _exists(path: Path) -> WeftError:
    return WeftError(Problem.OS_ERROR, f"{quote(str(path))} is there already")
