# SPDX-License-Identifier: Apache-2.0
"""What a process that waits does for an app before it is certain that it is the one to run."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from weft_runtime import store
from weft_runtime.errors import WeftError
from weft_runtime.ids import AppId
from weft_runtime.integrity import SETTLED_NS, Identity
from weft_runtime.manifest import Manifest
from weft_runtime.manifests import Manifests
from weft_runtime.runtime.app import Groundwork
from weft_runtime.store import Package


class Ahead(NamedTuple):
    """An app that was looked at a moment ago."""

    package: Package
    groundwork: Groundwork | None


class _State(NamedTuple):
    """What groundwork is good for."""

    module: Identity
    manifest: Manifest
    code: Identity

    @classmethod
    def of(cls, package: Package, groundwork: Groundwork) -> "_State":
        module, code = (Identity.of(os.fstat(fd)) for fd in (package.module_fd, groundwork.code_fd))
        return cls(module, package.manifest, code)


_never_unloaded: list[Groundwork] = []
"""Kept until the process exits, which unloads nothing: a session outlives its lookout."""


class Lookout:
    """Looks at one app at a time; what is wrong with it is for the session to find and tell, and is no concern here."""

    def __init__(self, stores: Sequence[Path], lay: Callable[[Package], Groundwork | None]) -> None:
        """`lay` does with a package what can be done before its session begins; None if that is nothing."""
        self._stores = stores
        self._lay = lay
        self._parse = Manifests().parse
        self._package: Package | None = None
        self._laid: tuple[_State, Groundwork] | None = None

    def look(self, app_id: str) -> None:
        """Open the package of `app_id`. The groundwork is laid again only where the package has changed."""
        self.close()
        try:
            self._package = store.open_package(AppId.parse(app_id), self._stores, self._parse)
        except (ValueError, WeftError):
            return
        begun = time.time_ns()
        if self._laid is not None and self._laid[0] == _State.of(self._package, self._laid[1]):
            return
        # Before the next is laid: two of them would need the memory of both.
        self._drop()
        groundwork = self._lay(self._package)
        if groundwork is None:
            return
        state = _State.of(self._package, groundwork)
        self._laid = state, groundwork
        # Changed a moment ago it may change again without a trace; or it has changed since `begun`, while it was loaded.
        if begun - max(state.module.changed, state.code.changed) < SETTLED_NS:
            self._drop()

    def _drop(self) -> None:
        if self._laid is None:
            return
        state, groundwork = self._laid
        self._laid = None
        if Identity.of(os.fstat(groundwork.code_fd)) != state.code:
            # What is mapped may have lost its end, where even to unload it could be fatal.
            _never_unloaded.append(groundwork)
        os.close(groundwork.code_fd)

    def close(self) -> None:
        """Keep nothing of a package open: hours may pass, and somebody may want to unmount it."""
        if self._package is not None:
            os.close(self._package.module_fd)
            self._package = None

    def take(self, app_id: AppId) -> Ahead | None:
        """What is there for `app_id`, if it was the last that was looked at; all else is gone then."""
        package, laid = self._package, self._laid
        if package is None or package.app_id != app_id:
            self.close()
            self._drop()
            return None
        self._package = self._laid = None
        return Ahead(package, None if laid is None else laid[1])
