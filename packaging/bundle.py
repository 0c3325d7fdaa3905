# SPDX-License-Identifier: Apache-2.0
"""Puts into a package's tree what is not simply copied there: pinned wheels, launchers, bill of materials.

Called by debian/rules as `bundle.py ARCHITECTURE VERSION TREE`, with $SOURCE_DATE_EPOCH set.
"""

import hashlib
import json
import os
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

PACKAGING = Path(__file__).resolve().parent
SOURCE = PACKAGING.parent

# Below them, private to us: in dist-packages our copies would shadow what Debian has or will have.
CODE = Path("/usr/lib/weft-runtime")
VENDOR = CODE / "vendor"
DEBIAN = Path("/usr/lib/python3/dist-packages")
SBOM = Path("/usr/share/doc/weft-runtime/weft-runtime.cdx.json")

PLATFORMS = {"amd64": "x86_64", "arm64": "aarch64"}
LICENSES = {"wasmtime": "Apache-2.0 WITH LLVM-exception", "websockets": "BSD-3-Clause"}

# -I: neither the working directory, nor the user's directories, nor any PYTHON* variable can put code of theirs in.
# -S: nor what was installed by other means than the package manager; and no launch runs the .pth files of all packages.
LAUNCHER = """\
#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
import sys

sys.path[:] = [{first}, *sys.path, {last}]

from {module} import {function}

sys.exit({function}())
"""

# Rust's panic messages name the source files of the crates that were compiled in.
CRATE = re.compile(rb"/registry/src/[^/\0]+/([A-Za-z0-9_-]+?)-(\d+\.\d+\.\d+[^/\0]*)/")


class Wheel(NamedTuple):
    """A pinned file: its name says name, version and platform."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name.split("-")[0]

    @property
    def version(self) -> str:
        return self.path.name.split("-")[1]

    def is_for(self, architecture: str) -> bool:
        return self.path.stem.endswith(("-any", PLATFORMS[architecture]))

    def check(self) -> None:
        """Exits where the file is not there or not the one that was pinned."""
        try:
            found = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except FileNotFoundError:
            sys.exit(f"there is no packaging/vendor/{self.path.name} [run packaging/fetch]")
        if found != self.sha256:
            expected = f"SHA-256 is {found}, packaging/vendor.sha256 says {self.sha256}"
            sys.exit(f"packaging/vendor/{self.path.name} is not the pinned one: its {expected}")


def main(architecture: str, version: str, tree: Path) -> None:
    """Fill the tree."""
    check_version(version)
    wheels = [wheel for wheel in pinned() if wheel.is_for(architecture)]
    for wheel in wheels:
        wheel.check()
        unpack(wheel, within(tree, VENDOR))
    for program, entry in sorted(entry_points().items()):
        write(within(tree, Path("/usr/bin", program)), launcher(entry), 0o755)
    sbom = bill_of_materials(version, wheels, within(tree, VENDOR))
    write(within(tree, SBOM), json.dumps(sbom, indent=2) + "\n", 0o644)


def check_version(version: str) -> None:
    """Exits where the changelog and the code do not agree."""
    code = (SOURCE / "weft_runtime/__init__.py").read_text(encoding="utf-8")
    if f'__version__ = "{version}"' not in code.splitlines():
        sys.exit(f"debian/changelog has version {version}, weft_runtime/__init__.py has another")


def pinned() -> list[Wheel]:
    """All wheels of packaging/vendor.sha256, which is in the format of sha256sum."""
    lines = (PACKAGING / "vendor.sha256").read_text(encoding="utf-8").splitlines()
    return [Wheel(PACKAGING / "vendor" / name, sha256) for sha256, name in map(str.split, lines)]


def unpack(wheel: Wheel, place: Path) -> None:
    """What runs, and the metadata that tells its version.

    The rest of the metadata is for pip, and the C source is of an extension that we do without.
    """
    with zipfile.ZipFile(wheel.path) as archive:
        for name in archive.namelist():
            runs = name.startswith(f"{wheel.name}/") and not name.endswith((".c", ".pyi", "/"))
            if runs or name.endswith(".dist-info/METADATA"):
                archive.extract(name, place)


def entry_points() -> dict[str, str]:
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    scripts: dict[str, str] = project["scripts"]
    return scripts


def launcher(entry: str) -> str:
    module, function = entry.split(":")
    first = f"{json.dumps(os.fspath(CODE))}, {json.dumps(os.fspath(VENDOR))}"
    return LAUNCHER.format(first=first, last=json.dumps(os.fspath(DEBIAN)), module=module, function=function)


def bill_of_materials(version: str, wheels: list[Wheel], vendor: Path) -> dict[str, Any]:
    """CycloneDX 1.5: what this package holds that no other Debian package does."""
    built = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": built.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": "weft-runtime",
                "name": "weft-runtime",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "purl": f"pkg:deb/weft-runtime@{version}",
            },
        },
        "components": [component(wheel, vendor) for wheel in wheels],
        "dependencies": [
            {"ref": "weft-runtime", "dependsOn": [wheel.name for wheel in wheels]},
        ],
    }


def component(wheel: Wheel, vendor: Path) -> dict[str, Any]:
    crates = [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:cargo/{name}@{version.replace('+', '%2B')}",
        }
        for library in sorted((vendor / wheel.name).rglob("*.so"))
        for name, version in crates_in(library.read_bytes())
    ]
    return {
        "type": "library",
        "bom-ref": wheel.name,
        "name": wheel.name,
        "version": wheel.version,
        "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
        "licenses": [{"expression": LICENSES[wheel.name]}],
        "purl": f"pkg:pypi/{wheel.name}@{wheel.version}?file_name={wheel.path.name}",
        **({"components": crates} if crates else {}),
    }


def crates_in(library: bytes) -> Iterator[tuple[str, str]]:
    """Name and version of each Rust crate that left a trace."""
    for name, version in sorted(set(CRATE.findall(library))):
        yield name.decode(), version.decode()


def within(tree: Path, path: Path) -> Path:
    return tree / path.relative_to("/")


def write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


if __name__ == "__main__":
    _, architecture, version, tree = sys.argv
    main(architecture, version, Path(tree))
