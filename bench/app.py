# SPDX-License-Identifier: Apache-2.0
"""One package, and how each runtime is told to run its module in the same way."""

import json
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench import machine
from bench.measure import BenchError, Case, run

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples/hello"


class App(NamedTuple):
    """An app in a store of its own, and the environment in which everything is run."""

    id: str
    module: Path
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    environment: Mapping[str, str]


def scratch_environment(scratch: Path) -> dict[str, str]:
    """The same few variables for all; caches and stores are in `scratch`."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": str(scratch),
        "WEFT_APP_STORE": str(scratch / "store"),
    }


def install_example(scratch: Path) -> App:
    """Install the example `hello` below `scratch`. Raises BenchError where it has not been built."""
    if not (EXAMPLE / "app.wasm").is_file():
        raise BenchError(f"there is no {EXAMPLE / 'app.wasm'}: run 'make examples'")
    manifest = tomllib.loads((EXAMPLE / "wapp.toml").read_text())
    package = scratch / "store" / manifest["package"]["id"]
    shutil.copytree(EXAMPLE, package, dirs_exist_ok=True)
    runtime = manifest["runtime"]
    return App(
        id=package.name,
        module=package / runtime["module"],
        args=tuple(runtime.get("args", ())),
        env=tuple(runtime.get("env", {}).items()),
        environment=scratch_environment(scratch),
    )


def install_module(scratch: Path, app_id: str, module: bytes, *args: str) -> App:
    """Install a package around `module`, in the place of one that was there."""
    package = scratch / "store" / app_id
    (package / "ui").mkdir(parents=True, exist_ok=True)
    (package / "ui/index.html").write_text("<!doctype html>\n")
    (package / "app.wasm").write_bytes(module)
    (package / "wapp.toml").write_text(
        f'[package]\nid = "{app_id}"\nname = "{package.name}"\nversion = "1.0.0"\n'
        f'[runtime]\nmodule = "app.wasm"\nargs = {json.dumps(args)}\n[ui]\nentry = "ui/index.html"\n'
    )
    return App(app_id, package / "app.wasm", args, (), scratch_environment(scratch))


def ours(app: App, *, log: str) -> Case:
    argv = (str(machine.runtime_command()), app.id, "1")
    what = f"weft-runtime-wasmtime, log to {'the journal' if log == 'journal' else 'stderr'}"
    return Case(f"weft-{log}", what, argv, {**app.environment, "WEFT_LOG": log})


def baseline(app: App) -> Case:
    argv = (sys.executable, "-I", str(HERE / "baseline.py"), str(app.module), *_received(app))
    return Case("baseline", "python3 -I, import wasmtime, the guest's own work", argv, app.environment)


def wasmtime(app: App) -> Case | None:
    """`wasmtime run` of the module, which it compiles: its cache of compiled code is off."""
    return _wasmtime("wasmtime", "wasmtime run, which compiles the module", app, str(app.module))


def precompiled(app: App, scratch: Path) -> Case | None:
    """`wasmtime run` of what `wasmtime compile` makes of the module, in `scratch`. Raises BenchError."""
    compiled = scratch / f"{app.id}.cwasm"
    command = machine.wasmtime_command()
    if command is not None and not compiled.exists():
        run([str(command), "compile", "-o", str(compiled), str(app.module)])
    what = "wasmtime run --allow-precompiled, of what wasmtime compile made"
    return _wasmtime("wasmtime-precompiled", what, app, "--allow-precompiled", str(compiled))


def _wasmtime(name: str, what: str, app: App, *how: str) -> Case | None:
    command = machine.wasmtime_command()
    if command is None:
        return None
    variables = [word for name, value in app.env for word in ("--env", f"{name}={value}")]
    # Without its cache also where that has no use: it takes the command 0.5 ms to look whether there is one.
    argv = (str(command), "run", "-C", "cache=n", *variables, *how, *app.args)
    return Case(name, what, argv, app.environment)


def node(app: App) -> Case | None:
    command = machine.node_command()
    if command is None:
        return None
    script = str(HERE / "run_wasi.mjs")
    argv = (str(command), "--no-warnings", script, str(app.module), *_received(app))
    return Case("node", "Node.js, node:wasi", argv, app.environment)


def python(name: str, code: str) -> Case:
    """The interpreter alone."""
    return Case(name, f"python3 -I -c '{code}'", (sys.executable, "-I", "-c", code), {"LC_ALL": "C.UTF-8"})


def _received(app: App) -> list[str]:
    return [*(f"{name}={value}" for name, value in app.env), "--", *app.args]
