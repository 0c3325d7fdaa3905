# SPDX-License-Identifier: Apache-2.0
"""How the package is built: from pinned wheels only, without a network, the same everywhere."""

import hashlib
import os
import re
import shutil
import subprocess
import zipfile
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


def engine_wheel(index: Path, version: str, platform: str, crate: str) -> Path:
    """A wheel of an engine that does nothing, but says which crate is in it."""
    path = index / f"wasmtime-{version}-py3-none-{platform}.whl"
    info = f"wasmtime-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("wasmtime/linux/_libwasmtime.so", f"\0/registry/src/index/{crate}-1.0.0/lib.rs\0")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: wasmtime\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: py3-none-{platform}\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def test_one_command_takes_another_engine(tmp_path: Path) -> None:
    copy, index = tmp_path / "tree", tmp_path / "index"
    index.mkdir()
    names = ("pyproject.toml", "NEWS.md", "weft_runtime/__init__.py", "packaging/update-engine",
             "packaging/bundle.py", "packaging/vendor.sha256", "packaging/debian/changelog",
             "packaging/debian/copyright")  # fmt: skip
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    environ = {
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull,
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip
    (copy / ".venv").symlink_to(ROOT / ".venv")

    def update(version: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [copy / "packaging/update-engine", version], capture_output=True, text=True, check=False,
            env={**os.environ, **environ},
        )  # fmt: skip

    def texts() -> dict[str, str]:
        return {name: (copy / name).read_text() for name in names}

    before = texts()
    engine_wheel(index, "77.0.1", "manylinux2014_aarch64", "gimli")
    # Of one machine only.
    assert update("77.0.1").returncode == 1
    assert texts() == before
    assert list((copy / "packaging/vendor").iterdir()) == []

    wheels = [
        engine_wheel(index, version, platform, "gimli" if version == "77.0.1" else "crate-of-nobody")
        for version in ("77.0.1", "77.0.2")
        for platform in ("manylinux1_x86_64", "manylinux2014_aarch64")
    ]
    done = update("77.0.1")
    assert done.returncode == 0, done.stderr
    assert "run 'make test-engine'" in done.stdout
    after = texts()
    assert '"wasmtime>=77.0.1,<78"' in after["pyproject.toml"]
    assert "  * The engine is wasmtime 77.0.1.\n\n -- " in after["packaging/debian/changelog"]
    assert "- The engine is wasmtime 77.0.1.\n" in after["NEWS.md"]
    pins = after["packaging/vendor.sha256"].splitlines()
    for wheel in wheels[:2]:
        assert f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}" in pins
        assert (copy / "packaging/vendor" / wheel.name).read_bytes() == wheel.read_bytes()
    assert len(pins) == len(before["packaging/vendor.sha256"].splitlines())

    done = update("77.0.2")
    assert done.returncode == 1
    assert "debian/copyright does not name the crate crate-of-nobody" in done.stdout
    assert "77.0.1" not in "".join(texts().values())
    assert sorted(path.name for path in (copy / "packaging/vendor").iterdir()) == sorted(
        wheel.name for wheel in wheels[2:]
    )
    assert update("newest").returncode == 2

    # A version that devices have already does not become another one.
    news = copy / "NEWS.md"
    news.write_text(news.read_text().replace(" (unreleased)", " (2026-12-01)"))
    released = texts()
    done = update("77.0.1")
    assert done.returncode == 1
    assert "NEWS.md begins with a released version, 0.1.0 (2026-12-01): begin the next one" in done.stderr
    assert texts() == released


def test_the_engine_that_is_pinned_is_in_the_bounds_of_the_project() -> None:
    pins = (ROOT / "packaging/vendor.sha256").read_text()
    [version] = set(re.findall(r"wasmtime-([0-9.]+)-py3", pins))
    above = int(version.split(".")[0]) + 1
    assert f'"wasmtime>={version},<{above}"' in (ROOT / "pyproject.toml").read_text()
