# SPDX-License-Identifier: Apache-2.0
"""What is in the package, and what it says about itself."""

import json
import re
import stat
import subprocess
import tomllib
import zipfile
from typing import Any

import pytest

from tests.deb import NATIVE, ROOT, VENDOR, tracked
from tests.package.conftest import Deb
from tests.unit.needs import tool
from weft_runtime import __version__
from weft_runtime.pack.languages import SDK

PACKAGING = ROOT / "packaging"
CODE = "/usr/lib/weft-runtime/"
BUNDLED = f"{CODE}vendor/"
UNITS = "/usr/lib/systemd/system/"
COMMANDS = ("weft-appd", "weft-pack", "weft-runtime", "weft-runtime-wasmtime", "weftctl")


def test_the_versions_of_the_code_the_changelog_and_the_package_agree(deb: Deb) -> None:
    changelog = (PACKAGING / "debian" / "changelog").read_text()
    assert changelog.startswith(f"weft-runtime ({__version__}) ")
    assert deb.field("Version") == __version__
    assert deb.path.name == f"weft-runtime_{__version__}_{NATIVE}.deb"


def test_it_depends_on_debians_libraries_and_on_no_certain_python(deb: Deb) -> None:
    depends = {dependency.split()[0] for dependency in deb.field("Depends").split(", ")}
    python = ("systemd", "sdnotify", "msgpack", "cryptography", "zstandard")
    libraries = {f"python3-{name}" for name in python}
    assert depends == {"libc6", "libgcc-s1", "python3:any", "systemd", *libraries}
    assert "<<" not in deb.field("Depends")


def test_it_holds_all_of_our_code_and_no_bytecode(deb: Deb) -> None:
    ours = {CODE + name for name in tracked() if name.startswith("weft_runtime/")}
    assert {name for name in deb.files if name.startswith(f"{CODE}weft_runtime/")} == ours
    assert not [name for name in deb.members if "__pycache__" in name or name.endswith(".pyc")]


def test_the_guide_is_where_weft_pack_says(deb: Deb) -> None:
    assert SDK.split()[-1] in deb.files


def test_it_holds_the_wheels_but_for_what_cannot_run(deb: Deb) -> None:
    expected = set()
    for wheel in wheels(NATIVE):
        with zipfile.ZipFile(VENDOR / wheel) as archive:
            names = archive.namelist()
        # The metadata for the version, not the licence, list of hashes and more.
        expected |= {
            BUNDLED + name for name in names if ".dist-info/" not in name or name.endswith("/METADATA")
        }
    left_out = {f"{BUNDLED}websockets/speedups.c", f"{BUNDLED}websockets/speedups.pyi"}
    assert left_out < expected
    assert {name for name in deb.files if name.startswith(BUNDLED)} == expected - left_out


def test_all_belongs_to_root_and_only_root_may_write(deb: Deb) -> None:
    programs = {f"/usr/bin/{command}" for command in COMMANDS}
    programs.add("/usr/share/python3/runtime.d/weft-runtime.rtupdate")
    programs |= {f"{CODE}{path.name}" for path in (ROOT / "infra/libexec").iterdir()}
    for name, member in deb.members.items():
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "root", "root"), name
        if not member.issym():
            expected = 0o755 if member.isdir() or name in programs else 0o644
            assert stat.S_IMODE(member.mode) == expected, name
    assert programs < set(deb.files)


def test_units_are_those_of_infra_and_none_is_in_the_old_place(deb: Deb) -> None:
    sources = [path for path in (ROOT / "infra" / "systemd").iterdir() if path.is_file()]
    assert sources
    shipped = {name: data for name, data in deb.files.items() if name.startswith((UNITS, "/lib/"))}
    assert shipped == {UNITS + path.name: path.read_bytes() for path in sources}


def test_the_settings_file_is_a_conffile(deb: Deb) -> None:
    shown = subprocess.run(
        ["dpkg-deb", "--info", deb.path, "conffiles"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert shown.stdout == "/etc/weft/appd.toml\n/etc/weft/pack.toml\n"


def test_each_command_has_its_launcher_and_its_manual_page(deb: Deb) -> None:
    assert {name for name in deb.files if name.startswith("/usr/bin/")} == {
        f"/usr/bin/{c}" for c in COMMANDS
    }
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert sorted(scripts) == sorted(COMMANDS)
    for command in COMMANDS:
        assert deb.files[f"/usr/bin/{command}"].startswith(b"#!/usr/bin/python3 -IS\n")
        assert any(re.fullmatch(rf"/usr/share/man/man\d/{command}\.\d\.gz", name) for name in deb.members)


def test_the_example_apps_are_those_of_the_checkout(deb: Deb) -> None:
    for app in ("hello", "ticker"):
        store = f"/usr/share/weft/apps/org.weft.examples.{app}/"
        source = ROOT / "examples" / app
        shipped = {
            name.removeprefix(store): data for name, data in deb.files.items() if name.startswith(store)
        }
        assert sorted(shipped) == ["app.wasm", "ui/index.html", "wapp.toml"]
        assert all(data == (source / name).read_bytes() for name, data in shipped.items())


def test_the_bill_of_materials_names_the_pinned_wheels(deb: Deb) -> None:
    listed = [(part["purl"].split("=")[1], part["hashes"]) for part in bill_of_materials(deb)]
    pinned = [(name, [{"alg": "SHA-256", "content": sha256}]) for name, sha256 in wheels(NATIVE).items()]
    assert sorted(listed) == sorted(pinned)


def test_the_copyright_file_names_each_bundled_crate(deb: Deb) -> None:
    [engine] = (part for part in bill_of_materials(deb) if part["name"] == "wasmtime")
    crates = {crate["name"] for crate in engine["components"]}
    assert "tokio" in crates  # some are found at all
    words = set(re.findall(r"[\w-]+", deb.files["/usr/share/doc/weft-runtime/copyright"].decode()))
    assert crates - words == set()


def test_lintian_has_nothing_to_say(deb: Deb) -> None:
    lintian = tool("lintian", "lintian")
    done = subprocess.run(
        [lintian, "--allow-root", "--fail-on=warning", deb.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_each_override_of_lintian_has_its_reason() -> None:
    lines = (PACKAGING / "debian" / "weft-runtime.lintian-overrides").read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        assert line.startswith("#") or before.startswith("#"), line


@pytest.mark.parametrize("machine", ["amd64", "arm64"])
def test_each_architecture_has_its_wheels(machine: str) -> None:
    assert sorted(name.split("-")[0] for name in wheels(machine)) == ["wasmtime", "websockets"]


def wheels(architecture: str) -> dict[str, str]:
    """The pinned wheels and their hashes."""
    platform = {"amd64": "x86_64", "arm64": "aarch64"}[architecture]
    pins = [line.split() for line in (PACKAGING / "vendor.sha256").read_text().splitlines()]
    return {name: sha256 for sha256, name in pins if name.endswith(("-any.whl", f"_{platform}.whl"))}


def bill_of_materials(deb: Deb) -> list[Any]:
    """The components in it."""
    components: list[Any] = json.loads(deb.files["/usr/share/doc/weft-runtime/weft-runtime.cdx.json"])[
        "components"
    ]
    return components
