# SPDX-License-Identifier: Apache-2.0
"""Preopened directories: exactly those that were given, read-only where asked, and errors that name them."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.command.guests import (
    BADF,
    CREATE,
    NOENT,
    NOTCAPABLE,
    OPENED,
    PERM,
    TEXT,
    TRUNCATE,
    guest,
    leave,
    leave_on_error,
    on_path,
    path_open,
    printing_file,
    put,
)
from tests.command.harness import Run
from tests.packages import install

READ = guest(leave_on_error(path_open("file")) + printing_file(OPENED))
WRITE = guest(
    leave_on_error(path_open("file", write=True, flags=CREATE))
    + put("by the app")
    + leave_on_error(f"(call $write {OPENED} (i32.const {TEXT}) (i32.const 10))")
)

# Prints the name of each preopened directory and exits with the errno that ended the list.
LIST = guest(
    "(local.set $n (i32.const 3))"
    "(loop $l"
    f" {leave_on_error('(call $fd_prestat_get (local.get $n) (i32.const 32))')}"
    f" (drop (call $fd_prestat_dir_name (local.get $n) (i32.const {TEXT}) (i32.load (i32.const 36))))"
    f" (drop (call $write (i32.const 1) (i32.const {TEXT}) (i32.load (i32.const 36))))"
    f" {put('|')} (drop (call $write (i32.const 1) (i32.const {TEXT}) (i32.const 1)))"
    " (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $l))"
)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory with a file, for the app."""
    path = tmp_path / "shared"
    path.mkdir()
    (path / "file").write_text("of the host")
    return path


def test_without_preopens_there_is_no_file_system(store: Path, run: Run) -> None:
    install(store, LIST)
    done = run()
    assert (done.status, done.stdout) == (BADF, b"READY\n")


def test_exactly_what_was_given_in_its_order(store: Path, run: Run, shared: Path) -> None:
    install(store, LIST)
    done = run(
        "--preopen", f"{shared}::/b", "--preopen-ro", f"{shared}::a", "--preopen", str(shared),
        "--preopen-ro", f"{shared}::x::y", "--preopen", f"{shared}::/b",
    )  # fmt: skip
    assert (done.status, done.stdout) == (BADF, f"READY\n/b|a|{shared}|x::y|/b|".encode())


def test_a_relative_path_is_below_the_working_directory(store: Path, run: Run, shared: Path) -> None:
    install(store, READ)
    done = run("--preopen", "shared", cwd=shared.parent)
    assert (done.status, done.stdout) == (0, b"READY\nof the host")


@pytest.mark.parametrize("option", ["--preopen", "--preopen-ro"])
def test_reading(store: Path, run: Run, shared: Path, option: str) -> None:
    install(store, READ)
    done = run(option, f"{shared}::/data")
    assert (done.status, done.stdout) == (0, b"READY\nof the host")


def test_writing(store: Path, run: Run, shared: Path) -> None:
    install(store, WRITE)
    assert run("--preopen", f"{shared}::/data").status == 0
    assert (shared / "file").read_text() == "by the appt"
    (shared / "file").unlink()
    assert run("--preopen", f"{shared}::/data").status == 0
    assert (shared / "file").read_text() == "by the app"


def between(function: str, old: int, new: int, *, before: str = "") -> str:
    """An expression: calls a function on "file" below one directory and "fil" below another."""
    return (
        f"(block (result i32) {put('file')} (call ${function} (i32.const {old}) {before} (i32.const {TEXT})"
        f" (i32.const 4) (i32.const {new}) (i32.const {TEXT}) (i32.const 3)))"
    )


RO, RW = 3, 4


@pytest.mark.parametrize(
    "attempt",
    [
        path_open("file", write=True),
        path_open("file", flags=TRUNCATE),
        path_open("file", write=True, flags=TRUNCATE),
        path_open("new", write=True, flags=CREATE),
        path_open("new", flags=CREATE),
        on_path("path_create_directory", "new"),
        on_path("path_unlink_file", "file"),
        on_path("path_remove_directory", "empty"),
        (f"(block (result i32) {put('file')} (call $path_filestat_set_times (i32.const 3) (i32.const 0)"
        f" (i32.const {TEXT}) (i32.const 4) (i64.const 1) (i64.const 1) (i32.const 5)))"),
        (f"(block (result i32) {put('file')} (call $path_symlink (i32.const {TEXT}) (i32.const 4)"
        f" (i32.const 3) (i32.const {TEXT}) (i32.const 3)))"),
        between("path_rename", RO, RO),
        between("path_rename", RO, RW),
        between("path_rename", RW, RO),
        between("path_link", RO, RO, before="(i32.const 0)"),
        between("path_link", RO, RW, before="(i32.const 0)"),
        between("path_link", RW, RO, before="(i32.const 0)"),
    ],
    ids=[
        "write", "truncate", "write and truncate", "create and write", "create", "mkdir", "unlink", "rmdir",
        "times", "symlink", "rename", "rename out", "rename in", "link", "link out", "link in",
    ],
)  # fmt: skip
def test_read_only_is_read_only(store: Path, run: Run, shared: Path, attempt: str) -> None:
    (shared / "empty").mkdir()
    writable = shared.parent / "writable"
    writable.mkdir()
    (writable / "file").write_text("writable")
    before = (shared / "file").stat()
    install(store, guest(leave(attempt)))
    done = run("--preopen-ro", f"{shared}::/ro", "--preopen", f"{writable}::/rw")
    after = (shared / "file").stat()
    assert done.status in (PERM, NOTCAPABLE)
    assert sorted(path.name for path in shared.iterdir()) == ["empty", "file"]
    assert [path.name for path in writable.iterdir()] == ["file"]
    assert (shared / "file").read_text() == "of the host"
    assert (before.st_mtime, before.st_nlink, before.st_ino) == (
        after.st_mtime,
        after.st_nlink,
        after.st_ino,
    )


def test_one_directory_may_be_both(store: Path, run: Run, shared: Path) -> None:
    second = path_open("file", write=True, directory=4)
    install(store, guest(leave_on_error(path_open("file", write=True)) + leave(second)))
    done = run("--preopen", f"{shared}::/rw", "--preopen-ro", f"{shared}::/ro")
    assert done.status in (PERM, NOTCAPABLE)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "link", "up/outside", "loop"])
def test_no_path_leads_out(store: Path, run: Run, shared: Path, path: str) -> None:
    (shared.parent / "outside").write_text("secret")
    (shared / "link").symlink_to("../outside")
    (shared / "up").symlink_to("..")
    (shared / "loop").symlink_to("loop")
    install(store, guest(leave_on_error(path_open(path)) + printing_file(OPENED)))
    done = run("--preopen", f"{shared}::/")
    assert done.status not in (0, NOENT)
    assert done.stdout == b"READY\n"


@pytest.mark.parametrize("option", ["--preopen", "--preopen-ro"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "No such file or directory"),
        ("file", "Not a directory"),
        ("fifo", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_directory_is_named(
    store: Path, run: Run, shared: Path, option: str, name: str, why: str
) -> None:
    os.mkfifo(shared / "fifo")
    (shared / "loop").symlink_to("loop")
    install(store, guest(""))
    done = run("--preopen", str(shared), option, f"{shared}/{name}::/data")
    assert (done.status, done.stdout) == (171, b"")
    assert done.end == f"err: cannot preopen the directory '{shared}/{name}': {why}"


def test_a_directory_that_may_not_be_opened(
    store: Path, run: Run, shared: Path, powerless: Sequence[str]
) -> None:
    install(store, guest(""))
    shared.chmod(0)
    done = run("--preopen", f"{shared}::/data", wrapper=powerless)
    shared.chmod(0o700)
    assert (done.status, done.stdout) == (177, b"")
    assert done.end == f"err: cannot preopen the directory '{shared}': Permission denied"


def test_a_hostile_name_is_named_safely(store: Path, run: Run) -> None:
    install(store, guest(""))
    done = run("--preopen", "/\nREADY\n\x1b[31m")
    assert (done.status, done.end) == (
        171, r"err: cannot preopen the directory '/\x0aREADY\x0a\x1b[31m': No such file or directory",
    )  # fmt: skip


def test_a_name_beyond_ascii(store: Path, run: Run, shared: Path) -> None:
    directory = shared / "Daten €"
    directory.mkdir()
    (directory / "file").write_text("of the host")
    install(store, READ)
    done = run("--preopen", f"{directory}::/Daten €", env={"LC_ALL": "C"})
    assert (done.status, done.stdout) == (0, b"READY\nof the host")
