# SPDX-License-Identifier: Apache-2.0
"""Fixtures that run the command: on the engine, without it, and without the journal's library."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import wasmtime

from tests.command.device import Device
from tests.command.harness import (
    RUN_SECONDS,
    SESSION,
    Finished,
    Run,
    Running,
    Start,
    Stream,
    eventually,
    members,
)
from tests.command.locales import locales  # noqa: F401 - a fixture
from tests.packages import APP_ID

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent

# What an installer writes for the commands that pyproject.toml names.
_SCRIPT = """#!{python}
import sys
from weft_runtime.runtime.main import {function}
sys.exit({function}())
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty package store; the commands run below have it as $WEFT_APP_STORE."""
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def device(tmp_path: Path, store: Path) -> Iterator[Device]:
    """A place without a daemon."""
    device = Device(tmp_path, store)
    yield device
    device.close()


@pytest.fixture
def appd(device: Device) -> Device:
    device.start()
    return device


@pytest.fixture
def run(store: Path) -> Run:
    return _runner(store, PROGRAMS)


@pytest.fixture
def run_bare(store: Path, bare: Path) -> Run:
    """The command where nothing of the extras is installed: the stub."""
    return _runner(store, bare / "bin")


@pytest.fixture
def run_plain(store: Path, plain: Path) -> Run:
    """The command on the engine, but without the libraries for the journal and the service manager."""
    return _runner(store, plain / "bin")


@pytest.fixture
def start(store: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def start(
        *options: str,
        until: bytes = b"READY\n",
        wrapper: Sequence[str] = (),
        env: Mapping[str, str | None] = {},
        stdout: Stream = subprocess.PIPE,
        stderr: Stream | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Running:
        path = tmp_path / f"stderr-{len(started)}"
        with path.open("wb") as file:
            process = subprocess.Popen(
                [*wrapper, PROGRAMS / "weft-runtime", APP_ID, SESSION, *options],
                env=_environment(store, env), stdin=subprocess.DEVNULL, stdout=stdout,
                stderr=file if stderr is None else stderr, pass_fds=pass_fds, start_new_session=True,
            )  # fmt: skip
        running = Running(process, path)
        started.append(running)
        running.read_until(until)
        return running

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()
        if running.process.stdout is not None:
            running.process.stdout.close()
        _assert_nothing_left(running.process.pid)
        assert "Traceback" not in running.stderr


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the package and nothing else."""
    return _virtual_environment(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the package and the engine, and nothing else."""
    directory = _virtual_environment(tmp_path_factory.mktemp("plain"))
    engine = Path(wasmtime.__file__).parent
    for source in (engine, *engine.parent.glob("wasmtime-*.dist-info")):
        (_site_packages(directory) / source.name).symlink_to(source)
    return directory


@pytest.fixture
def broken_engine(bare: Path) -> Iterator[Path]:
    """The file of an engine that is installed in `bare` for one test, which says how it fails."""
    path = _site_packages(bare) / "wasmtime.py"
    yield path
    path.unlink()


@pytest.fixture
def powerless() -> Sequence[str]:
    """Runs a command without the power to pass over the permissions of files."""
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def _runner(store: Path, programs: Path) -> Run:
    def run(
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
        process = subprocess.Popen(
            [*wrapper, programs / program, *args, *options],
            env=_environment(store, env), cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr,
            pass_fds=pass_fds, start_new_session=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=RUN_SECONDS)
        finally:
            process.kill()
            process.wait()
        done = Finished(process.returncode, out or b"", (err or b"").decode(errors="surrogateescape"))
        _assert_nothing_left(process.pid)
        assert ("Traceback" in done.stderr) == bug, done.stderr
        return done

    return run


def _environment(store: Path, changes: Mapping[str, str | None]) -> dict[str, str]:
    # With a home there would be a cache below it, and that may be somebody's.
    cache = {"XDG_CACHE_HOME": str(store.parent / "cache")} if changes.get("HOME") else {}
    environ = {"PATH": "/usr/bin:/bin", "WEFT_APP_STORE": str(store)} | cache | dict(changes)
    return {name: value for name, value in environ.items() if value is not None}


def _assert_nothing_left(session: int) -> None:
    """No process may outlive the command, not even one that only waits to be killed."""
    try:
        eventually(lambda: not members(session), "all processes of the run have ended", seconds=2)
    finally:
        for pid in members(session):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _virtual_environment(directory: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    (_site_packages(directory) / "weft.pth").write_text(f"{REPOSITORY}\n")
    for name, function in (("weft-runtime", "main"), ("weft-runtime-wasmtime", "main_wasmtime")):
        script = directory / "bin" / name
        script.write_text(_SCRIPT.format(python=directory / "bin/python", function=function))
        script.chmod(0o755)
    return directory


def _site_packages(directory: Path) -> Path:
    return directory / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
