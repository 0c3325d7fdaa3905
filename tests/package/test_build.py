# SPDX-License-Identifier: Apache-2.0
"""How the package is built: from pinned wheels only, without a network, the same everywhere."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deb import NATIVE, ROOT, BuildError, build, built_deb, copy_tree, set_version, tracked
from tests.package.conftest import Deb

AARCH64 = 183  # EM_AARCH64 of elf.h, e_machine of the ELF header

# Of the arguments, the first becomes the command of the process in the namespace.
WITHOUT_NETWORK = (
    "unshare",
    "--net",
    "--",
    "sh",
    "-ec",
    '! ip route get 192.0.2.1 2>/dev/null; exec "$@"',
    "sh",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the project, with wheels of its own."""
    tree = copy_tree(tracked(), tmp_path / "tree")
    vendor = tree / "packaging" / "vendor"
    shared = vendor.resolve()
    vendor.unlink()
    shutil.copytree(shared, vendor)
    return tree


@pytest.fixture
def umask() -> Iterator[None]:
    """An unusual one."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_build_elsewhere_without_a_network_gives_the_same_bytes(
    deb: Deb, umask: None, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a network namespace")
    tree = copy_tree(tracked(), tmp_path / "a longer name" / "tree")
    for name in tracked():
        os.utime(tree / name, (1, 1))
    (tree / "dirt.py").write_text("")
    place = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    build(tree, within=WITHOUT_NETWORK, env={"TZ": "Pacific/Kiritimati", "LC_ALL": "C", **place})
    [again] = (tree / "dist").glob("*.deb")
    assert again.read_bytes() == deb.path.read_bytes()


def test_the_package_of_the_other_architecture_has_its_engine(deb: Deb) -> None:
    if NATIVE == "arm64":
        pytest.skip("this machine's own is arm64")
    if os.geteuid() != 0 and subprocess.run(["dpkg", "-s", "libc6:arm64"], capture_output=True).returncode:
        pytest.skip("libc6:arm64 is missing, and only root can install it")
    other = Deb.read(built_deb("arm64"))
    [library] = (name for name in other.files if name.endswith(".so"))
    assert library == "/usr/lib/weft-runtime/vendor/wasmtime/linux-aarch64/_libwasmtime.so"
    assert int.from_bytes(other.files[library][18:20], "little") == AARCH64
    assert other.field("Architecture") == "arm64"
    assert other.field("Depends") == deb.field("Depends")
    assert set(other.files) - {library} == {name for name in deb.files if not name.endswith(".so")}


def test_a_wheel_with_another_hash_is_refused(tree: Path) -> None:
    [wheel] = (tree / "packaging" / "vendor").glob("websockets-*.whl")
    with wheel.open("ab") as file:
        file.write(b"more")
    with pytest.raises(BuildError) as caught:
        build(tree)
    assert f"packaging/vendor/{wheel.name} is not the pinned one: its SHA-256 is " in str(caught.value)
    assert not list((tree / "dist").glob("*.deb"))


def test_a_missing_wheel_is_named(tree: Path) -> None:
    [wheel] = (tree / "packaging" / "vendor").glob("websockets-*.whl")
    wheel.unlink()
    with pytest.raises(BuildError) as caught:
        build(tree)
    assert f"there is no packaging/vendor/{wheel.name} [run packaging/fetch]" in str(caught.value)


def test_a_changelog_of_another_version_is_refused(tree: Path) -> None:
    module = tree / "weft_runtime" / "__init__.py"
    code = module.read_text()
    set_version(tree, "7.0.0")
    module.write_text(code)
    with pytest.raises(BuildError) as caught:
        build(tree)
    assert "debian/changelog has version 7.0.0, weft_runtime/__init__.py has another" in str(caught.value)


def test_fetch_keeps_what_is_right_and_refuses_what_is_not_pinned(tmp_path: Path) -> None:
    copy = tmp_path / "packaging"
    copy.mkdir()
    (copy / "fetch").write_bytes((ROOT / "packaging" / "fetch").read_bytes())
    (copy / "fetch").chmod(0o755)
    # An index of our own, a directory, with a wheel that is whole but not the one that is pinned.
    wheel = "websockets-17.4-py3-none-any.whl"
    index = tmp_path / "index"
    index.mkdir()
    shutil.copy(ROOT / "packaging" / "vendor" / wheel, index)
    right = next(
        line for line in (ROOT / "packaging" / "vendor.sha256").read_text().splitlines() if wheel in line
    )
    offline = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
        "PIP_CONFIG_FILE": os.devnull,
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    }

    def fetch(pins: str) -> subprocess.CompletedProcess[str]:
        (copy / "vendor.sha256").write_text(f"{pins}\n")
        return subprocess.run(
            [copy / "fetch"], capture_output=True, text=True, check=False, env={**os.environ, **offline}
        )

    refused = fetch(f"{'0' * 64}  {wheel}")
    assert refused.returncode == 1
    message = f"packaging/fetch: {wheel} is not the one that packaging/vendor.sha256 pins, refused\n"
    assert refused.stderr.endswith(message)
    assert list((copy / "vendor").iterdir()) == []

    assert fetch(right).stdout == f"fetching {wheel}\n"
    assert [path.name for path in (copy / "vendor").iterdir()] == [wheel]
    shutil.rmtree(index)
    again = fetch(right)
    assert (again.returncode, again.stdout) == (0, "")
