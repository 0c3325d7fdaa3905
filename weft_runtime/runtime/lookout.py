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


class Lookout:
    """Looks at one app at a time; what is wrong with it is for the session to find and tell, and is no concern here."""

    def __init__(self, stores: Sequence[Path], lay: Callable[[Package], Groundwork | None]) -> None:
        """`lay` does with a package what can be done before its session begins; None if that is nothing."""
        self._stores = stores
        self._lay = lay
        self._parse = Manifests().parse
        self._package: Package | None = None
        self._laid: tuple[Identity, Manifest, Groundwork] | None = None
        """The groundwork, and the state of the module and the manifest for which it was laid."""

    def look(self, app_id: str) -> None:
        """Open the package of `app_id`. The groundwork is laid again only where the package has changed."""
        self.close()
        try:
            self._package = store.open_package(AppId.parse(app_id), self._stores, self._parse)
        except (ValueError, WeftError):
            return
        begun = time.time_ns()
        module, manifest = Identity.of(os.fstat(self._package.module_fd)), self._package.manifest
        if self._laid is not None and self._laid[:2] == (module, manifest):
            return
        # Before the next is laid: two of them would need the memory of both.
        self._laid = None
        groundwork = self._lay(self._package)
        # Changed a moment ago, it may change again without a trace.
        if groundwork is not None and begun - module.changed >= SETTLED_NS:
            self._laid = module, manifest, groundwork

    def close(self) -> None:
        """Keep nothing of a package open: hours may pass, and somebody may want to unmount it."""
        if self._package is not None:
            os.close(self._package.module_fd)
            self._package = None

    def take(self, app_id: AppId) -> Ahead | None:
        """What is there for `app_id`, if it was the last that was looked at; all else is gone then."""
        package, laid = self._package, self._laid
        self._laid = None
        if package is None or package.app_id != app_id:
            self.close()
            return None
        self._package = None
        return Ahead(package, None if laid is None else laid[2])
