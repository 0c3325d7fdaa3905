# SPDX-License-Identifier: Apache-2.0
"""What a run is given, whoever runs it."""

from typing import NamedTuple, Protocol

from weft_runtime.runtime.arguments import Preopen
from weft_runtime.runtime.ending import Ending, Outcome
from weft_runtime.runtime.readiness import Readiness
from weft_runtime.settings import EngineKind
from weft_runtime.store import Package


class App(NamedTuple):
    """One app, opened and about to run."""

    package: Package
    preopens: tuple[Preopen, ...]
    engine: EngineKind
    readiness: Readiness
    ending: Ending


class Runner(Protocol):
    """A module that runs apps: `session` on the engine, `stub` without."""

    def engine_name(self) -> str:
        """The engine and its version, for --version."""
        ...

    def prepare(self, kind: EngineKind) -> None:
        """Make what does not depend on the app, for all forks of this process. Raises WeftError."""
        ...

    def run(self, app: App) -> Outcome:
        """Run `app` to its end. Raises WeftError."""
        ...

    def check(self, path: str, kind: EngineKind, ending: Ending) -> None:
        """Find out whether the module at `path` could be run, and run none of it. Raises WeftError."""
        ...
