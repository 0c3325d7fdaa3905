# SPDX-License-Identifier: Apache-2.0
"""Finding a package and its files: every file that is not what it should be is refused, and named."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.command.guests import guest, leave
from tests.command.harness import Run
from tests.packages import APP_ID, install, manifest

OK = guest("")


def test_not_found_names_every_root_that_was_searched(tmp_path: Path, run: Run) -> None:
    (tmp_path / ".local/share/weft/apps").mkdir(parents=True)
    done = run(env={"WEFT_APP_STORE": None, "HOME": str(tmp_path)})
    assert (done.status, done.stdout) == (166, b"")
    assert done.end == (
        f"err: package '{APP_ID}' not found in any package store;"
        f" searched: '{tmp_path}/.local/share/weft/apps', '/var/lib/weft/apps', '/usr/share/weft/apps'"
    )


def test_not_found_in_the_one_store_that_replaces_all_others(store: Path, tmp_path: Path, run: Run) -> None:
    install(tmp_path / ".local/share/weft/apps", OK)
    done = run(env={"HOME": str(tmp_path)})
    assert done.status == 166
    assert done.end == f"err: package '{APP_ID}' not found in any package store; searched: '{store}'"


def test_without_a_home_there_is_no_user_store(run: Run) -> None:
    done = run(env={"WEFT_APP_STORE": None})
    assert done.status == 166
    assert done.end.endswith("; searched: '/var/lib/weft/apps', '/usr/share/weft/apps'")


def test_the_user_store(tmp_path: Path, run: Run) -> None:
    install(tmp_path / ".local/share/weft/apps", guest(leave(9)))
    assert run(env={"WEFT_APP_STORE": None, "HOME": str(tmp_path)}).status == 9


def test_an_empty_store_variable_means_the_working_directory(store: Path, run: Run) -> None:
    install(store, guest(leave(9)))
    assert run(env={"WEFT_APP_STORE": ""}, cwd=store).status == 9


def test_a_store_variable_that_is_not_utf8_counts_as_unset(tmp_path: Path, run: Run) -> None:
    directory = os.fsdecode(bytes(tmp_path / "st") + b"\xff")
    install(Path(directory), OK)
    done = run(env={"WEFT_APP_STORE": directory})
    assert done.status == 166
    assert "/usr/share/weft/apps" in done.end


def test_a_directory_without_a_manifest_is_no_package(store: Path, run: Run) -> None:
    (install(store, OK) / "wapp.toml").unlink()
    assert run().status == 166


def test_a_package_below_a_file_is_not_found(store: Path, run: Run) -> None:
    (store / APP_ID).touch()
    done = run()
    assert done.status == 166
    assert done.end == (
        f"err: package '{APP_ID}' not found in any package store; searched: '{store}' (Not a directory)"
    )


def test_a_store_with_a_hostile_name_is_named_safely(tmp_path: Path, run: Run) -> None:
    done = run(env={"WEFT_APP_STORE": f"{tmp_path}/\nREADY\n\x1b[31m"})
    assert done.status == 166
    assert done.end.endswith("/\\x0aREADY\\x0a\\x1b[31m'")


def test_a_store_with_a_name_beyond_ascii(tmp_path: Path, run: Run) -> None:
    install(tmp_path / "Läden", guest(leave(9)))
    done = run(env={"WEFT_APP_STORE": str(tmp_path / "Läden"), "LC_ALL": "C"})
    assert done.status == 9
    assert "/Läden/" in done.stderr


def test_a_package_may_be_a_link_into_a_working_copy(store: Path, tmp_path: Path, run: Run) -> None:
    package = install(tmp_path / "work", guest(leave(9)))
    (store / APP_ID).symlink_to(package)
    assert run().status == 9


def test_links_within_the_package_are_followed(store: Path, run: Run) -> None:
    package = install(store, b"")
    (package / "build").mkdir()
    (package / "build/real.wasm").write_bytes(guest(leave(9)))
    (package / "app.wasm").unlink()
    (package / "app.wasm").symlink_to("build/../build/real.wasm")
    (package / "ui/index.html").unlink()
    (package / "ui/index.html").symlink_to(package / "wapp.toml")
    assert run().status == 9


def test_the_module_is_the_one_that_the_manifest_names(store: Path, run: Run) -> None:
    package = install(store, b"not this one", toml=manifest(module="bin/./main.wasm"))
    (package / "bin").mkdir()
    (package / "bin/main.wasm").write_bytes(guest(leave(9)))
    assert run().status == 9


def test_the_name_of_the_directory_counts(store: Path, run: Run) -> None:
    package = install(store, guest(leave(9)), toml=manifest("org.example.another"))
    done = run()
    assert done.status == 9
    assert done.log[0] == (
        f"warning: {package}/wapp.toml: package.id is 'org.example.another', ignoring:"
        " the directory's name counts"
    )


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    os.mknod(path, 0o140644)


def _directory(path: Path) -> None:
    path.mkdir()


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _link_out(path: Path) -> None:
    outside = path.parents[2] / "outside.wasm"
    outside.write_bytes(OK)
    path.symlink_to(outside)


def _link_to_neighbour(path: Path) -> None:
    """The neighbour's directory begins with the package's name."""
    neighbour = path.parent.with_name(f"{path.parent.name}.more")
    neighbour.mkdir()
    (neighbour / "app.wasm").write_bytes(OK)
    path.symlink_to(neighbour / "app.wasm")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _proc(path: Path) -> None:
    path.symlink_to("/proc/self/exe")


OUT = "leads out of the package"
NOT_REGULAR = "is not a regular file"
LOOP = "is a loop of symbolic links"


@pytest.mark.parametrize(
    ("make", "status", "complaint"),
    [
        (_fifo, 165, f"{{}} {NOT_REGULAR}"),
        (_socket, 165, f"{{}} {NOT_REGULAR}"),
        (_directory, 165, f"{{}} {NOT_REGULAR}"),
        (_loop, 165, f"{{}} {LOOP}"),
        (_zero, 165, f"{{toml}}: runtime.module 'app.wasm' {OUT}"),
        (_proc, 165, f"{{toml}}: runtime.module 'app.wasm' {OUT}"),
        (_link_out, 165, f"{{toml}}: runtime.module 'app.wasm' {OUT}"),
        (_link_to_neighbour, 165, f"{{toml}}: runtime.module 'app.wasm' {OUT}"),
        (_dangling, 166, "app.wasm not found at {}"),
        (lambda path: None, 166, "app.wasm not found at {}"),
    ],
)
def test_a_module_that_is_no_file_of_the_package(
    store: Path, run: Run, make: Callable[[Path], None], status: int, complaint: str
) -> None:
    package = install(store, OK)
    path = package / "app.wasm"
    path.unlink()
    make(path)
    done = run()
    expected = complaint.format(path, toml=package / "wapp.toml")
    assert (done.status, done.stdout, done.log) == (status, b"", [f"err: {expected}"])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (_fifo, NOT_REGULAR), (_directory, NOT_REGULAR), (_loop, LOOP), (_zero, OUT), (_link_out, OUT),
        (_dangling, "does not exist"), (lambda path: None, "does not exist"),
    ],
)  # fmt: skip
def test_a_ui_entry_that_is_no_file_of_the_package(
    store: Path, run: Run, make: Callable[[Path], None], complaint: str
) -> None:
    package = install(store, OK, toml=manifest().replace("ui/index.html", "index.html"))
    make(package / "index.html")
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.log == [f"err: {package}/wapp.toml: ui.entry 'index.html' {complaint}"]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("/etc/passwd", "is absolute: expected a path inside the package"),
        ("../other/app.wasm", OUT),
        ("ui/../../other/app.wasm", OUT),
        ("../nowhere.wasm", OUT),
        ("..", OUT),
        (".", OUT),
        ("", "is no path of a file"),
        ("a\\u0000b", "is no path of a file"),
    ],
)
def test_a_path_that_leaves_the_package(store: Path, run: Run, name: str, complaint: str) -> None:
    (store / "other").mkdir()
    (store / "other/app.wasm").write_bytes(OK)
    package = install(store, OK, toml=manifest(module=name))
    shown = name.replace("\\u0000", "\\x00")
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.log == [f"err: {package}/wapp.toml: runtime.module '{shown}' {complaint}"]

    (package / "wapp.toml").write_text(manifest().replace("ui/index.html", name))
    done = run()
    assert (done.status, done.stdout) == (165, b"")
    assert done.log == [f"err: {package}/wapp.toml: ui.entry '{shown}' {complaint}"]


@pytest.mark.parametrize("name", ["none/app.wasm", "app.wasm/x", "ui/index.html/../../app.wasm/x"])
def test_a_path_through_what_is_no_directory(store: Path, run: Run, name: str) -> None:
    install(store, OK, toml=manifest(module=name))
    done = run()
    assert (done.status, done.stdout) == (166, b"")
    assert done.end.startswith(f"err: {name} not found at ")


def test_a_path_of_four_thousand_links(store: Path, run: Run) -> None:
    package = install(store, OK, toml=manifest(module="l0"))
    for index in range(4000):
        (package / f"l{index}").symlink_to(f"l{index + 1}")
    (package / "l4000").write_bytes(OK)
    done = run()
    # The kernel follows 40; which answer is ours, a crash is none.
    assert (done.status, done.stdout) == (165, b"")
    assert str(package) in done.end


def test_a_name_that_is_too_long(store: Path, run: Run) -> None:
    package = install(store, OK, toml=manifest(module="a" * 300))
    done = run()
    assert done.status in (165, 166, 171)
    assert done.end.startswith("err: ")
    assert str(package) in done.end


@pytest.mark.parametrize(
    ("path", "doing"),
    [
        ("app.wasm", "open '{}/app.wasm'"),
        ("wapp.toml", "open '{}/wapp.toml'"),
        ("ui", "open '{}/ui/index.html'"),
    ],
)
def test_what_may_not_be_read(
    store: Path, run: Run, powerless: Sequence[str], path: str, doing: str
) -> None:
    package = install(store, OK)
    (package / path).chmod(0)
    done = run(wrapper=powerless)
    (package / path).chmod(0o700)
    assert (done.status, done.stdout) == (177, b"")
    assert done.log == [f"err: cannot {doing.format(package)}: Permission denied"]


def test_a_store_that_may_not_be_searched(store: Path, run: Run, powerless: Sequence[str]) -> None:
    install(store, OK)
    store.chmod(0o600)
    done = run(wrapper=powerless)
    store.chmod(0o700)
    assert (done.status, done.stdout) == (177, b"")
    assert done.end == (
        f"err: package '{APP_ID}' not found in any package store; searched: '{store}' (Permission denied)"
    )


def test_a_module_that_may_only_be_executed(store: Path, run: Run, powerless: Sequence[str]) -> None:
    package = install(store, OK)
    (package / "app.wasm").chmod(0o111)
    done = run(wrapper=powerless)
    assert done.status == 177


@pytest.mark.parametrize(
    ("make", "complaint"),
    [(_fifo, NOT_REGULAR), (_directory, NOT_REGULAR), (_loop, LOOP), (_zero, OUT), (_link_out, OUT)],
)
def test_a_manifest_that_is_no_file_of_the_package(
    store: Path, run: Run, make: Callable[[Path], None], complaint: str
) -> None:
    path = install(store, OK) / "wapp.toml"
    path.unlink()
    make(path)
    done = run()
    assert (done.status, done.stdout, done.log) == (165, b"", [f"err: {path} {complaint}"])


def test_a_manifest_that_is_a_dangling_link(store: Path, run: Run) -> None:
    path = install(store, OK) / "wapp.toml"
    path.unlink()
    path.symlink_to("nowhere")
    done = run()
    # A package that is damaged, or none at all; the operating system is not to blame.
    assert done.status in (165, 166)
    assert str(path) in done.end
