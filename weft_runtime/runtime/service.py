# SPDX-License-Identifier: Apache-2.0
"""An app as a service of its own: what its capabilities grant, from systemd instead of a supervisor."""

import os
from pathlib import Path

from weft_runtime import capabilities
from weft_runtime.errors import Problem, WeftError
from weft_runtime.journal import Log
from weft_runtime.runtime.arguments import Preopen
from weft_runtime.settings import ServiceSettings
from weft_runtime.store import Package


def preopens(package: Package, places: ServiceSettings, log: Log) -> tuple[Preopen, ...]:
    """The directories that the app gets; what it asks for in vain is logged.

    Raises WeftError: NOT_PERMITTED for an unknown capability, CONFIG_INVALID where there is no directory for
    the app's data.
    """

    def data() -> Path:
        if places.state is None:
            message = "the app has a capability for data of its own, but $STATE_DIRECTORY is not set"
            raise WeftError(Problem.CONFIG_INVALID, message, "see StateDirectory= in systemd.exec(5)")
        return places.state

    grants = capabilities.resolve(package.manifest.capabilities, data, places.home)
    if grants.notice is not None:
        log.notice(grants.notice)
    return tuple(
        Preopen(os.fspath(directory.host), directory.guest, directory.writable)
        for directory in grants.directories
    )
