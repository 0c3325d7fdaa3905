# SPDX-License-Identifier: Apache-2.0
"""Builds the Debian package for the tests: once for each content of the tree, kept until that changes."""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "deb"
VENDOR = ROOT / "packaging" / "vendor"
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
UNRELATED = (".ci/", "bench/", "tests/")
"""What is tracked, but cannot change the package."""

LATER = "99.0"
"""The version of a package of the same code to which the one of the tree is upgraded."""

QUICK = {"DPKG_DEB_COMPRESSOR_TYPE": "none"}
"""For dpkg-deb, to pack what is only installed or looked into: the compression takes two thirds of a build."""

KEPT = 12
"""Builds in the cache; the oldest go."""


class BuildError(Exception):
    """packaging/build-deb failed; the text is what it said."""


def built_deb(architecture: str = NATIVE, version: str | None = None) -> Path:
    """The package of the tree as it is; with `version`, a later one of the same code, to upgrade to.

    Only this machine's own one, of the tree's version, is compressed as it is delivered.
    """
    files = tracked()
    place = CACHE / f"{_digest(files)}-{architecture}-{version or 'own'}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            with tempfile.TemporaryDirectory(prefix="weft-deb-") as scratch:
                tree = copy_tree(files, Path(scratch, "tree"))
                if version is not None:
                    set_version(tree, version)
                is_delivered = architecture == NATIVE and version is None
                _keep(tree, architecture, place, {} if is_delivered else QUICK)
            for old in sorted(CACHE.glob("*-*-*"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
                shutil.rmtree(old)
        os.utime(place)
    [deb] = place.glob("*.deb")
    return deb


def earlier_deb(commit: str) -> Path:
    """The package of an earlier `commit`, by its own packaging, to upgrade from."""
    place = CACHE / f"{commit}-{NATIVE}-own"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            command = ["git", "-c", "safe.directory=*", "archive", commit]
            archive = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
            with tempfile.TemporaryDirectory(prefix="weft-deb-") as scratch:
                tree = Path(scratch, "tree")
                tree.mkdir()
                subprocess.run(["tar", "--extract"], cwd=tree, input=archive, check=True)
                (tree / "packaging" / "vendor").symlink_to(VENDOR)
                _keep(tree, NATIVE, place, QUICK)
        os.utime(place)
    [deb] = place.glob("*.deb")
    return deb


def tracked() -> list[str]:
    """What belongs to the project: from git, or, in a release archive, all but what was made in it."""
    if (ROOT / ".git").exists():
        command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
        listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        names = listed.rstrip("\0").split("\0")
    else:
        made = (".venv/", ".cache/", "dist/", "packaging/vendor/")
        paths = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
        names = [path for path in paths if not path.startswith(made) and "__pycache__" not in path]
    return sorted(name for name in names if not name.startswith(UNRELATED))


def copy_tree(files: list[str], tree: Path) -> Path:
    """A copy of the project, without history, to build in; it shares the wheels."""
    for name in files:
        copy = tree / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy)
    (tree / "packaging" / "vendor").symlink_to(VENDOR)
    return tree


def set_version(tree: Path, version: str) -> None:
    """In both places that must agree."""
    module = tree / "weft_runtime" / "__init__.py"
    text, count = re.subn(r'__version__ = "[^"]+"', f'__version__ = "{version}"', module.read_text())
    if count != 1:
        raise BuildError(f"found {count} versions in {module}")
    module.write_text(text)
    changelog = tree / "packaging" / "debian" / "changelog"
    first, rest = changelog.read_text().split("\n", 1)
    changelog.write_text(re.sub(r"\(.*?\)", f"({version})", first) + f"\n{rest}")


def build(
    tree: Path,
    architecture: str = NATIVE,
    *,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> None:
    """Run packaging/build-deb there, `within` another command. Raises BuildError with what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DEB_", "DH_"))}
    done = subprocess.run(
        [*within, os.fspath(tree / "packaging" / "build-deb"), architecture],
        env={**environment, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(done.stdout)


def _keep(tree: Path, architecture: str, place: Path, env: Mapping[str, str]) -> None:
    """Build there, and put what comes of it into `place`, whole or not at all."""
    build(tree, architecture, env=env)
    unfinished = CACHE / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(tree / "dist", unfinished)
    unfinished.rename(place)


def _digest(files: list[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        path = ROOT / name
        digest.update(
            f"{name}\0{path.stat().st_mode:o}\0{path.stat().st_size}\0".encode() + path.read_bytes()
        )
    return digest.hexdigest()[:16]
