# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of the Debian package as it is built, and as it is installed on both releases."""

import os
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deb import VENDOR, built_deb
from tests.system import package
from tests.system.container import PRIVATE, Container, Suite, make_root
from tests.system.container import missing as missing_for_containers
from tests.unit.needs import find, missing

BUILD_TOOLS = ("dpkg-buildpackage", "dh", "dh_python3", "git")
# Above the cached root that all share; gone with the mount namespace. Without /run/systemd/system: no systemd runs.
CHROOT = """
mkdir -p /run/systemd
mount -t tmpfs -o mode=0755 tmpfs /run/systemd
cd /run/systemd
mkdir upper work root
mount -t overlay -o "lowerdir=$1,upperdir=upper,workdir=work" overlay root
mount -t proc proc root/proc
cp "$2" root/opt/weft-runtime.deb
exec chroot root env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root sh -exc "$3"
"""


class Deb(NamedTuple):
    """A built package, and what is in it."""

    path: Path
    members: dict[str, tarfile.TarInfo]
    """By absolute path."""
    files: dict[str, bytes]

    @classmethod
    def read(cls, path: Path) -> "Deb":
        data = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE, check=True
        ).stdout
        members, files = {}, {}
        with tarfile.open(fileobj=BytesIO(data)) as archive:
            for member in archive:
                name = member.name.removeprefix(".")
                members[name] = member
                if (file := archive.extractfile(member)) is not None:
                    files[name] = file.read()
        return cls(path, members, files)

    def field(self, name: str) -> str:
        """A field of its control file."""
        command = ("dpkg-deb", "--field", os.fspath(self.path), name)
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session", autouse=True)
def build_gate() -> None:
    """A skip for a developer without the tools, a failure in CI."""
    if lack := [tool for tool in BUILD_TOOLS if find(tool) is None]:
        missing(f"tests of the package lack: {', '.join(lack)} [run tools/test-packages as root]")
    if not any(VENDOR.glob("*.whl")):
        missing("tests of the package lack the wheels [run packaging/fetch]")


@pytest.fixture(scope="session")
def deb(build_gate: None) -> Deb:
    """The package for this machine."""
    return Deb.read(built_deb())


@pytest.fixture(scope="session")
def root_gate() -> None:
    """What boots or changes roots asks for this."""
    if lack := missing_for_containers():
        missing(f"tests of the installed package lack: {', '.join(lack)} [run tools/test-packages as root]")


@pytest.fixture(scope="module", params=list(Suite), ids=str)
def suite(request: pytest.FixtureRequest, root_gate: None) -> Suite:
    return Suite(request.param)


@pytest.fixture(scope="module")
def installed(suite: Suite, deb: Deb) -> Iterator[Container]:
    """A booted release with the package, for tests that only look."""
    with Container(suite, root=package.installed(suite, deb.path)) as container:
        yield container


def in_chroot(suite: Suite, deb: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root in a release that is not booted, with the package in /opt, to its end."""
    done = subprocess.run(
        [*PRIVATE, CHROOT, "sh", make_root(suite), deb, script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done
