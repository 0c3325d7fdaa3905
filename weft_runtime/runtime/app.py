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


class Groundwork(NamedTuple):
    """What a runner has done for an app ahead of its session."""

    code_fd: int
    """The compiled code, whose file is mapped: all this is good as long as nobody writes to it."""
    loaded: object
    """Nobody else looks into it."""


class App(NamedTuple):
    """One app, opened and about to run."""

    package: Package
    preopens: tuple[Preopen, ...]
    code: CodeSettings
    readiness: Readiness
    ending: Ending
    groundwork: Groundwork | None = None
    is_service: bool = False
    """Whether the service manager starts it, which waits for it."""


class Runner(Protocol):
    """A module that runs apps: `session` on the engine, `stub` without."""

    def engine_name(self) -> str:
        """The engine and its version, for --version."""
        ...

    def rehearsal(self, kind: EngineKind) -> Callable[[], None]:
        """What a fork does before it becomes a session, once and if there is time. Raises WeftError or OSError."""
        ...

    def lay_groundwork(self, package: Package, code: CodeSettings) -> Groundwork | None:
        """Do for an app what can be done before its session begins; None if that is nothing, or would have to be told."""
        ...

    def run(self, app: App) -> Outcome:
        """Run `app` to its end. Raises WeftError."""
        ...

    def check(self, request: CheckRequested, code: CodeSettings, ending: Ending) -> None:
        """Find out whether a module could be run, and run none of it. Raises WeftError."""
        ...
