# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.store: where a package is found, and which of its files are opened."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.packages import APP_ID, install, manifest
from weft_runtime import ids, limits, store
from weft_runtime.errors import Problem, WeftError
from weft_runtime.ids import AppId
from weft_runtime.store import Package

APP = AppId.parse(APP_ID)
MODULE = b"\0asm\1\0\0\0"
NOBODY = 65534


@contextmanager
def opened(*stores: Path) -> Iterator[Package]:
    package = store.open_package(APP, stores)
    try:
        yield package
    finally:
        os.close(package.module_fd)


def error_of(problem: Problem, *stores: Path) -> str:
    with pytest.raises(WeftError) as caught:
        store.open_package(APP, stores)
    assert caught.value.problem is problem
    return str(caught.value)


def test_a_package_is_opened(tmp_path: Path) -> None:
    package = install(tmp_path, MODULE)
    with opened(tmp_path) as found:
        assert (found.app_id, found.directory, found.module) == (APP, package, package / "app.wasm")
        assert found.manifest.name == "A test"
        assert os.pread(found.module_fd, 100, 0) == MODULE
        assert not os.get_inheritable(found.module_fd)


def test_the_first_store_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    install(second, b"second")
    with opened(first, second) as found:
        assert found.directory == second / APP_ID
    install(first, b"first")
    with opened(first, second) as found:
        assert os.pread(found.module_fd, 100, 0) == b"first"


def test_a_directory_without_manifest_is_no_package(tmp_path: Path) -> None:
    install(tmp_path / "second", MODULE)
    (tmp_path / "first" / APP_ID).mkdir(parents=True)
    assert store.find(APP, [tmp_path / "first", tmp_path / "second"]) == tmp_path / "second" / APP_ID


def test_an_invalid_package_hides_those_behind_it(tmp_path: Path) -> None:
    install(tmp_path / "first", MODULE, toml="")
    install(tmp_path / "second", MODULE)
    assert error_of(Problem.MANIFEST_INVALID, tmp_path / "first", tmp_path / "second") == (
        f"{tmp_path}/first/{APP_ID}/wapp.toml: package is missing: expected a table"
    )


def test_a_package_that_is_nowhere_is_told_with_every_store(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert error_of(Problem.PACKAGE_NOT_FOUND, Path("/nowhere"), tmp_path / "a\nb", Path(), file) == (
        f"package '{APP_ID}' not found in any package store; searched: '/nowhere', '{tmp_path}/a\\x0ab',"
        f" '.', '{file}' (Not a directory)"
    )


def test_the_longest_app_id_is_only_not_found(tmp_path: Path) -> None:
    app_id = AppId.parse(f"org.example.{'a' * (ids.APP_ID_MAX - 12)}")
    with pytest.raises(WeftError) as caught:
        store.open_package(app_id, [tmp_path])
    assert caught.value.problem is Problem.PACKAGE_NOT_FOUND
    assert len(str(caught.value)) < 1000


@contextmanager
def closed_store() -> Iterator[tuple[Path, Path]]:
    """A store that this process may not look into, and one beside it that it may."""
    with tempfile.TemporaryDirectory(prefix="weft-test-") as directory:
        closed, beside = Path(directory, "closed"), Path(directory, "beside")
        install(closed, MODULE)
        beside.mkdir()
        Path(directory).chmod(0o755)
        closed.chmod(0)
        root = os.geteuid() == 0
        if root:  # may look into anything
            os.seteuid(NOBODY)
        try:
            yield closed, beside
        finally:
            if root:
                os.seteuid(0)
            closed.chmod(0o755)


def test_a_store_that_may_not_be_searched_is_told() -> None:
    with closed_store() as (closed, beside):
        assert error_of(Problem.NOT_PERMITTED, closed, beside) == (
            f"package '{APP_ID}' not found in any package store; searched: '{closed}' (Permission denied),"
            f" '{beside}'"
        )


def test_a_package_that_may_not_be_read_is_not_told_to_be_missing() -> None:
    with closed_store() as (closed, beside):
        root = os.geteuid() != os.getuid()
        if root:
            os.seteuid(0)
        closed.chmod(0o755)
        package = closed / APP_ID
        package.chmod(0o700 if root else 0)
        if root:
            os.seteuid(NOBODY)
        message = error_of(Problem.NOT_PERMITTED, closed, beside)
        if root:
            os.seteuid(0)
        package.chmod(0o755)
    assert message == f"cannot read the package '{package}': Permission denied [chmod -R a+rX '{package}']"


@pytest.mark.parametrize("name", ["wapp.toml", "ui/index.html", "app.wasm"])
def test_a_file_that_may_not_be_read_is_told(name: str) -> None:
    with closed_store() as (closed, _):
        root = os.geteuid() != os.getuid()
        if root:
            os.seteuid(0)
        closed.chmod(0o755)
        path = closed / APP_ID / name
        path.chmod(0)
        if root:
            os.seteuid(NOBODY)
        assert error_of(Problem.NOT_PERMITTED, closed) == f"cannot open '{path}': Permission denied"


@pytest.mark.parametrize("name", ["bin/notes.wasm", "./app2.wasm", "a/../b.wasm", "käse 🧀.wasm", "-x"])
def test_the_module_is_the_one_that_the_manifest_names(tmp_path: Path, name: str) -> None:
    package = install(tmp_path, b"another", toml=manifest(module=name))
    (package / "a").mkdir()
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_bytes(MODULE)
    with opened(tmp_path) as found:
        assert os.pread(found.module_fd, 100, 0) == MODULE
        assert found.module == package / name


def test_links_inside_the_package_are_followed(tmp_path: Path) -> None:
    package = install(tmp_path, MODULE)
    (package / "app.wasm").rename(package / "ui/real.wasm")
    (package / "app.wasm").symlink_to("ui/../ui/real.wasm")
    (package / "wapp.toml").rename(package / "real.toml")
    (package / "wapp.toml").symlink_to(package / "real.toml")
    with opened(tmp_path) as found:
        assert os.pread(found.module_fd, 100, 0) == MODULE


def test_the_package_itself_may_be_a_link(tmp_path: Path) -> None:
    package = install(tmp_path / "elsewhere", MODULE)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / APP_ID).symlink_to(package)
    with opened(tmp_path / "store") as found:
        assert found.directory == tmp_path / "store" / APP_ID


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "is no path of a file"),
        ("app\\u0000.wasm", "is no path of a file"),
        ("/etc/passwd", "is absolute: expected a path inside the package"),
        ("../other/app.wasm", "leads out of the package"),
        ("..", "leads out of the package"),
        (".", "leads out of the package"),
        ("ui/../../other/app.wasm", "leads out of the package"),
        ("out", "leads out of the package"),
        ("outdir/app.wasm", "leads out of the package"),
        ("zero", "leads out of the package"),
        (f"../{APP_ID}.more/app.wasm", "leads out of the package"),
    ],
)
def test_a_path_that_leaves_the_package_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    for key, toml in [
        ("runtime.module", manifest(module=name)),
        ("ui.entry", manifest().replace("ui/index.html", name)),
    ]:
        root = tmp_path / key
        package = install(root, MODULE, toml=toml)
        (root / "other").mkdir()
        (root / "other/app.wasm").write_bytes(MODULE)
        install(root, MODULE, app_id=f"{APP_ID}.more")
        (package / "out").symlink_to("../other/app.wasm")
        (package / "outdir").symlink_to(root / "other")
        (package / "zero").symlink_to("/dev/zero")
        shown = name.replace("\\u0000", "\\x00")
        expected = f"{package}/wapp.toml: {key} '{shown}' {complaint}"
        assert error_of(Problem.MANIFEST_INVALID, root) == expected


@pytest.mark.parametrize("name", ["../nowhere/app.wasm", f"../{APP_ID}.more/app.wasm", "ui/../../nowhere"])
def test_a_path_that_leaves_the_package_is_refused_although_nothing_is_there(
    tmp_path: Path, name: str
) -> None:
    package = install(tmp_path, MODULE, toml=manifest(module=name))
    assert error_of(Problem.MANIFEST_INVALID, tmp_path) == (
        f"{package}/wapp.toml: runtime.module '{name}' leads out of the package"
    )


def replace_by(path: Path, kind: str) -> None:
    path.unlink()
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case "loop":
            path.symlink_to(path.name)


IRREGULAR = {
    "directory": "is not a regular file",
    "fifo": "is not a regular file",
    "socket": "is not a regular file",
    "loop": "is a loop of symbolic links",
}


@pytest.mark.parametrize("kind", IRREGULAR)
def test_a_module_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    package = install(tmp_path, MODULE)
    replace_by(package / "app.wasm", kind)
    assert error_of(Problem.MODULE_INVALID, tmp_path) == f"{package}/app.wasm {IRREGULAR[kind]}"


@pytest.mark.parametrize("kind", IRREGULAR)
def test_a_user_interface_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    package = install(tmp_path, MODULE)
    replace_by(package / "ui/index.html", kind)
    assert error_of(Problem.MANIFEST_INVALID, tmp_path) == (
        f"{package}/wapp.toml: ui.entry 'ui/index.html' {IRREGULAR[kind]}"
    )


@pytest.mark.parametrize("kind", IRREGULAR)
def test_a_manifest_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    package = install(tmp_path, MODULE)
    replace_by(package / "wapp.toml", kind)
    assert error_of(Problem.MANIFEST_INVALID, tmp_path) == f"{package}/wapp.toml {IRREGULAR[kind]}"


def test_a_manifest_outside_of_the_package_is_refused(tmp_path: Path) -> None:
    package = install(tmp_path, MODULE)
    (package / "wapp.toml").rename(tmp_path / "wapp.toml")
    (package / "wapp.toml").symlink_to("../wapp.toml")
    expected = f"{package}/wapp.toml leads out of the package"
    assert error_of(Problem.MANIFEST_INVALID, tmp_path) == expected


def test_a_manifest_that_is_a_dangling_link_is_invalid(tmp_path: Path) -> None:
    package = install(tmp_path, MODULE)
    (package / "wapp.toml").unlink()
    (package / "wapp.toml").symlink_to("nowhere")
    expected = f"{package}/wapp.toml is a link to nothing"
    assert error_of(Problem.MANIFEST_INVALID, tmp_path) == expected


@pytest.mark.parametrize("name", ["app.wasm", "bin/app.wasm", "ui/index.html/app.wasm", "x\ny"])
def test_a_module_that_is_not_there_is_not_found(tmp_path: Path, name: str) -> None:
    package = install(tmp_path, MODULE, toml=manifest(module=name.replace("\n", "\\n")))
    (package / "app.wasm").unlink()
    shown = name.replace("\n", "\\x0a")
    expected = f"{shown} not found at {package}/{shown}"
    assert error_of(Problem.MODULE_NOT_FOUND, tmp_path) == expected


def test_a_module_whose_name_no_file_can_have_is_not_found(tmp_path: Path) -> None:
    install(tmp_path, MODULE, toml=manifest(module="x" * 256))
    assert error_of(Problem.MODULE_NOT_FOUND, tmp_path).endswith("x" * 256)


@pytest.mark.parametrize("name", ["index.html", "ui/other.html", "app.wasm/index.html"])
def test_a_user_interface_that_is_not_there_makes_the_package_invalid(tmp_path: Path, name: str) -> None:
    package = install(tmp_path, MODULE, toml=manifest().replace("ui/index.html", name))
    assert error_of(Problem.MANIFEST_INVALID, tmp_path) == (
        f"{package}/wapp.toml: ui.entry '{name}' does not exist"
    )


def test_a_user_interface_whose_name_no_file_can_have_makes_the_package_invalid(tmp_path: Path) -> None:
    package = install(tmp_path, MODULE, toml=manifest().replace("ui/index.html", "x" * 256))
    assert error_of(Problem.MANIFEST_INVALID, tmp_path) == (
        f"{package}/wapp.toml: ui.entry '{'x' * 256}' does not exist"
    )


def test_a_module_may_be_as_large_as_its_limit_and_no_larger(tmp_path: Path) -> None:
    package = install(tmp_path, MODULE)
    limit = limits.MODULE.value
    os.truncate(package / "app.wasm", limit)  # sparse
    with opened(tmp_path) as found:
        assert os.fstat(found.module_fd).st_size == limit
    os.truncate(package / "app.wasm", limit + 1)
    assert error_of(Problem.LIMIT_EXCEEDED, tmp_path) == (
        f"{package}/app.wasm has {limit + 1} bytes; the limit for the module file is {limit} bytes"
    )


def test_a_manifest_of_any_size_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    package = install(tmp_path, MODULE)
    os.truncate(package / "wapp.toml", 8 * 1024**3)  # sparse
    limit = limits.MANIFEST.value
    assert error_of(Problem.LIMIT_EXCEEDED, tmp_path) == (
        f"{package}/wapp.toml has over {limit} bytes; the limit for wapp.toml is {limit} bytes"
    )


def test_what_is_installed_is_listed_by_the_name_of_its_directory(tmp_path: Path) -> None:
    install(tmp_path, MODULE, app_id="org.example.b", toml=manifest("org.example.other"))
    install(tmp_path, MODULE, app_id="org.example.a")
    assert [(app_id, found.id) for app_id, found in store.installed([tmp_path]).items()] == [
        ("org.example.a", "org.example.a"), ("org.example.b", "org.example.other"),
    ]  # fmt: skip


def test_what_is_no_package_is_not_listed(tmp_path: Path) -> None:
    install(tmp_path, MODULE, app_id="org.example.broken", toml="x")
    install(tmp_path, MODULE, app_id="Not.an.id")
    (tmp_path / "org.example.empty").mkdir()
    (tmp_path / "org.example.file").write_bytes(b"")
    (tmp_path / "org.example.nowhere").symlink_to("nowhere")
    package = install(tmp_path, MODULE, app_id="org.example.fifo")
    replace_by(package / "wapp.toml", "fifo")
    assert store.installed([tmp_path, tmp_path / "nowhere", tmp_path / "org.example.file"]) == {}


def test_the_first_store_that_has_an_app_is_the_one_that_is_listed(tmp_path: Path) -> None:
    install(tmp_path / "first", MODULE, toml=manifest().replace("A test", "First"))
    install(tmp_path / "second", MODULE, toml=manifest().replace("A test", "Second"))
    install(tmp_path / "second", MODULE, app_id="org.example.more")
    found = store.installed([tmp_path / "first", tmp_path / "second"])
    assert {app_id: values.name for app_id, values in found.items()} == {
        APP_ID: "First",
        "org.example.more": "A test",
    }


def test_what_an_invalid_package_hides_is_not_listed_for_it_cannot_be_launched(tmp_path: Path) -> None:
    install(tmp_path / "first", MODULE, toml="x")
    install(tmp_path / "second", MODULE)
    stores = [tmp_path / "first", tmp_path / "second"]
    assert error_of(Problem.MANIFEST_INVALID, *stores).startswith(f"{tmp_path}/first/{APP_ID}/wapp.toml ")
    assert store.installed(stores) == {}
