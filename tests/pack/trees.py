# SPDX-License-Identifier: Apache-2.0
"""Packages for the tests of weft-pack, small and whole."""

import hashlib
from pathlib import Path

from tests.packages import APP_ID

# Core WebAssembly: one type () -> (), one function of it, exported as _start, with an empty body.
MODULE = bytes.fromhex("0061736d01000000 010401600000 03020100 070a01065f73746172740000 0a040102000b")


def manifest(version: str = "1.2.3", app_id: str = APP_ID) -> str:
    return (
        f'[package]\nid = "{app_id}"\nname = "A test"\nversion = "{version}"\n'
        '[runtime]\nmodule = "app.wasm"\n[ui]\nentry = "ui/index.html"\n'
    )


def make(directory: Path, version: str = "1.2.3", *, app_id: str = APP_ID) -> Path:
    """A valid package in a new directory."""
    (directory / "ui").mkdir(parents=True)
    (directory / "ui/index.html").write_text(f"<!doctype html><title>{version}</title>")
    (directory / "app.wasm").write_bytes(MODULE)
    (directory / "wapp.toml").write_text(manifest(version, app_id))
    return directory


def content(directory: Path) -> dict[str, str]:
    """What is below a directory: each path with its kind and content in short."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            text = f"-> {path.readlink()}"
        elif path.is_dir():
            text = "directory"
        else:
            text = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(directory))] = text
    return found
