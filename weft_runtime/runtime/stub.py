# SPDX-License-Identifier: Apache-2.0
"""Running an app without the engine: everything but the app, for tests and development."""

import os

from weft_runtime.binary import MAGIC
from weft_runtime.errors import Problem, WeftError
from weft_runtime.escape import printable
from weft_runtime.journal import Event
from weft_runtime.runtime.app import App, CodeSettings
from weft_runtime.runtime.arguments import CheckRequested
from weft_runtime.runtime.ending import Ending, Outcome, exited


def engine_name() -> str:
    """The engine and its version, for --version."""
    return "stub: no engine"


def run(app: App) -> Outcome:
    """Check the module's magic, say READY and succeed. Raises WeftError(MODULE_INVALID)."""
    if os.pread(app.package.module_fd, len(MAGIC), 0) != MAGIC:
        path = printable(str(app.package.module))
        raise WeftError(Problem.MODULE_INVALID, f"{path} does not begin with the Wasm magic")
    app.ending.log.warning("this is the stub: no Wasm code ran, for want of the engine", Event.STUB)
    app.readiness.announce()
    return exited(0)


def check(request: CheckRequested, code: CodeSettings, ending: Ending) -> None:
    """Raises WeftError(ENGINE_MISSING): only the engine can tell."""
    raise WeftError(
        Problem.ENGINE_MISSING, f"{printable(request.path)} cannot be checked without the engine"
    )
