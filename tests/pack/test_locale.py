# SPDX-License-Identifier: Apache-2.0
"""A path is its bytes under every locale: when signed, verified, packed, unpacked, installed, listed and started."""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.command.device import Device
from tests.command.guests import guest, say
from tests.pack import trees
from tests.pack.command import pack
from tests.packages import APP_ID
from tests.unit.needs import ROOT, tool

OPENS_OTHERS = ("os.open", "tarfile.open", "processes.read_text", "known.code.open")
"""Calls of that name that open no file as text."""

LOCALES = ["C", "POSIX", "C.UTF-8", "de_DE", "xx_YY"]
ARCHIVE = f"{APP_ID}.app.tar.zst"
MODULE = "bücher.wasm"
NAMES = [MODULE, "ui/ü.html", "ui/Ärger/ß", "ui/日本", "ui/\u0101\u20ac"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a locale of ISO-8859-1, named de_DE."""
    directory = tmp_path_factory.mktemp("locales")
    command = [tool("localedef", "locales"), "-i", "de_DE", "-f", "ISO-8859-1", str(directory / "de_DE")]
    # It warns of what POSIX does not have.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (directory / "de_DE/LC_CTYPE").exists(), done.stderr
    return directory


def environ(locale: str, compiled: Path) -> Mapping[str, str]:
    return {"LC_ALL": locale, "LANG": locale, "LOCPATH": str(compiled), "PATH": "/usr/bin:/bin"}


def package(directory: Path) -> Path:
    """A package with names that are not ASCII, the module's among them, and a link to one."""
    made = trees.make(directory)
    (made / "app.wasm").unlink()
    toml = (made / "wapp.toml").read_text()
    (made / "wapp.toml").write_text(toml.replace("app.wasm", MODULE), encoding="utf-8")
    for name in NAMES:
        path = os.path.join(os.fsencode(made), name.encode())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(guest(say(f"from {name}\n")) if name == MODULE else name.encode())
    os.symlink(NAMES[1].encode(), os.path.join(os.fsencode(made), "ü".encode()))
    return made


def names(directory: Path) -> list[bytes]:
    found = []
    for here, directories, files in os.walk(os.fsencode(directory)):
        found += [os.path.join(here, name)[len(os.fsencode(directory)) :] for name in directories + files]
    return sorted(found)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> Path:
    """A key, a package that was signed under UTF-8, its archive."""
    directory = tmp_path_factory.mktemp("reference")
    env = environ("C.UTF-8", compiled)
    assert pack("generate-key", directory, env=env).status == 0
    made = package(directory / "package")
    assert pack("sign", made, "--key", directory / "weft-sign.key", env=env).status == 0
    assert pack("bundle", made, "--out", directory, env=env).status == 0
    return directory


def test_the_locale_of_the_test_is_what_it_says(compiled: Path) -> None:
    code = "import sys; print(sys.getfilesystemencoding())"
    seen = {
        locale: subprocess.run(
            [sys.executable, "-c", code], env=environ(locale, compiled), capture_output=True, text=True,
            check=True,
        ).stdout.strip()
        for locale in LOCALES
    }  # fmt: skip
    assert seen["de_DE"] == "iso8859-1"
    assert seen["C.UTF-8"] == "utf-8"


@pytest.mark.parametrize("locale", LOCALES)
def test_a_package_is_the_same_under_every_locale(
    locale: str, compiled: Path, reference: Path, tmp_path: Path
) -> None:
    env = {**environ(locale, compiled), "WEFT_APP_STORE": str(tmp_path / "store"), "HOME": str(tmp_path)}
    key, public = reference / "weft-sign.key", reference / "weft-sign.pub"
    made = package(tmp_path / "päckage")
    assert pack("check", made, env=env).problems == []
    assert pack("sign", made, "--key", key, env=env).status == 0
    assert (made / "signature.sig").read_bytes() == (reference / "package/signature.sig").read_bytes()
    assert pack("verify", reference / "package", "--key", public, env=env).out == "OK\n"
    assert pack("bundle", made, "--out", tmp_path, env=env).status == 0
    assert (tmp_path / ARCHIVE).read_bytes() == (reference / ARCHIVE).read_bytes()
    (tmp_path / "out").mkdir()
    assert pack("unbundle", reference / ARCHIVE, "--out", tmp_path / "out", env=env).status == 0
    assert names(tmp_path / "out" / APP_ID) == names(reference / "package")
    for source in (reference / ARCHIVE, made):
        done = pack("install", source, env=env)
        assert done.status == 0, done.err
        installed = tmp_path / "store" / APP_ID
        assert names(installed) == names(reference / "package")
        assert pack("verify", installed, "--key", public, env=env).out == "OK\n"
    assert pack("list", env=env).out == f"{APP_ID}  A test  1.2.3\n"
    assert pack("info", installed, "--json", env=env).status == 0


@pytest.mark.parametrize("locale", LOCALES)
def test_an_app_is_started_under_every_locale(locale: str, compiled: Path, tmp_path: Path) -> None:
    store = tmp_path / "störe"
    store.mkdir()
    device = Device(tmp_path, store)
    device.environ |= {**environ(locale, compiled), "PATH": device.environ["PATH"]}
    package(store / APP_ID)
    device.start(WEFT_LOG="stderr")
    try:
        done = device.ctl("launch", "--wait", APP_ID)
        assert done.status == 0, done.stderr
        assert [app["app_id"] for app in device.ctl("apps", "--json").json] == [APP_ID]
        assert device.ctl("list", "--all").stdout.splitlines()[1:]
    finally:
        device.close()
    assert "from bücher.wasm" in device.log.read_text(encoding="utf-8", errors="replace")


def test_a_record_of_what_was_verified_is_good_under_every_locale(
    compiled: Path, reference: Path, tmp_path: Path
) -> None:
    keys, records, revoked = (tmp_path / name for name in ("keys", "records", "revoked"))
    keys.mkdir()
    (keys / "one.pub").write_bytes((reference / "weft-sign.pub").read_bytes())
    (keys / "one.pub").chmod(0o644)
    code = f"""
import os
from pathlib import Path
from weft_runtime import signature, trust
places = trust.Places(Path("/nonexistent"), [Path({str(keys)!r})], [Path({str(records)!r})], os.geteuid(), Path({str(revoked)!r}))
package = Path({str(reference / "package")!r})
keys = trust.trusted_keys(places)
if not places.records[0].exists():
    trust.remember(package, signature.read(package), "one", keys, places, wait=True)
signature.read = None
name = {MODULE!r}
with open(os.fsencode(package) + b"/" + name.encode(), "rb") as module:
    trust.demand(package, module.fileno(), name, places)
"""
    for locale in LOCALES:
        done = subprocess.run(
            [sys.executable, "-c", f"#coding:utf-8\n{ascii_only(code)}"], env=environ(locale, compiled),
            capture_output=True, cwd=ROOT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (locale, done.stderr)


def ascii_only(code: str) -> str:
    """The same code: an argument of a program goes through the locale as well."""
    return code.encode("ascii", "backslashreplace").decode()


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    """Each call that may open a file as text, or a pipe, says that it is bytes or which encoding it is."""
    wrong = []
    for path in [*(ROOT / "weft_runtime").glob("**/*.py"), ROOT / "packaging/bundle.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and depends_on_locale(node):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def depends_on_locale(call: ast.Call) -> bool:
    if ast.unparse(call.func) in OPENS_OTHERS:
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if name in ("read_text", "write_text"):
        return True
    if name in ("run", "Popen", "check_output"):
        return "text" in keywords or "universal_newlines" in keywords
    is_builtin = isinstance(call.func, ast.Name)
    if name == "open":
        modes = [
            *call.args[is_builtin : 1 + is_builtin],
            *([keywords["mode"]] if "mode" in keywords else []),
        ]
        return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)
    return False
