# SPDX-License-Identifier: Apache-2.0
"""What an app is and does is the same whether the full runtime runs it or its plan is followed.

The tests of the other files run again; each run of theirs is done once more by the full runtime below a supervisor and by
a fork server, and all that can be seen of them must be equal.
"""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Unpack

import pytest
import wasmtime

from tests.appd.harness import state_of
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
from tests.command.guests import FOREVER, TEXT, guest, leave, leave_on_error, say, sleep, writing
from tests.command.harness import SESSION, Finished, How, Run, bytes_in, eventually, is_asleep
from tests.command.test_signals import FLOOD
from tests.command.thin import End, Supervisor, end_of, environment, plan_of
from tests.packages import APP_ID, install, manifest
from weft_runtime import fork_protocol
from weft_runtime.appd import child as processes
from weft_runtime.appd.child import Child
from weft_runtime.errors import ExitStatus, WeftError
from weft_runtime.plan import Plan
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

    def __call__(self, *options: str, **how: Unpack[How]) -> Finished:
        done = self._run(*options, **how)
        args = how.get("args", (APP_ID, SESSION))
        is_usual = [*args] == [APP_ID, SESSION] and not any(
            how.get(name) for name in ("wrapper", "env", "cwd", "bug")
        )
        if is_usual and done.status not in (ExitStatus.TRY_AGAIN, ExitStatus.USAGE):
            self._compare(*options)
        return done

    def _compare(self, *options: str) -> None:
        parsed = arguments.parse_plain([APP_ID, SESSION, *options])
        if parsed is None or parsed.log_level is not None or parsed.sd_notify or parsed.ipc_socket:
            return
        environ = environment(self._store, self._home)
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


def nothing(child: Child) -> None:
    pass


class Ways:
    """One app by both ways, with what is done to its pipes."""

    def __init__(self, store: Path, supervisor: Supervisor) -> None:
        self._store = store
        self._supervisor = supervisor
        self._code = store.parent / "compiled"

    def compare(
        self,
        module: bytes,
        *,
        before: Callable[[Child], None] = nothing,
        meanwhile: Callable[[Child], None] = nothing,
        runtime: str = "",
    ) -> tuple[End, End]:
        """How it ends by the full runtime, and by its plan, where something is done before its process begins, or meanwhile."""
        plan = self.plan(module, runtime)
        return self.execute(plan, before, meanwhile), self.follow(plan, before, meanwhile)

    def plan(self, module: bytes, runtime: str = "") -> Plan:
        """That of an app which is installed, in the place of the one before it, and compiled."""
        shutil.rmtree(self._store / APP_ID, ignore_errors=True)
        install(self._store, module, toml=manifest(runtime=runtime))
        self._code.write_bytes(wasmtime.Module(wasmtime.Engine(), module).serialize())
        plan = plan_of(self._store, PROGRAM)
        child = self._supervisor.execute(plan)
        eventually(lambda: any(self._store.parent.glob("home/**/*.code")), "it is compiled")
        os.kill(child.pid, signal.SIGKILL)
        end_of(child)
        return plan

    def execute(
        self,
        plan: Plan,
        before: Callable[[Child], None] = nothing,
        meanwhile: Callable[[Child], None] = nothing,
    ) -> End:
        argv = ["/bin/sh", "-c", 'kill -STOP $$; exec "$@"', "sh", *map(os.fsdecode, plan.command)]
        child = processes.spawn(argv, self._supervisor.environ)
        eventually(lambda: state_of(child.pid) == "T", "it has stopped itself")
        before(child)
        os.kill(child.pid, signal.SIGCONT)
        return end_of(child, meanwhile)

    def follow(
        self,
        plan: Plan,
        before: Callable[[Child], None] = nothing,
        meanwhile: Callable[[Child], None] = nothing,
    ) -> End:
        child, order = self._supervisor.fork()
        before(child)
        code_fd = os.open(self._code, os.O_RDONLY)
        with order:
            fork_protocol.send(order, plan.encode(), [code_fd])
        os.close(code_fd)
        return end_of(child, meanwhile)


@pytest.fixture
def ways(store: Path, tmp_path: Path) -> Iterator[Ways]:
    with Supervisor(PROGRAM, environment(store, tmp_path / "home")) as supervisor:
        yield Ways(store, supervisor)


def without_reader(*streams: str) -> Callable[[Child], None]:
    """Nobody reads these pipes of a process."""

    def leave(child: Child) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        for name in streams:
            os.dup2(null, getattr(child, name))
        os.close(null)

    return leave


WRITES = guest(
    leave_on_error(f"(call $write (i32.const 2) (i32.const {TEXT}) (i32.const 4))") + writing(1, 40)
)


@pytest.mark.parametrize("runtime", ["", 'ready = "guest"'])
@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")], ids="+".join)
def test_pipes_that_nobody_reads(ways: Ways, streams: tuple[str, ...], runtime: str) -> None:
    full, planned = ways.compare(WRITES, before=without_reader(*streams), runtime=runtime)
    assert planned == full
    assert full.status != 0


# What lets the app go on is closed last.
@pytest.mark.parametrize("streams", [("report",), ("report", "stdout")], ids="+".join)
@pytest.mark.parametrize("end", [leave(3), "unreachable"])
def test_a_supervisor_that_goes(ways: Ways, streams: tuple[str, ...], end: str) -> None:
    def go(child: Child) -> None:
        until_full(child)
        without_reader(*streams)(child)

    full, planned = ways.compare(guest(writing(1, 40) + end), meanwhile=go)
    assert planned == full
    assert full.report == b""


def until_full(child: Child) -> None:
    """Of what it writes next not all finds room in the pipe."""
    size = fcntl.fcntl(child.stdout, fcntl.F_GETPIPE_SZ)
    eventually(lambda: bytes_in(child.stdout) > size // 2 and is_asleep(child.pid), "the pipe is full")


@pytest.mark.parametrize("phase", ["section", "ready", "start"])
@pytest.mark.parametrize(
    "what",
    [FOREVER, sleep(3600 * 10**9), FLOOD],
    ids=["computes", "sleeps", "writes"],
)
def test_a_stop_ends_it_whatever_it_is_doing(ways: Ways, phase: str, what: str) -> None:
    """The report is the daemon's to write where a plan is followed."""
    code, said = say("in\n") + what, "READY\nin\n" if phase == "start" else "in\n"
    module = {
        "section": guest("", section=code), "ready": guest("", ready=code), "start": guest(code)
    }[phase]  # fmt: skip

    def stop(child: Child) -> None:
        eventually(lambda: bytes_in(child.stdout) >= len(said), "it is where it is to be stopped")
        if what == FLOOD:
            until_full(child)
        os.kill(child.pid, signal.SIGTERM)

    full, planned = ways.compare(module, meanwhile=stop)
    # Whoever is not gone at once may write on when the pipe is read.
    seen = [end._replace(report=b"", stdout=end.stdout[: 2**12]) for end in (full, planned)]
    assert seen[0] == seen[1]
    assert full.signal == "SIGTERM"


STATUS_OF_ARGUMENTS = guest(
    leave_on_error("(call $args_sizes_get (i32.const 32) (i32.const 36))")
    + leave(f"(i32.sub (i32.load (i32.const 36)) (i32.const {len('app.wasm') + 2}))")
)
"""Exits with the length of its first argument."""

STATUSES = (*range(126), 126, 127, 128, 255)
"""One above 125 is like another."""


def test_every_status(ways: Ways) -> None:
    """By the full runtime there is one of each sort; of the others it would say the same with another number."""
    full = {}
    for status in (0, 7, 200):
        plan = ways.plan(STATUS_OF_ARGUMENTS, f'args = ["{"x" * status}"]')
        full[status] = ways.execute(plan)
    values = {name: getattr(plan, name) for name in Plan.__slots__}
    for status in STATUSES:
        end = full[0 if status == 0 else 7 if status < 126 else 200]
        if 0 < status < 126:
            report = end.report.replace(b"status 7", b"status %d" % status)
            end = end._replace(status=status, report=report.replace(b'status": 7', b'status": %d' % status))
        argv = (b"app.wasm", b"x" * status)
        assert ways.follow(Plan(**{**values, "argv": argv})) == end, status
