# SPDX-License-Identifier: Apache-2.0
"""An app as a service of its own: what its capabilities grant, from systemd instead of a supervisor."""

import os
from pathlib import Path

from weft_runtime import capabilities
from weft_runtime.capabilities import Grants
from weft_runtime.errors import Problem, WeftError
from weft_runtime.journal import Log
from weft_runtime.manifest import Manifest
from weft_runtime.runtime.arguments import Preopen
from weft_runtime.settings import ServiceSettings
from weft_runtime.sources import PLACE, Source


def grants(values: Manifest, places: ServiceSettings) -> Grants:
    """What the app's capabilities become.

    Raises WeftError: CAPABILITY_REFUSED for an unknown capability, CONFIG_INVALID where there is no directory for
    the app's data.
    """

    def data() -> Path:
        if places.state is None:
            message = "the app has a capability for data of its own, but $STATE_DIRECTORY is not set"
            raise WeftError(Problem.CONFIG_INVALID, message, "see StateDirectory= in systemd.exec(5)")
        return places.state

    return capabilities.resolve(values.capabilities, data, places.home)


def granted_from(places: ServiceSettings) -> tuple[Source, ...]:
    """What `grants` depends on besides the manifest and the environment."""
    home = None if places.home is None else places.home / capabilities.DOCUMENTS
    return tuple((PLACE, os.fsencode(path)) for path in (places.state, home) if path is not None)


def preopens(granted: Grants, log: Log) -> tuple[Preopen, ...]:
    """The directories that the app gets; what it asks for in vain is logged."""
    if granted.notice is not None:
        log.notice(granted.notice)
    return tuple(
        Preopen(os.fspath(directory.host), directory.guest, directory.writable)
        for directory in granted.directories
    )
