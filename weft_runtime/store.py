# SPDX-License-Identifier: Apache-2.0
"""Package stores: find an app's package, and open the files that its manifest names."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from weft_runtime import limits, manifest, paths
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.ids import AppId
from weft_runtime.manifest import Manifest

# O_NONBLOCK: should a FIFO have taken the file's place just now, opening it must not wait for a writer.
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW

T = TypeVar("T")


class Package(NamedTuple):
    """An installed package whose manifest is valid and whose files are where it says."""

    app_id: AppId
    directory: Path
    """The package's directory, as found in its store."""
    manifest: Manifest
    module: Path
    """The module's path for messages: below `directory`, links not resolved."""
    module_fd: int
    """A descriptor of the module, open for reading; a regular file inside the package."""


def find(app_id: AppId, stores: Sequence[Path]) -> Path:
    """The directory of `app_id` in the first of `stores` that has its manifest.

    Raises WeftError: PACKAGE_NOT_FOUND naming every store searched, or NOT_PERMITTED where one of them
    or the package could not be looked into.
    """
    searched, denied = [], False
    closed: Path | None = None
    for store in stores:
        directory = store / app_id
        try:
            (directory / manifest.FILE_NAME).lstat()
        except FileNotFoundError:
            searched.append(quote(str(store)))
        except OSError as error:
            if error.errno == errno.EACCES:
                denied = True
                if closed is None and os.path.lexists(directory):
                    closed = directory
            searched.append(f"{quote(str(store))} ({error.strerror})")
        else:
            return directory
    if closed is not None:
        message = f"cannot read the package {quote(str(closed))}: {os.strerror(errno.EACCES)}"
        raise WeftError(Problem.NOT_PERMITTED, message, f"chmod -R a+rX {quote(str(closed))}")
    raise WeftError(
        Problem.NOT_PERMITTED if denied else Problem.PACKAGE_NOT_FOUND,
        f"package {quote(app_id)} not found in any package store; searched: {', '.join(searched)}",
    )


def parse_file(fd: int, source: str) -> Manifest:
    """Parse the `wapp.toml` that `fd` is open for; `source` is its path. Raises OSError, and as `manifest.parse` does."""
    # One byte more than allowed is enough for the parser to see that it is too much.
    with open(fd, "rb", closefd=False) as file:
        return manifest.parse(file.read(limits.MANIFEST.value + 1), source)


def open_package(
    app_id: AppId,
    stores: Sequence[Path],
    parse: Callable[[int, str], Manifest] = parse_file,
    directory: Path | None = None,
) -> Package:
    """Find the package of `app_id`, parse its manifest, check `ui.entry` if it has one and open the module.

    It is in `directory` if that is given, whatever is in the stores.
    `parse` is `parse_file` or something that remembers what that has said. Raises WeftError: as `find` and `manifest.parse` do; MANIFEST_INVALID for a path that leaves the package
    or a `ui.entry` that is not there; MODULE_NOT_FOUND; MODULE_INVALID or LIMIT_EXCEEDED for a module that
    is no regular file or too large; NOT_PERMITTED or OS_ERROR for what the system refused.
    """
    if directory is None:
        directory = find(app_id, stores)
    source = directory / manifest.FILE_NAME
    values = read_by(directory, parse)
    if values.ui_entry is not None:
        try:
            os.close(_open_inside(directory, values.ui_entry))
        except (_Outside, _NotRegular, FileNotFoundError) as error:
            raise _wrong_path(source, "ui.entry", values.ui_entry, error) from None
        except OSError as error:
            raise from_os_error(f"open {quote(str(directory / values.ui_entry))}", error) from None
    module = directory / paths.local(values.module)
    module_fd = _open_module(directory, values.module, source)
    return Package(app_id, directory, values, module, module_fd)


def installed(stores: Sequence[Path]) -> dict[AppId, Manifest]:
    """What can be launched from `stores`, by app id: the first store that has an id wins.

    Directories that are no package, or a broken one, are left out; the id is the directory's name.
    """
    found: dict[AppId, Manifest] = {}
    for package in packages(stores):
        if package is not None:
            with contextlib.suppress(WeftError):
                found[package[0]] = read_manifest(package[1])
    return found


def packages(stores: Sequence[Path]) -> Iterator[tuple[AppId, Path] | None]:
    """The id and the directory of each app that `installed` looks at, whatever its manifest says.

    It yields None for all else that it comes across, so that whoever has others to serve gets control back.
    """
    seen: set[str] = set()
    for store in stores:
        try:
            with os.scandir(store) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError:
            continue
        for name in names:
            try:
                app_id = AppId.parse(name)
                if name not in seen:
                    os.lstat(f"{store}/{name}/{manifest.FILE_NAME}")
            except (ValueError, OSError):
                yield None
                continue
            if name in seen:
                yield None
                continue
            # A broken package hides the same app of a later store, for a launch as well.
            seen.add(name)
            yield app_id, store / name


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the package in `directory`. Raises WeftError, MANIFEST_INVALID where there is none."""
    return read_by(directory, parse_file)


def read_by(directory: Path, parse: Callable[[int, str], T]) -> T:
    """What `parse` says of the manifest of the package in `directory`, given its descriptor and path. Raises WeftError, as
    `read_manifest` does, and what `parse` raises but OSError."""
    source = directory / manifest.FILE_NAME
    try:
        fd = _open_inside(directory, manifest.FILE_NAME)
    except (_Outside, _NotRegular) as error:
        raise WeftError(Problem.MANIFEST_INVALID, f"{printable(str(source))} {error}") from None
    except FileNotFoundError:
        raise WeftError(Problem.MANIFEST_INVALID, f"{printable(str(source))} is a link to nothing") from None
    except OSError as error:
        raise from_os_error(f"open {quote(str(source))}", error) from None
    try:
        return parse(fd, str(source))
    except OSError as error:
        raise from_os_error(f"read {quote(str(source))}", error) from None
    finally:
        os.close(fd)


def _open_module(directory: Path, name: str, source: Path) -> int:
    path = printable(str(directory / name))
    try:
        fd = _open_inside(directory, name)
    except _Outside as error:
        raise _wrong_path(source, "runtime.module", name, error) from None
    except FileNotFoundError:
        raise WeftError(Problem.MODULE_NOT_FOUND, f"{printable(name)} not found at {path}") from None
    except _NotRegular as error:
        raise WeftError(Problem.MODULE_INVALID, f"{path} {error}") from None
    except OSError as error:
        raise from_os_error(f"open {quote(str(directory / name))}", error) from None
    return _of_bearable_size(fd, path)


def shown(path: str) -> str:
    """The argument of `open_module` for messages."""
    return "standard input" if path == "-" else printable(path)


def open_module(path: str) -> int:
    """Open a module that is in no package; "-" is standard input, which must be a file.

    Raises WeftError: MODULE_NOT_FOUND, MODULE_INVALID or LIMIT_EXCEEDED for what is no regular file or too large,
    NOT_PERMITTED or OS_ERROR for what the system refused.
    """
    name = shown(path)
    try:
        fd = (
            os.dup(0)
            if path == "-"
            else os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        )
    except FileNotFoundError:
        raise WeftError(Problem.MODULE_NOT_FOUND, f"{name} does not exist") from None
    except OSError as error:
        raise from_os_error(f"open {quote(path)}", error) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise WeftError(Problem.MODULE_INVALID, f"{name} is not a regular file")
    return _of_bearable_size(fd, name)


def _of_bearable_size(fd: int, path: str) -> int:
    size = os.fstat(fd).st_size
    if size > limits.MODULE.value:
        os.close(fd)
        raise limits.exceeded(limits.MODULE, f"{path} has {size} bytes")
    return fd


class WrongPath(Exception):
    """A path that names no file of the package; the text completes "PATH ..."."""


def open_file(directory: Path, name: str) -> int:
    """Open the regular file `name` of the package in `directory` for reading. Raises WrongPath or OSError."""
    try:
        return _open_inside(directory, name)
    except FileNotFoundError:
        raise WrongPath("does not exist") from None
    except (_Outside, _NotRegular) as error:
        raise WrongPath(str(error)) from None


class _Outside(Exception):
    """The path leaves the package; the text completes "PATH ..."."""


class _NotRegular(Exception):
    """The path is no regular file; the text completes "PATH ..."."""


def _open_inside(directory: Path, name: str) -> int:
    """Open the regular file `name` of a package for reading; links may not lead out of it.

    Raises _Outside, _NotRegular or OSError. Whoever can write a package is trusted with it, so a link that
    changes between the check and the open is no concern here.
    """
    if not name or "\0" in name:
        raise _Outside("is no path of a file")
    if name.startswith("/"):
        raise _Outside("is absolute: expected a path inside the package")
    # A manifest is UTF-8, whatever the locale is; a lone surrogate in it names no file.
    try:
        name = os.fsdecode(name.encode())
    except UnicodeEncodeError:
        raise _Outside("is no path of a file") from None
    if (found := without_links(directory, name)) is not None:
        return os.open(found, _OPEN_FLAGS)
    base = os.path.realpath(directory, strict=True)
    try:
        real = os.path.realpath(Path(base, name), strict=True)
    except RecursionError:
        raise _NotRegular("is a chain of too many symbolic links") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _NotRegular("is a loop of symbolic links") from None
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise
        # What is not there cannot be followed: the text alone says whether it would be outside.
        if not os.path.normpath(Path(base, name)).startswith(base.rstrip("/") + "/"):
            raise _Outside("leads out of the package") from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    if not real.startswith(base.rstrip("/") + "/"):
        raise _Outside("leads out of the package")
    if not stat.S_ISREG(os.stat(real).st_mode):
        raise _NotRegular("is not a regular file")
    return os.open(real, _OPEN_FLAGS)


def without_links(directory: Path, name: str) -> str | None:
    """The path of the regular file `name`, if no link and no ".." is on the way to it: most files of most packages.

    That cannot lead out of the package, and takes a fraction of the time of resolving all of the path. None says
    nothing of the file.
    """
    path = os.fspath(directory)
    mode = stat.S_IFDIR
    try:
        for part in name.split("/"):
            if part == ".." or not stat.S_ISDIR(mode):
                return None
            path = f"{path}/{part}"
            mode = os.lstat(path).st_mode
    except OSError:
        return None
    return path if stat.S_ISREG(mode) else None


def _wrong_path(source: Path, key: str, value: str, error: Exception) -> WeftError:
    complaint = "does not exist" if isinstance(error, FileNotFoundError) else str(error)
    return WeftError(Problem.MANIFEST_INVALID, f"{printable(str(source))}: {key} {quote(value)} {complaint}")
