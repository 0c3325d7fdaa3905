# SPDX-License-Identifier: Apache-2.0
"""Packages made for one test, from WAT text or bytes."""

from pathlib import Path

import wasmtime

APP_ID = "org.example.app"

PROC_EXIT = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
FD_WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'


def wat(text: str) -> bytes:
    """Assemble `text`, the fields of a module."""
    return bytes(wasmtime.wat2wasm(f"(module {text})"))


def printing(text: str, *, fd: int = 1, then: str = "") -> bytes:
    r"""A module whose `_start` writes `text` to `fd` in one fd_write and then runs the code `then`."""
    data = "".join(f"\\{byte:02x}" for byte in text.encode())
    return wat(
        f"{FD_WRITE} {PROC_EXIT}"
        '(memory (export "memory") 1)'
        f'(data (i32.const 64) "{data}")'
        f'(data (i32.const 0) "\\40\\00\\00\\00\\{len(text.encode()) & 255:02x}\\{len(text.encode()) >> 8:02x}")'
        f'(func (export "_start") (drop (call $write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 8)))'
        f" {then})"
    )


def manifest(app_id: str = APP_ID, *, module: str = "app.wasm", runtime: str = "", extra: str = "") -> str:
    """A valid wapp.toml; `runtime` is added to its [runtime] table, `extra` at its end."""
    return (
        f'[package]\nid = "{app_id}"\nname = "A test"\nversion = "1.2.3"\n'
        f'[runtime]\nmodule = "{module}"\n{runtime}\n[ui]\nentry = "ui/index.html"\n{extra}\n'
    )


def install(store: Path, module: bytes, *, app_id: str = APP_ID, toml: str | None = None) -> Path:
    """Put a package into `store` and return its directory."""
    package = store / app_id
    (package / "ui").mkdir(parents=True)
    (package / "ui/index.html").write_text("<!doctype html><title>A test</title>")
    (package / "app.wasm").write_bytes(module)
    (package / "wapp.toml").write_text(manifest(app_id) if toml is None else toml)
    return package


def install_many(store: Path, count: int) -> None:
    """Put packages into `store` that are nothing but a manifest; each name and version is as long as it may be."""
    for number in range(count):
        app_id = f"org.example.app{number}"
        text = manifest(app_id).replace("A test", "n" * 256).replace("1.2.3", "1." + "2" * 254)
        (store / app_id).mkdir(parents=True)
        (store / app_id / "wapp.toml").write_text(text)
