# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at the n-th system call that changes something: there is the old version or the new one, and whole."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.pack import trees
from tests.packages import APP_ID
from tests.unit.needs import ROOT, tool
from weft_runtime.pack import storage

CALLS = (
    "write",
    "fsync",
    "rename",
    "renameat2",
    "link",
    "symlink",
    "unlink",
    "unlinkat",
    "mkdir",
    "chmod",
    "fchmod",
)
PREVIOUS = f".{APP_ID}@previous"
SOAK = os.environ.get("WEFT_SOAK") == "1"

Content = dict[str, str]


class Scene:
    """A store with two versions of an app, and a third one to upgrade to."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "store"
        self.template = directory / "template"
        self.trace = directory / "trace"
        self.new = trees.make(directory / "new", "1.2.0")
        (self.new / "link").symlink_to("app.wasm")
        self.old = trees.content(trees.make(self.template / APP_ID, "1.1.0"))
        self.older = trees.content(trees.make(self.template / PREVIOUS, "1.0.0"))
        self.newest = trees.content(self.new)

    def reset(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.template, self.store, symlinks=True)

    def run(self, operation: str, *, kill: str | None = None) -> int:
        """Run an operation below strace(1); `kill` is what to inject."""
        source = str(self.new) if operation == "install" else APP_ID
        command = [tool("strace", "strace"), "-qq", f"--output={self.trace}", f"--trace={','.join(CALLS)}"]
        if kill is not None:
            command.append(f"--inject={kill}")
        script = str(ROOT / "tests/pack/operation.py")
        return subprocess.run(
            [*command, sys.executable, script, str(self.store), operation, source],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode

    def counted(self, operation: str) -> Counter[str]:
        """How often an operation that is left alone makes each of the calls."""
        self.reset()
        assert self.run(operation) == 0
        return Counter(re.findall(r"^(\w+)\(", self.trace.read_text(), re.MULTILINE))

    def content(self, name: str) -> Content | None:
        path = self.store / name
        return trees.content(path) if path.is_dir() else None


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def points(counts: Counter[str]) -> list[tuple[str, int]]:
    """Where to kill: everywhere, or in a hurry at the first, a middle and the last of each call."""
    found = []
    for call, count in sorted(counts.items()):
        chosen = range(1, count + 1) if SOAK else sorted({1, (count + 1) // 2, count})
        found += [(call, number) for number in chosen]
    return found


@pytest.mark.soak
@pytest.mark.parametrize("operation", ["install", "rollback", "uninstall"])
def test_an_operation_that_is_killed_leaves_one_version_or_the_other(operation: str, scene: Scene) -> None:
    counts = scene.counted(operation)
    assert counts["rename"] + counts["renameat2"] >= 1
    after: dict[str, Content | None] = {
        "install": scene.newest, "rollback": scene.older, "uninstall": None,
    }  # fmt: skip
    outcomes = set()
    for call, number in points(counts):
        scene.reset()
        assert scene.run(operation, kill=f"{call}:signal=KILL:when={number}") == -9, (call, number)
        live = scene.content(APP_ID)
        assert live in (scene.old, after[operation]), (call, number)
        # The next run, whatever it does, begins with this.
        with storage.opened(scene.store, lambda: None):
            pass
        assert scene.content(APP_ID) == live, (call, number)
        assert {path.name for path in scene.store.iterdir()} <= {".lock", APP_ID, PREVIOUS}, (call, number)
        assert scene.content(PREVIOUS) in (None, scene.older, scene.old), (call, number)
        if operation == "install" and live == scene.newest:
            assert scene.content(PREVIOUS) == scene.old, (call, number)
        outcomes.add(live == scene.old)
    assert outcomes == {False, True}


@pytest.mark.soak
def test_a_first_install_that_is_killed_leaves_nothing_or_all(scene: Scene) -> None:
    shutil.rmtree(scene.template)
    scene.template.mkdir()
    counts = scene.counted("install")
    assert counts["rename"] == 1
    for call, number in points(counts):
        scene.reset()
        assert scene.run("install", kill=f"{call}:signal=KILL:when={number}") == -9, (call, number)
        live = scene.content(APP_ID)
        assert live in (None, scene.newest), (call, number)
        with storage.opened(scene.store, lambda: None):
            pass
        assert scene.content(APP_ID) == live, (call, number)
        assert {path.name for path in scene.store.iterdir()} <= {".lock", APP_ID}, (call, number)
