# SPDX-License-Identifier: Apache-2.0
"""What a package may ask for (`package.capabilities`), and the directories that some of it becomes."""

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import quote
from weft_runtime.ids import AppId

_APP_DATA = {"fs:rw:app-data": True, "fs:read:app-data": False}
_DOCUMENTS = {"fs:rw:xdg-documents": True, "fs:read:xdg-documents": False}

DOCUMENTS = "Documents"
"""The directory of a home for the user's documents."""

# Known to the package format, but of no effect in this release; and what an app does without.
_UNSERVED: Mapping[str, str] = {
    "sys:notifications": "the app cannot show notifications",
    "sys:clipboard:read": "the app cannot read the clipboard",
    "sys:clipboard:write": "the app cannot write to the clipboard",
    "hw:gpu:compute": "the app cannot compute on a graphics processor",
    "hw:gpu:render": "the app cannot draw with a graphics processor",
}
_FETCH = "net:fetch:"
_FETCH_UNSERVED = "the app has no network"


class Grant(NamedTuple):
    """A directory of the host that an app gets, and its name inside."""

    host: Path
    guest: str
    writable: bool


class Grants(NamedTuple):
    """What the capabilities of one package come to."""

    directories: tuple[Grant, ...]
    unserved: tuple[str, ...]
    """Known capabilities that this release does not serve."""

    @property
    def notice(self) -> str | None:
        """What the log says of those."""
        if not self.unserved:
            return None
        return f"capabilities that this release does not serve: {', '.join(self.unserved)}"


def is_known(capability: str) -> bool:
    """Whether the package format has it, served here or not."""
    if capability in _APP_DATA or capability in _DOCUMENTS or capability in _UNSERVED:
        return True
    return capability.startswith(_FETCH) and len(capability) > len(_FETCH)


def shortfall(capability: str) -> str | None:
    """What a package that asks for a known capability has to do without, and where; None if it gets it everywhere."""
    if capability in _DOCUMENTS:
        return (
            "has no effect under the weft-appd of the system, nor in a service: only the weft-appd of a user gives the app"
            " the Documents of that user"
        )
    lack = _FETCH_UNSERVED if capability.startswith(_FETCH) else _UNSERVED.get(capability)
    return None if lack is None else f"has no effect, since this release does not serve it: {lack}"


def resolve(capabilities: Iterable[str], data: Callable[[], Path], home: Path | None) -> Grants:
    """Say what `capabilities` grant an app; `data` finds or makes its data directory if that is among them.

    Raises WeftError: CAPABILITY_REFUSED for a capability that nobody knows, NOT_PERMITTED for a data directory that is to be
    written and cannot be, and whatever `data` raises.
    """
    wanted = tuple(dict.fromkeys(capabilities))
    for capability in wanted:
        if not is_known(capability):
            raise WeftError(Problem.CAPABILITY_REFUSED, f"unknown capability {quote(capability)}")
    directories = []
    # Writing includes reading: who asks for both gets one directory.
    if app_data := [_APP_DATA[name] for name in wanted if name in _APP_DATA]:
        grant = Grant(data(), "/data", any(app_data))
        if grant.writable:
            _demand_writable(grant.host)
        directories.append(grant)
    documents = [_DOCUMENTS[name] for name in wanted if name in _DOCUMENTS]
    if documents and home is not None and (home / DOCUMENTS).is_dir():
        directories.append(Grant(home / DOCUMENTS, "/xdg/documents", any(documents)))
    unserved = tuple(name for name in wanted if name in _UNSERVED or name.startswith(_FETCH))
    return Grants(tuple(directories), unserved)


def _demand_writable(directory: Path) -> None:
    """Raises WeftError: the app itself would end with an error that says neither which directory nor why."""
    if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return
    name, user, group = quote(str(directory)), os.geteuid(), os.getegid()
    status = directory.stat()
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        why, hint = "its file system is read-only", None
    elif status.st_uid != user:
        why, hint = (
            f"it belongs to the user {status.st_uid}, not to {user}",
            f"chown -R {user}:{group} {name}",
        )
    else:
        why, hint = f"its mode is {stat.S_IMODE(status.st_mode):o}", f"chmod u+rwx {name}"
    raise WeftError(Problem.NOT_PERMITTED, f"cannot write to the data directory {name}: {why}", hint)


def data_directory(data_root: Path | None, app_id: AppId) -> Path:
    """The directory of one app below the root that all share, made if it is not there.

    Raises WeftError: OS_ERROR or NOT_PERMITTED where it cannot be made, CONFIG_INVALID where there is no root.
    """
    if data_root is None:
        raise WeftError(Problem.CONFIG_INVALID, "there is no data root: the setting data_root is empty")
    directory = data_root / app_id
    try:
        data_root.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        # A link planted here would hand the app a directory of somebody else.
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        raise from_os_error(f"make the data directory {quote(str(directory))}", error) from None
    return directory
