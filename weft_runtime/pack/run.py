# SPDX-License-Identifier: Apache-2.0
"""`weft-pack run`: an app run from its directory, as a session is, without being installed."""

import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from weft_runtime import capabilities
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import quote
from weft_runtime.manifest import Manifest
from weft_runtime.pack.engine import RUNTIME, find_runtime
from weft_runtime.pack.info import parse_manifest
from weft_runtime.pack.screen import Screen

SESSION = "0"
"""A number that weft-appd gives to nobody."""

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(screen: Screen, environ: Mapping[str, str], directory: Path, args: Sequence[str]) -> int:
    """Run the app in `directory`; `args` are options for the runtime. Returns its exit status.

    Raises WeftError where it could not be started.
    """
    manifest = parse_manifest(directory)
    chosen = environ.get("WEFT_RUNTIME_BIN")
    program = find_runtime(environ, chosen or RUNTIME)
    if program is None:
        raise WeftError(
            Problem.ENGINE_MISSING,
            f"there is no {chosen or RUNTIME} beside this program or on PATH",
            "the Debian package weft-runtime brings it",
        )
    try:
        with tempfile.TemporaryDirectory(prefix="weft-run-") as scratch:
            store = Path(scratch, "store")
            store.mkdir()
            Path(store, manifest.id).symlink_to(directory.resolve())
            preopens = _preopens(screen, manifest, Path(scratch))
            command = [program, manifest.id, SESSION, *preopens, *args]
            # The store is for runtimes of others; ours opens the directory itself, and names it in messages.
            places = {"WEFT_APP_STORE": str(store), "WEFT_APP_DIR": str(directory.absolute())}
            return _wait_for(command, {**environ, **places})
    except OSError as error:
        raise from_os_error(f"run {quote(str(directory))}", error) from None


def _preopens(screen: Screen, manifest: Manifest, scratch: Path) -> list[str]:
    """Options for what the app's capabilities grant: a data directory of its own, for this run only.

    Nobody's documents: what runs here may not be trusted yet, and --preopen gives them to it.
    """
    grants = capabilities.resolve(
        manifest.capabilities, lambda: capabilities.data_directory(scratch / "data", manifest.id), home=None
    )
    for capability in dict.fromkeys(manifest.capabilities):
        if (lack := capabilities.shortfall(capability)) is not None:
            screen.note(f"the capability {quote(capability)} {lack}")
    options: list[str] = []
    for grant in grants.directories:
        options += ["--preopen" if grant.writable else "--preopen-ro", f"{grant.host}::{grant.guest}"]
    return options


def _wait_for(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a program to its end, hand on the signals that ask for it, and return the status as a shell has it."""
    # Until there is a handler that knows the child, no signal may end this process and leave it behind.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    try:
        child = subprocess.Popen(
            command, env=env, preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        )

        def pass_on(number: int, _frame: FrameType | None) -> None:
            child.send_signal(number)

        previous = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
