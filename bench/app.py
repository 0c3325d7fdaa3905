# SPDX-License-Identifier: Apache-2.0
"""One package, and how each runtime is told to run its module in the same way."""

import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench import machine
from bench.measure import BenchError, Case

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


def install_module(scratch: Path, app_id: str, module: bytes) -> App:
    """Install a package around `module`."""
    package = scratch / "store" / app_id
    (package / "ui").mkdir(parents=True)
    (package / "ui/index.html").write_text("<!doctype html>\n")
    (package / "app.wasm").write_bytes(module)
    (package / "wapp.toml").write_text(
        f'[package]\nid = "{app_id}"\nname = "{package.name}"\nversion = "1"\n'
        '[runtime]\nmodule = "app.wasm"\n[ui]\nentry = "ui/index.html"\n'
    )
    return App(app_id, package / "app.wasm", (), (), scratch_environment(scratch))


def ours(app: App, *, log: str) -> Case:
    argv = (str(machine.runtime_command()), app.id, "1")
    what = f"weft-runtime-wasmtime, log to {'the journal' if log == 'journal' else 'stderr'}"
    return Case(f"weft-{log}", what, argv, {**app.environment, "WEFT_LOG": log})


def baseline(app: App) -> Case:
    argv = (sys.executable, "-I", str(HERE / "baseline.py"), str(app.module), *_received(app))
    return Case("baseline", "python3 -I, import wasmtime, the guest's own work", argv, app.environment)


def wasmtime(app: App, *, cache: bool) -> Case | None:
    """`wasmtime run`; with its cache of compiled code, which is on by default, or without."""
    command = machine.wasmtime_command()
    if command is None:
        return None
    variables = [word for name, value in app.env for word in ("--env", f"{name}={value}")]
    argv = (
        str(command),
        "run",
        "-C",
        f"cache={'y' if cache else 'n'}",
        *variables,
        str(app.module),
        *app.args,
    )
    name = "wasmtime-cached" if cache else "wasmtime"
    return Case(
        name, f"wasmtime run, compiled code {'cached' if cache else 'not cached'}", argv, app.environment
    )


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
