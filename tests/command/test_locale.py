# SPDX-License-Identifier: Apache-2.0
"""Every program under locales that are not UTF-8: a path is its bytes, and text that a file holds is UTF-8."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.command.device import PROGRAMS, Device
from tests.command.guests import guest
from tests.command.harness import RUN_SECONDS, WAIT_SECONDS
from tests.command.locales import NAMES, tree
from tests.command.test_preopens import LIST, WRITE
from tests.packages import APP_ID, install
from tests.unit.needs import ROOT

# Each of two bytes that ISO-8859-1 takes for two characters, and of three that it has no character for.
MODULE, PAGE, PLACE = "mödül-日本.wasm", "ui/größe.html", "gerät-日本"
MANIFEST = f"""[package]
id = "{APP_ID}"
name = "Prüfung 日本"
version = "1.0.0"
capabilities = ["fs:rw:app-data"]
[runtime]
module = "{MODULE}"
[ui]
entry = "{PAGE}"
"""


class Reference(NamedTuple):
    """A package that is signed, its keys and its archive, made under a locale as most devices have it."""

    package: Path
    keys: Path
    archive: Path


@pytest.fixture(params=NAMES)
def environ(request: pytest.FixtureRequest, locales: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    return locales[request.param]


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, locales: Mapping[str, Mapping[str, str]]
) -> Reference:
    directory = tmp_path_factory.mktemp("reference")
    package, keys = make(directory / "package"), directory / "keys"
    keys.mkdir()
    usual = locales["C.UTF-8"]
    pack(usual, "generate-key", keys)
    pack(usual, "sign", package, "--key", keys / "weft-sign.key")
    pack(usual, "bundle", package, "--out", directory)
    return Reference(package, keys, directory / f"{APP_ID}.app.tar.zst")


def make(directory: Path) -> Path:
    """A package of names beyond ASCII: files, a directory, links and what they lead to."""
    for name, content in {
        MODULE: WRITE, PAGE: b"<!doctype html>", "wapp.toml": MANIFEST.encode(), "ui/日本/é": b"1", "ui/\x7f": b"2",
        "ui/z": b"3",
    }.items():  # fmt: skip
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (directory / "ui/verknüpft").symlink_to("日本/é")
    (directory / "ui/lang").symlink_to("日本")
    return directory


def pack(
    environ: Mapping[str, str], *arguments: str | Path, status: int = 0, more: Mapping[str, str] = {}
) -> tuple[bytes, bytes]:
    """Run weft-pack; what it writes to its two streams."""
    done = subprocess.run(
        [PROGRAMS / "weft-pack", *arguments],
        env={"PATH": f"{PROGRAMS}:/usr/bin:/bin", "WEFT_APPD_SOCKET": "/nonexistent", **environ, **more},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, b"Traceback" in done.stderr) == (status, False), done.stderr
    return done.stdout, done.stderr


def test_what_is_installed_is_what_was_packed_and_its_list_is_the_same(
    environ: Mapping[str, str], reference: Reference, tmp_path: Path
) -> None:
    store = tmp_path / PLACE
    more = {"WEFT_APP_STORE": str(store), "HOME": str(tmp_path / "höme")}
    for source in (reference.archive, reference.package):
        pack(environ, "install", source, more=more)
        assert tree(store / APP_ID) == tree(reference.package)
    assert json.loads(pack(environ, "list", "--json", more=more)[0]) == [
        {"id": APP_ID, "name": "Prüfung 日本", "version": "1.0.0", "directory": str(store / APP_ID)}
    ]
    assert pack(environ, "list", more=more)[0].startswith(APP_ID.encode())
    pack(environ, "install", "--rollback", APP_ID, more=more)
    pack(environ, "compile", "--all", more=more)
    pack(environ, "uninstall", APP_ID, more=more)
    assert [path.name for path in store.iterdir()] == [".lock"]


def test_a_package_is_checked_shown_made_and_run(
    environ: Mapping[str, str], reference: Reference, tmp_path: Path
) -> None:
    assert pack(environ, "check", reference.package)[0] == b"OK\n"
    assert json.loads(pack(environ, "info", reference.package, "--json")[0])["ui_entry"] == PAGE
    assert pack(environ, "run", reference.package, more={"TMPDIR": os.fspath(tmp_path)})[0] == b"READY\n"
    made = tmp_path / PLACE
    pack(environ, "new", made, "--lang", "c", "--id", APP_ID)
    assert (made / "wapp.toml").read_text(encoding="utf-8").count(APP_ID) == 1


@pytest.mark.parametrize("command", ["check", "sign", "bundle", "install"])
def test_a_name_that_is_no_utf8_is_refused_and_shown_by_its_bytes(
    command: str, environ: Mapping[str, str], reference: Reference, tmp_path: Path
) -> None:
    package = os.fsencode(make(tmp_path / "package"))
    with open(package + b"/ui/b\xff\x1b", "wb"):
        pass
    key: list[str | Path] = ["--key", reference.keys / "weft-sign.key"] if command == "sign" else []
    more = {"WEFT_APP_STORE": str(tmp_path / "store")}
    _, err = pack(environ, command, tmp_path / "package", *key, status=1, more=more)
    assert rb"b\xff\x1b" in err


def test_what_was_verified_runs_where_a_signature_is_required(
    environ: Mapping[str, str], reference: Reference, tmp_path: Path
) -> None:
    trusted, records = tmp_path / "trusted", tmp_path / "records"
    trusted.mkdir(mode=0o755)
    key = trusted / "prüfer.pub"
    key.write_bytes((reference.keys / "weft-sign.pub").read_bytes())
    key.chmod(0o644)
    code = (
        "import os, pathlib, sys; from weft_runtime import store, trust; from weft_runtime.trust import Places\n"
        "package, trusted, records, module = sys.argv[1:]\n"
        "places = Places(pathlib.Path('/nonexistent'), [pathlib.Path(trusted)], [pathlib.Path(records)], os.geteuid())\n"
        "name = store.read_manifest(pathlib.Path(package)).module\n"
        "trust.demand(pathlib.Path(package), os.open(package + '/' + module, 0), name, places)\n"
    )
    command: list[str | Path] = [sys.executable, "-c", code, reference.package, trusted, records, MODULE]
    for _ in range(2):  # the second time by what is remembered
        done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture
def device(environ: Mapping[str, str], tmp_path: Path) -> Iterator[Device]:
    """A place of such a name, where daemon and commands have the locale."""
    place = tmp_path / PLACE
    (place / "store").mkdir(parents=True)
    device = Device(place, place / "store")
    device.environ |= environ
    yield device
    device.close()


def test_the_daemon_starts_and_launches(device: Device, reference: Reference) -> None:
    pack(device.environ, "install", reference.archive, more={"WEFT_APP_STORE": str(device.store)})
    data, config = device.directory / "dätä", device.directory / "appd.toml"
    config.write_text(f'data_root = "{data}"\napp_store = "{device.store}"\n', encoding="utf-8")
    del device.environ["WEFT_APP_STORE"]
    with device.log.open("ab") as log:
        device.daemon = subprocess.Popen(
            [PROGRAMS / "weft-appd", "--config", config], env=device.environ, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log,
        )  # fmt: skip
    device.wait_until_it_serves()
    for number in (1, 2):
        done = device.ctl("launch", "--wait", APP_ID)
        assert (done.status, done.stdout) == (0, f"{number}\n"), device.log.read_bytes()
    assert (data / APP_ID / "file").read_bytes() == b"by the app"
    assert device.ctl("apps", "--json").json == [
        {"app_id": APP_ID, "name": "Prüfung 日本", "version": "1.0.0"}
    ]
    assert device.ctl("status", "--json").json[0]["socket"] == str(device.socket)
    assert device.ctl("list", "--all").status == device.ctl("status", "1").status == 0
    device.daemon.send_signal(signal.SIGHUP)
    assert device.ctl("launch", "--wait", APP_ID).status == 0
    assert b"Traceback" not in device.log.read_bytes()


@pytest.mark.parametrize("option", ["--preopen", "--preopen-ro"])
def test_a_directory_is_preopened_under_its_name(
    option: str, environ: Mapping[str, str], store: Path, tmp_path: Path
) -> None:
    install(store, LIST)
    shared = tmp_path / PLACE
    shared.mkdir()
    command: list[str | Path] = [
        PROGRAMS / "weft-runtime",
        APP_ID,
        "1",
        option,
        f"{shared}::/{PLACE}",
        option,
        shared,
    ]
    done = subprocess.run(
        command, env={**environ, "WEFT_APP_STORE": str(store)}, stdin=subprocess.DEVNULL, capture_output=True,
        timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.stdout.decode() == f"READY\n/{PLACE}|{shared}|", done.stderr
    no_utf8: list[str | bytes | Path] = [*command[:4], os.fsencode(shared) + b"\xff"]
    done = subprocess.run(no_utf8, env=environ, capture_output=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 164
    assert b"is not UTF-8" in done.stderr


def test_a_variable_that_is_no_utf8_counts_as_unset(environ: Mapping[str, str], tmp_path: Path) -> None:
    install(tmp_path, guest(""))
    place = os.fsencode(tmp_path) + b"/\xff"
    os.symlink(tmp_path, place)  # noqa: PTH211
    done = subprocess.run(
        [PROGRAMS / "weft-runtime", APP_ID, "1"],
        env={**environ, "WEFT_APP_STORE": os.fsdecode(place)},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 166


@pytest.mark.parametrize("environ", ["de_DE"], indirect=True)
def test_no_program_lets_the_locale_choose_an_encoding(device: Device, reference: Reference) -> None:
    device.environ |= {"PYTHONWARNDEFAULTENCODING": "1", "PYTHONWARNINGS": "error::EncodingWarning"}
    env = {**device.environ, "WEFT_APP_STORE": str(device.store)}
    for arguments in (
        ("check", reference.package),
        ("install", reference.archive),
        ("list",),
        ("compile", "--all"),
    ):
        pack(env, *arguments)
    device.start()
    assert device.ctl("launch", "--wait", APP_ID).status == 0
    for arguments in (("list", "--all"), ("status", "1"), ("status",), ("apps",)):
        assert device.ctl(*arguments).status == 0
    assert device.ctl("doctor").status in (0, 1)
    for done in (device.run("weft-appd", "--check"), device.run("weft-appd", "--reload")):
        assert (done.status, done.stderr) == (0, "")
    pack(env, "uninstall", APP_ID, "--force")
    assert b"EncodingWarning" not in device.log.read_bytes()
