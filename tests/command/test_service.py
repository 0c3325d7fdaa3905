# SPDX-License-Identifier: Apache-2.0
"""An app as a service: its log, and the directories that its capabilities grant."""

from pathlib import Path

import pytest

from tests.command.guests import BADF
from tests.command.harness import Finished, Run
from tests.command.test_preopens import LIST, READ, WRITE
from tests.packages import APP_ID, install, manifest, printing, wat

UNKNOWN, MISSING = 177, 178


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a file."""
    path = tmp_path / "state"
    path.mkdir()
    (path / "file").write_text("of the host")
    return path


def serve(run: Run, *options: str, state: str | None, home: Path | None = None) -> Finished:
    env = {"STATE_DIRECTORY": state, "HOME": None if home is None else str(home)}
    return run("--service", *options, args=(APP_ID,), env=env)


def package(store: Path, module: bytes, *capabilities: str) -> None:
    toml = manifest().replace("[runtime]", f"capabilities = {list(capabilities)}\n[runtime]")
    install(store, module, toml=toml)


def test_a_service_has_no_session_in_its_log(store: Path, run: Run) -> None:
    install(store, printing("hello"))
    done = serve(run, state=None)
    assert (done.status, done.stdout) == (0, b"READY\nhello")
    assert f" info: {APP_ID}: the app is ready\n" in done.stderr
    assert f"{APP_ID}[" not in done.stderr


@pytest.mark.parametrize("capability", ["fs:rw:app-data", "fs:read:app-data"])
def test_data_is_the_first_state_directory(store: Path, run: Run, state: Path, capability: str) -> None:
    package(store, READ, capability)
    done = serve(run, state=f"{state}:/nonexistent")
    assert (done.status, done.stdout) == (0, b"READY\nof the host")


def test_data_is_written_only_by_who_may(store: Path, run: Run, state: Path) -> None:
    package(store, WRITE, "fs:read:app-data")
    assert serve(run, state=str(state)).status != 0
    assert (state / "file").read_text() == "of the host"
    (store / APP_ID / "wapp.toml").write_text(
        manifest().replace("[runtime]", "capabilities = ['fs:rw:app-data']\n[runtime]")
    )
    assert serve(run, state=str(state)).status == 0
    assert (state / "file").read_text() == "by the appt"


def test_without_the_capability_there_is_no_directory(store: Path, run: Run, state: Path) -> None:
    package(store, LIST)
    done = serve(run, state=str(state))
    assert (done.status, done.stdout) == (BADF, b"READY\n")


def test_documents_are_there_where_a_home_has_them(
    store: Path, run: Run, state: Path, tmp_path: Path
) -> None:
    package(store, LIST, "fs:read:xdg-documents", "fs:rw:app-data")
    done = serve(run, "--preopen-ro", f"{state}::/more", state=str(state), home=tmp_path)
    assert (done.status, done.stdout) == (BADF, b"READY\n/more|/data|")
    (tmp_path / "Documents").mkdir()
    done = serve(run, state=str(state), home=tmp_path)
    assert (done.status, done.stdout) == (BADF, b"READY\n/data|/xdg/documents|")


@pytest.mark.parametrize("state", [None, ""])
def test_data_without_a_place_for_it(store: Path, run: Run, state: str | None) -> None:
    package(store, READ, "fs:rw:app-data")
    done = serve(run, state=state)
    assert (done.status, done.stdout) == (MISSING, b"")
    assert done.end == (
        "err: the app has a capability for data of its own, but $STATE_DIRECTORY is not set"
        " [see StateDirectory= in systemd.exec(5)]"
    )


def test_an_unknown_capability_refuses_the_start(store: Path, run: Run) -> None:
    package(store, printing("hello"), "sys:notifications", "fs:rw:everything")
    done = serve(run, state=None)
    assert (done.status, done.stdout) == (UNKNOWN, b"")
    assert done.end == "err: unknown capability 'fs:rw:everything'"


def test_what_is_not_served_is_said(store: Path, run: Run) -> None:
    package(store, printing("hello"), "sys:notifications", "net:fetch:a.example")
    done = serve(run, state=None)
    assert (done.status, done.stdout) == (0, b"READY\nhello")
    assert (
        "notice: capabilities that this release does not serve: sys:notifications, net:fetch:a.example"
        in done.log
    )


def test_a_session_leaves_all_that_to_its_supervisor(store: Path, run: Run, state: Path) -> None:
    package(store, LIST, "fs:rw:app-data", "fs:rw:everything")
    done = run(env={"STATE_DIRECTORY": str(state)})
    assert (done.status, done.stdout) == (BADF, b"READY\n")


def test_the_interpreter_runs_an_app_with_the_same_result(store: Path, run: Run) -> None:
    install(store, printing("hello", then="unreachable"))
    native, pulley = (run(env={"WEFT_ENGINE": engine}) for engine in ("native", "pulley"))
    assert native.stdout == pulley.stdout == b"READY\nhello"
    assert native.status == pulley.status == 134
    assert native.end == pulley.end
    assert any(f"{APP_ID}/app.wasm for pulley in " in line for line in pulley.log)
    assert not any("pulley" in line for line in native.log)


def test_the_interpreter_takes_no_atomic_instructions(store: Path, run: Run) -> None:
    install(store, wat('(memory 1) (func (export "_start") (drop (i32.atomic.load (i32.const 0))))'))
    assert run().status == 0
    done = run(env={"WEFT_ENGINE": "pulley"})
    assert (done.status, done.stdout) == (165, b"")
    assert "threads support is not enabled" in done.end


def test_an_unknown_engine_is_a_configuration_error(store: Path, run: Run) -> None:
    install(store, wat('(func (export "_start"))'))
    done = run(env={"WEFT_ENGINE": "jit"})
    assert (done.status, done.stdout) == (178, b"")
    assert done.end == "err: $WEFT_ENGINE is 'jit': expected 'native' or 'pulley'"
