# SPDX-License-Identifier: Apache-2.0
"""Tests of archives: what bundle writes, and what unpacking refuses, with its message."""

import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pack import trees
from tests.packages import APP_ID
from weft_runtime import limits, package_limits
from weft_runtime.errors import Problem, WeftError
from weft_runtime.ids import AppId
from weft_runtime.pack import archive, tarball
from weft_runtime.pack.screen import Screen
from weft_runtime.tree import Kind

SCREEN = Screen({})
NAME = f"{APP_ID}.app.tar.zst"


def member(name: str, data: bytes = b"", **values: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in values.items():
        setattr(info, key, value)
    return info, data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as writer:
        for info, data in members:
            writer.addfile(info, io.BytesIO(data))
    return file.getvalue()


def good() -> list[tuple[tarfile.TarInfo, bytes]]:
    return [
        member(APP_ID, type=tarfile.DIRTYPE),
        member(f"{APP_ID}/wapp.toml", trees.manifest().encode()),
        member(f"{APP_ID}/app.wasm", trees.MODULE),
        member(f"{APP_ID}/ui/index.html", b"<!doctype html>"),
    ]


def packed(directory: Path, data: bytes) -> Path:
    path = directory / NAME
    path.write_bytes(zstandard.compress(data))
    return path


def unpacked(directory: Path, data: bytes) -> Path:
    out = directory / "out"
    out.mkdir()
    archive.unbundle(SCREEN, packed(directory, data), out)
    return out / APP_ID


def refusal(directory: Path, path: Path) -> WeftError:
    """What unbundle says of an archive; it must leave nothing, inside or outside."""
    out = directory / "a/b"
    out.mkdir(parents=True)
    before = sorted(directory.rglob("*"))
    with pytest.raises(WeftError) as caught:
        archive.unbundle(SCREEN, path, out)
    assert sorted(directory.rglob("*")) == before
    return caught.value


def test_what_was_bundled_is_unbundled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = trees.make(tmp_path / "package")
    (package / "empty").mkdir()
    (package / ("ä" * 60)).write_text("a long name, not in ASCII")
    (package / "link").symlink_to("ui/index.html")
    out = tmp_path / "out"
    out.mkdir()
    assert archive.bundle(SCREEN, package, out) == 0
    assert archive.unbundle(SCREEN, out / NAME, out) == 0
    assert capsys.readouterr().out == f"bundled: {out}/{NAME}\nunbundled: {out}/{NAME} -> {out}\n"
    assert trees.content(out / APP_ID) == trees.content(package)
    assert sorted(path.name for path in out.iterdir()) == [APP_ID, NAME]


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    made: list[bytes] = []
    for name in ("one", "two"):
        package = trees.make(tmp_path / name)
        for path in sorted(package.rglob("*"), reverse=name == "two"):
            os.utime(path, (len(made), len(made)))
        (package / "app.wasm").chmod(0o600 if name == "two" else 0o755)
        (tmp_path / f"{name}-out").mkdir()
        archive.bundle(SCREEN, package, tmp_path / f"{name}-out")
        made.append((tmp_path / f"{name}-out" / NAME).read_bytes())
    assert made[0] == made[1]


def test_tar_and_zstd_read_what_bundle_writes(tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    archive.bundle(SCREEN, package, tmp_path)
    data = zstandard.ZstdDecompressor().stream_reader((tmp_path / NAME).open("rb"), closefd=True).read()
    listed = subprocess.run(["tar", "--list"], input=data, stdout=subprocess.PIPE, check=True).stdout
    assert sorted(listed.decode().split()) == [
        f"{APP_ID}/", f"{APP_ID}/app.wasm", f"{APP_ID}/ui/", f"{APP_ID}/ui/index.html", f"{APP_ID}/wapp.toml",
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "posix"])
def test_what_tar_writes_is_unpacked(form: str, tmp_path: Path) -> None:
    package = trees.make(tmp_path / APP_ID)
    if form != "ustar":
        (package / ("x" * 120)).mkdir()
        (package / ("x" * 120) / ("y" * 120)).symlink_to("../" + "x" * 120)
    command = ["tar", f"--format={form}", "--directory", str(tmp_path), "--create", f"./{APP_ID}"]
    data = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    assert trees.content(unpacked(tmp_path, data)) == trees.content(package)


def test_modes_are_those_of_a_package_whatever_the_archive_and_the_umask_say(tmp_path: Path) -> None:
    members = [member(f"{APP_ID}/a", mode=0o6777), member(f"{APP_ID}/d", type=tarfile.DIRTYPE, mode=0)]
    old = os.umask(0o077)
    try:
        package = unpacked(tmp_path, tar(members))
    finally:
        os.umask(old)
    assert [path.stat().st_mode & 0o7777 for path in (package / "a", package / "d", package)] == [
        0o644, 0o755, 0o755,
    ]  # fmt: skip


def test_neither_command_overwrites(tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    archive.bundle(SCREEN, package, tmp_path)
    data = (tmp_path / NAME).read_bytes()
    with pytest.raises(WeftError, match=f"'{tmp_path}/{NAME}' is there already"):
        archive.bundle(SCREEN, package, tmp_path)
    (tmp_path / APP_ID).mkdir()
    (tmp_path / APP_ID / "mine").touch()
    with pytest.raises(WeftError, match=f"'{tmp_path}/{APP_ID}' is there already"):
        archive.unbundle(SCREEN, tmp_path / NAME, tmp_path)
    assert (tmp_path / NAME).read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == [APP_ID, NAME, "package"]


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "traversal": (
        lambda: tar([*good(), member(f"{APP_ID}/../evil")]),
        f"'{APP_ID}/../evil' is a path that leads elsewhere",
    ),
    "absolute": (lambda: tar([*good(), member("/tmp/evil")]), "'/tmp/evil' is an absolute path"),
    "second top": (
        lambda: tar([*good(), member("org.example.other/x")]),
        f"'org.example.other/x' is not below '{APP_ID}', the archive's top directory",
    ),
    "no top": (
        lambda: tar([member("wapp.toml")]),
        f"the archive's top directory 'wapp.toml' is not an app id: expected {AppId.RULE}",
    ),
    "a file on top": (
        lambda: tar([member(APP_ID)]),
        f"'{APP_ID}' is a file: expected one top directory",
    ),
    "absolute link": (
        lambda: tar([*good(), link(f"{APP_ID}/l", "/etc/passwd")]),
        "'l' is a link with an absolute path: it would lead out of the package",
    ),
    "link out": (
        lambda: tar([*good(), link(f"{APP_ID}/l", "../../x")]),
        "'l' is a link that leads out of the package",
    ),
    "link to nothing": (
        lambda: tar([*good(), link(f"{APP_ID}/l", "x")]),
        "'l' is a link to 'x', which is not there",
    ),
    "through a link": (
        lambda: tar([*good(), link(f"{APP_ID}/l", "../.."), member(f"{APP_ID}/l/evil")]),
        "'l/evil' is below 'l', which is a symbolic link",
    ),
    "below a file": (
        lambda: tar([*good(), member(f"{APP_ID}/app.wasm/evil")]),
        "'app.wasm/evil' is below 'app.wasm', which is a file",
    ),
    "deep below a file": (
        lambda: tar([*good(), member(f"{APP_ID}/app.wasm/a/evil")]),
        "'app.wasm/a' is below 'app.wasm', which is a file",
    ),
    "hard link": (
        lambda: tar([*good(), link(f"{APP_ID}/h", "/etc/passwd", tarfile.LNKTYPE)]),
        f"'{APP_ID}/h' is a hard link: expected files, directories and links",
    ),
    "device": (
        lambda: tar([*good(), member(f"{APP_ID}/d", type=tarfile.CHRTYPE)]),
        f"'{APP_ID}/d' is a device: expected files, directories and links",
    ),
    "fifo": (
        lambda: tar([*good(), member(f"{APP_ID}/f", type=tarfile.FIFOTYPE)]),
        f"'{APP_ID}/f' is a FIFO: expected files, directories and links",
    ),
    "old sparse file": (
        lambda: tar([*good(), member(f"{APP_ID}/s", type=tarfile.GNUTYPE_SPARSE)]),
        f"'{APP_ID}/s' is a sparse file: expected files, directories and links",
    ),
    "new sparse file": (
        lambda: tar([*good(), member(f"{APP_ID}/s", pax_headers={"GNU.sparse.realsize": str(2**60)})]),
        "the archive has a sparse file (GNU.sparse.realsize)",
    ),
    "unknown type": (
        lambda: tar([*good(), member(f"{APP_ID}/u", type=b"V")]),
        f"'{APP_ID}/u' is of the unknown type b'V': expected files, directories and links",
    ),
    "twice": (lambda: tar([*good(), member(f"{APP_ID}/app.wasm")]), "'app.wasm' is there twice"),
    "directory for a signature": (
        lambda: tar([*good(), member(f"{APP_ID}/signature.sig", type=tarfile.DIRTYPE)]),
        "'signature.sig' is a directory: expected a file, which holds the signature",
    ),
    "something below a signature": (
        lambda: tar([*good(), member(f"{APP_ID}/signature.sig/a")]),
        "'signature.sig' is a directory: expected a file, which holds the signature",
    ),
    "link for a signature": (
        lambda: tar([*good(), link(f"{APP_ID}/signature.sig", "app.wasm")]),
        "'signature.sig' is a symbolic link: expected a file, which holds the signature",
    ),
    "tab": (
        lambda: tar([*good(), member(f"{APP_ID}/a\tb")]),
        "'a\\x09b' has a TAB or a line break in its name, which no signature can tell apart",
    ),
    "not UTF-8": (
        lambda: tar([*good(), member(f"{APP_ID}/a\udcff")], tarfile.GNU_FORMAT),
        "'a\\xff' has a name that is not UTF-8",
    ),
    "global header": (
        lambda: tar([member("x", b"13 path=evil\n", type=tarfile.XGLTYPE), *good()]),
        "the archive has a global header with more than a comment",
    ),
    "cut off": (lambda: tar(good())[:1500], "the archive is cut off"),
    "no end": (lambda: tar(good())[:3584], "the archive is cut off"),
    "goes on": (lambda: tar(good()) + b"x", "the archive goes on after its end"),
    "empty": (lambda: tar([]), "the archive is empty"),
    "nothing": (lambda: b"", "the archive is cut off"),
    "no tar": (lambda: b"x" * 1024, "the archive is no tar archive, or damaged: invalid header"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    error = refusal(tmp_path, packed(tmp_path, make()))
    assert (error.problem, str(error)) == (Problem.PACKAGE_INVALID, message)


def raw_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


TOO_MUCH: dict[str, tuple[Callable[[], bytes], str]] = {
    "a large file": (
        lambda: raw_header(f"{APP_ID}/big", 2**40),
        f"with 'big' there are {2**40}; the limit for all files of a package together is 1073741824 bytes",
    ),
    "a large header": (
        lambda: raw_header("x", 2**40, tarfile.XHDTYPE),
        f"the archive has one of {2**40} bytes; the limit for an extended header of an archive is 16384 bytes",
    ),
    "a large name": (
        lambda: raw_header("x", 2**30, tarfile.GNUTYPE_LONGNAME),
        f"the archive has one of {2**30} bytes; the limit for an extended header of an archive is 16384 bytes",
    ),
    "a long path": (
        lambda: tar([member(f"{APP_ID}/{'x' * 1025}")]),
        f"'{'x' * 256}...' has 1025 bytes; the limit for a path inside a package is 1024 bytes",
    ),
    "a long name": (
        lambda: tar([*good(), member(f"{APP_ID}/{300 * 'n'}")]),
        f"'{256 * 'n'}...' has one of 300 bytes; the limit for a name in a path inside a package is 255 bytes",
    ),
    "a long name of a directory": (
        lambda: tar([*good(), member(f"{APP_ID}/{128 * 'ä'}/a")]),
        f"'{128 * 'ä'}' has one of 256 bytes; the limit for a name in a path inside a package is 255 bytes",
    ),
    "a long target": (
        lambda: tar([*good(), link(f"{APP_ID}/l", f"{2048 * './'}app.wasm")]),
        "that of 'l' has 4104 bytes; the limit for the target of a link is 4095 bytes",
    ),
    "a deep path": (
        lambda: tar([member(f"{APP_ID}/{'x/' * 33}y")]),
        f"'{'x/' * 33}y' is below 33; the limit for directories inside each other is 32 directories",
    ),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_of_something_is_refused_before_it_is_there(name: str, tmp_path: Path) -> None:
    make, message = TOO_MUCH[name]
    error = refusal(tmp_path, packed(tmp_path, make()))
    assert error.problem is Problem.LIMIT_EXCEEDED
    assert str(error) == message


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_limits, "ENTRIES", package_limits.ENTRIES._replace(value=5))
    error = refusal(tmp_path, packed(tmp_path, tar([member(f"{APP_ID}/{index}") for index in range(6)])))
    assert str(error) == (
        "there are more than 5; the limit for files, directories and links of a package is 5 entries"
    )


def test_a_bomb_is_refused_after_the_limit_and_not_unpacked_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_limits, "BYTES", package_limits.BYTES._replace(value=1024))
    zeros = bytes(64 * 1024 * 1024)
    path = packed(tmp_path, raw_header(f"{APP_ID}/zeros", len(zeros)) + zeros)
    assert path.stat().st_size < 16 * 1024
    assert refusal(tmp_path, path).problem is Problem.LIMIT_EXCEEDED


def test_zeros_behind_the_end_are_not_read_for_ever(tmp_path: Path) -> None:
    error = refusal(tmp_path, packed(tmp_path, tar(good()) + bytes(4 * 1024 * 1024)))
    assert str(error) == "the archive goes on after its end"


def test_a_window_that_takes_much_memory_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / NAME
    path.write_bytes(compressor.compress(tar(good())) + compressor.flush())
    assert str(refusal(tmp_path, path)) == (
        f"'{path}' needs more; the limit for the window of the compression is 8388608 bytes"
    )


@pytest.mark.parametrize("data", [b"no zstd", b"\x1f\x8b gzip"])
def test_what_is_not_compressed_by_zstd_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(data)
    error = refusal(tmp_path, path)
    assert str(error).startswith(f"'{path}' is not compressed by zstd, or damaged: ")


def test_a_damaged_byte_does_not_pass(tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    archive.bundle(SCREEN, package, tmp_path)
    data = bytearray((tmp_path / NAME).read_bytes())
    data[-1] ^= 1  # of the checksum
    (tmp_path / NAME).write_bytes(data)
    assert refusal(tmp_path, tmp_path / NAME).problem is Problem.PACKAGE_INVALID


def test_frames_one_behind_the_other_are_one_archive(tmp_path: Path) -> None:
    data = tar(good())
    (tmp_path / NAME).write_bytes(zstandard.compress(data[:700]) + zstandard.compress(data[700:]))
    archive.unbundle(SCREEN, tmp_path / NAME, tmp_path)
    assert (tmp_path / APP_ID / "app.wasm").read_bytes() == trees.MODULE


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=150)


@settings(max_examples=100)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=5), st.sampled_from([0, 1, 2]))
def test_what_tarfile_writes_is_read_as_it_was(files: list[tuple[str, bytes]], form: int) -> None:
    if form == tarfile.USTAR_FORMAT:
        files = [(name, data) for name, data in files if len(name.encode()) <= 100]
    reader = tarball.Reader(io.BytesIO(tar([member(name, data) for name, data in files], form)))
    found = [(entry.path, b"".join(reader.chunks())) for entry in reader.members()]
    assert found == files


@settings(max_examples=300)
@given(st.data())
def test_no_bytes_do_anything_but_unpack_or_be_refused(data: st.DataObject) -> None:
    whole = bytearray(tar([*good(), link(f"{APP_ID}/l", "app.wasm"), member(f"{APP_ID}/{'x' * 200}", b"y")]))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=6)):
        whole[place] = data.draw(st.integers(0, 255))
    reader = tarball.Reader(io.BytesIO(bytes(whole[: data.draw(st.integers(0, len(whole)))])))
    total = 0
    try:
        for entry in reader.members():
            assert entry.kind in Kind
            total += sum(map(len, reader.chunks()))
    except WeftError:
        pass
    assert total <= len(whole)


def bomb(directory: Path, blocks: Iterable[bytes]) -> Path:
    compressor = zstandard.ZstdCompressor().compressobj()
    path = directory / NAME
    with path.open("wb") as file:
        for block in blocks:
            file.write(compressor.compress(block))
        file.write(compressor.flush())
    return path


PAX = raw_header("x", 1024, tarfile.XHDTYPE) + b"1024 a=" + b"b" * 1016 + b"\n"
LONG = raw_header("x", 16384, tarfile.GNUTYPE_LONGNAME) + b"a" * 16384
COMMENT = raw_header("x", 512, tarfile.XGLTYPE) + b"512 comment=" + b"c" * 499 + b"\n"
TOP = raw_header(APP_ID, 0, tarfile.DIRTYPE)


@pytest.mark.parametrize("header", [PAX, LONG, COMMENT], ids=["pax", "GNU", "global"])
def test_headers_without_a_member_are_refused_at_the_second(header: bytes, tmp_path: Path) -> None:
    path = bomb(tmp_path, (header * 1000 for _ in range(1000)))
    assert str(refusal(tmp_path, path)) == "the archive has two extended headers of a kind for one member"


@pytest.mark.parametrize(
    ("block", "limit"),
    [(COMMENT + TOP, package_limits.MEMBERS), (COMMENT + PAX + TOP, package_limits.HEADERS)],
    ids=["members", "headers"],
)
def test_a_directory_that_is_named_again_and_again_ends(
    block: bytes, limit: limits.Limit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_limits, "MEMBERS", package_limits.MEMBERS._replace(value=1000))
    monkeypatch.setattr(package_limits, "HEADERS", package_limits.HEADERS._replace(value=2 * limits.MIB))
    error = refusal(tmp_path, bomb(tmp_path, (block * 1000 for _ in range(100))))
    assert error.problem is Problem.LIMIT_EXCEEDED
    assert f"the limit for {limit.what} is" in str(error)


def test_records_of_a_header_are_bounded(tmp_path: Path) -> None:
    body = b"5 a=\n" * 200
    error = refusal(
        tmp_path, packed(tmp_path, raw_header("x", len(body), tarfile.XHDTYPE) + body + bytes(24))
    )
    assert "the limit for records of an extended header is 100 records" in str(error)


SKIPPED = (0x184D2A50).to_bytes(4, "little")


@pytest.mark.parametrize(
    "frame",
    [SKIPPED + bytes(4), SKIPPED + (4096).to_bytes(4, "little") + bytes(4096), zstandard.compress(b"")],
    ids=["short", "long", "empty"],
)
def test_frames_that_hold_nothing_are_not_read_for_ever(frame: bytes, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(frame * (8 * limits.MIB // len(frame)))
    error = refusal(tmp_path, path)
    assert "the limit for what an archive has more than it unpacks to is 1048576 bytes" in str(error)


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_an_archive_that_is_no_file_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    path = tmp_path / NAME
    listener = socket.socket(socket.AF_UNIX)
    match kind:
        case "FIFO":
            os.mkfifo(path)
        case "socket":
            listener.bind(str(path))
        case _:
            path.symlink_to("/dev/zero")
    with listener:
        error = refusal(tmp_path, path)
    assert error.problem in (Problem.PACKAGE_INVALID, Problem.OS_ERROR)


def test_bundling_to_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    package = trees.make(tmp_path / "package")
    with pytest.raises(WeftError, match="File name too long"):
        archive.bundle(SCREEN, package, tmp_path / ("x" * 300))
