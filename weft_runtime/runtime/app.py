# SPDX-License-Identifier: Apache-2.0
"""What a run is given, whoever runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from weft_runtime.code_cache import Caches
from weft_runtime.runtime.arguments import CheckRequested, Preopen
from weft_runtime.runtime.ending import Ending, Outcome
from weft_runtime.runtime.readiness import Readiness
from weft_runtime.settings import EngineKind
from weft_runtime.store import Package


class CodeSettings(NamedTuple):
    """How code is made of a module, and where it is kept."""

    engine: EngineKind
    caches: Caches | None = None
    """Where compiled code is looked for; None is "nowhere"."""
    compiler_group: Path | None = None
    """The file by which a compiler enters a control group of its own."""
    has_background: bool = False
    """Whether root's background compiler is asked for what a launch could not compile."""


class App(NamedTuple):
    """One app, opened and about to run."""

    package: Package
    preopens: tuple[Preopen, ...]
    code: CodeSettings
    readiness: Readiness
    ending: Ending
    leave_plan: Callable[[], None] = lambda: None
    """To be called once its code is loaded: the next run like this one is spared what it decides."""
    is_service: bool = False
    """Whether the service manager starts it, which waits for it."""


class Runner(Protocol):
    """A module that runs apps: `session` on the engine, `stub` without."""

    def engine_name(self) -> str:
        """The engine and its version, for --version."""
        ...

    def run(self, app: App) -> Outcome:
        """Run `app` to its end. Raises WeftError."""
        ...

    def check(self, request: CheckRequested, code: CodeSettings, ending: Ending) -> None:
        """Find out whether a module could be run, and run none of it. Raises WeftError."""
        ...
