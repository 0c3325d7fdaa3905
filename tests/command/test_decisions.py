# SPDX-License-Identifier: Apache-2.0
"""What a log at the level of debug says of decisions: which store, which policy, which code, and why it is compiled."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.command.device import PROGRAMS, Device
from tests.command.guests import guest, say
from tests.command.harness import Run
from tests.packages import APP_ID, install
from weft_runtime.policy import CONFIG_FILE

MODULE = guest(say("out\n"))

PACKAGE = r"the package is '(?P<package>[^']+)', of the stores '(?P<store>[^']+)'"
POLICY = rf"the policy in {re.escape(str(CONFIG_FILE))} is '(?:warn|require|off)'"
COMPILING = r"compiling \S+/app\.wasm: no cache has its code"
LOADING = r"loading \S+/app\.wasm: its code is (?P<code>\S+)"


def decisions(log: str) -> list[str]:
    return re.findall(r"debug: (.*)", log)


def matches(log: str, *patterns: str) -> list[re.Match[str]]:
    """The one line for each pattern."""
    found = []
    for pattern in patterns:
        lines = [match for line in decisions(log) if (match := re.search(pattern, line))]
        assert len(lines) == 1, (pattern, log)
        found += lines
    return found


def cached(tmp_path: Path) -> dict[str, str | None]:
    return {"HOME": str(tmp_path), "WEFT_LOG_LEVEL": "debug"}


def test_a_service(store: Path, run: Run, tmp_path: Path) -> None:
    install(store, MODULE)
    first = run("--service", args=(APP_ID,), env=cached(tmp_path)).stderr
    package, *_ = matches(first, PACKAGE, POLICY, COMPILING)
    assert (package["package"], package["store"]) == (str(store / APP_ID), str(store))
    second = run("--service", args=(APP_ID,), env=cached(tmp_path)).stderr
    *_, code = matches(second, PACKAGE, POLICY, LOADING)
    assert Path(code["code"]).is_file()
    # Another module: the code that is there is of no use.
    (store / APP_ID / "app.wasm").write_bytes(guest(say("other\n")))
    matches(run("--service", args=(APP_ID,), env=cached(tmp_path)).stderr, COMPILING)


def test_a_service_without_a_cache(store: Path, run: Run) -> None:
    install(store, MODULE)
    done = run("--service", args=(APP_ID,), env={"WEFT_LOG_LEVEL": "debug"})
    matches(done.stderr, PACKAGE, POLICY, COMPILING)


def test_nothing_of_it_at_the_usual_level(store: Path, run: Run) -> None:
    install(store, MODULE)
    assert decisions(run("--service", args=(APP_ID,)).stderr) == []


def test_code_that_cannot_be_used_is_named(store: Path, run: Run, tmp_path: Path) -> None:
    install(store, MODULE)
    run("--service", args=(APP_ID,), env=cached(tmp_path))
    (code,) = matches(run("--service", args=(APP_ID,), env=cached(tmp_path)).stderr, LOADING)
    path = Path(code["code"])
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = run("--service", args=(APP_ID,), env=cached(tmp_path))
    assert (done.status, done.stdout) == (0, b"READY\nout\n")
    matches(done.stderr, PACKAGE, POLICY, r"compiling \S+/app\.wasm: ")


@pytest.mark.sessions
def test_a_launch(device: Device) -> None:
    install(device.store, MODULE)
    device.start(WEFT_LOG_LEVEL="debug", WEFT_LOG="stderr")
    for _ in range(2):
        assert device.ctl("launch", "--wait", APP_ID).status == 0
    device.stop()
    sessions = [
        "\n".join(re.findall(rf"debug: {re.escape(APP_ID)}\[{number}\]: .*", device.log.read_text()))
        for number in (1, 2)
    ]
    for text, code in zip(sessions, (COMPILING, LOADING), strict=True):
        how, package, *_ = matches(
            text,
            r"weft-runtime-wasmtime, (?P<how>[^;]+); the stores are (?P<stores>.*)",
            PACKAGE,
            POLICY,
            code,
        )
        assert how["how"] in ("a process of the fork server's", "executed")
        assert how["stores"] == f"'{device.store}'"
        assert package["package"] == str(device.store / APP_ID)


def test_a_run(tmp_path: Path) -> None:
    directory = install(tmp_path, MODULE)
    environ = {"PATH": f"{PROGRAMS}:/usr/bin:/bin", "HOME": str(tmp_path), "WEFT_LOG_LEVEL": "debug"}
    for code in (COMPILING, LOADING):
        done = subprocess.run(
            [PROGRAMS / "weft-pack", "run", os.fspath(directory)], env=environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == "READY\nout\n"
        matches(done.stderr, r"the package is '[^']+'", POLICY, code)
