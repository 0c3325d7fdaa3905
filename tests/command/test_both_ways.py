# SPDX-License-Identifier: Apache-2.0
"""What an app is and does is the same whether the full runtime runs it or its plan is followed.

The tests of the other files run again; each run of theirs is done once more by the full runtime below a supervisor and by
a fork server, and all that can be seen of them must be equal.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.command import (
    test_exit,
    test_guest,
    test_hostile,
    test_module,
    test_preopens,
    test_ready,
    test_streams,
)
from tests.command.conftest import PROGRAMS, _runner
from tests.command.harness import SESSION, Finished, Run, Stream
from tests.command.thin import Supervisor, end_of, plan_of
from tests.packages import APP_ID
from weft_runtime.errors import ExitStatus, WeftError
from weft_runtime.runtime import arguments

for _module in (test_exit, test_guest, test_hostile, test_module, test_preopens, test_ready, test_streams):
    globals().update({name: value for name, value in vars(_module).items() if name.startswith("test_")})
del test_a_hundred_thousand_exports_cost_no_minute  # type: ignore[name-defined] # noqa: F821 - it takes the time
shared = test_preopens.shared

PROGRAM = PROGRAMS / "weft-runtime-wasmtime"


class BothWays:
    """Runs an app as `run` does, and then compares the two ways to run it."""

    def __init__(self, store: Path, run: Run) -> None:
        self._store = store
        self._run = run
        self._home = store.parent / "home"

    def __call__(
        self,
        *options: str,
        args: Sequence[str] = (APP_ID, SESSION),
        program: str = "weft-runtime",
        wrapper: Sequence[str] = (),
        env: Mapping[str, str | None] = {},
        cwd: Path | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
        pass_fds: Sequence[int] = (),
        bug: bool = False,
    ) -> Finished:
        done = self._run(
            *options, args=args, program=program, wrapper=wrapper, env=env, cwd=cwd, stdin=stdin,
            stdout=stdout, stderr=stderr, pass_fds=pass_fds, bug=bug,
        )  # fmt: skip
        is_usual = [*args] == [APP_ID, SESSION] and not wrapper and not env and cwd is None and not bug
        if is_usual and done.status not in (ExitStatus.TRY_AGAIN, ExitStatus.USAGE):
            self._compare(*options)
        return done

    def _compare(self, *options: str) -> None:
        parsed = arguments.parse_plain([APP_ID, SESSION, *options])
        if parsed is None or parsed.log_level is not None or parsed.sd_notify or parsed.ipc_socket:
            return
        environ = {
            "PATH": "/usr/bin:/bin", "WEFT_APP_STORE": str(self._store), "WEFT_LOG": "stderr", "HOME": str(self._home)
        }  # fmt: skip
        try:
            plan = plan_of(self._store, PROGRAM, SESSION, preopens=parsed.preopens)
        except (WeftError, ValueError):
            return  # there is none
        with Supervisor(PROGRAM, environ) as supervisor:
            end_of(supervisor.execute(plan))
            code = list(self._home.rglob("*.code"))
            if not code:
                return  # nothing was compiled, so there is no plan
            full = end_of(supervisor.execute(plan))
            code_fd = os.open(max(code, key=lambda path: path.stat().st_mtime_ns), os.O_RDONLY)
            try:
                ends = [end_of(supervisor.follow(plan, code_fd)) for _ in range(2)]
            finally:
                os.close(code_fd)
        assert ends == [full, full]


@pytest.fixture
def run(store: Path) -> Run:
    return BothWays(store, _runner(store, PROGRAMS))
