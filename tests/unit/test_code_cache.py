# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.code_cache: what is used of what lies there, and how it gets there."""

import errno
import fcntl
import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command.harness import eventually
from weft_runtime import code_cache, integrity, limits
from weft_runtime.code_cache import Caches, Key, Lookup, Vain, Why
from weft_runtime.errors import Problem, WeftError
from weft_runtime.limits import CompileBounds

ENGINE = hashlib.sha256(b"an engine").digest()
OTHER_ENGINE = hashlib.sha256(b"another engine").digest()
CODE = bytes(range(256)) * 40
FLIPS = 200

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others, or mount")


class Place:
    """A cache, a module, and what became of looking for its code."""

    def __init__(self, directory: Path) -> None:
        self.caches = Caches(directory / "system", directory / "own")
        self.own = directory / "own"
        self.module = directory / "app.wasm"
        self.module.write_bytes(b"a module")
        settle(self.module)

    @property
    def key(self) -> Key:
        return Key(ENGINE, hashlib.sha256(self.module.read_bytes()).digest())

    def look(self, engine: bytes = ENGINE) -> Lookup:
        """Search, and close what was found."""
        fd = os.open(self.module, os.O_RDONLY)
        try:
            found = code_cache.find(self.caches, fd, engine)
        finally:
            os.close(fd)
        if found.entry is not None:
            os.close(found.entry.fd)
        return found

    def keep(
        self, code: bytes = CODE, engine: bytes = ENGINE, *, limit: int = 10**9, public: bool = False
    ) -> Path:
        """Put code for the module into the cache."""
        found = self.look(engine)
        cache = self.caches.system if public else self.own
        bound = limits.CODE_CACHE._replace(value=limit)
        with sealed(code, found.key) as fd:
            os.close(code_cache.keep(cache, found, fd, public=public, limit=bound))
        return cache / "code" / found.key.file_name

    def records(self) -> list[Path]:
        return sorted(self.own.glob("code/*.module"))


@contextmanager
def sealed(code: bytes, key: Key) -> Iterator[int]:
    fd = os.memfd_create("entry")
    with open(fd, "wb") as file:
        file.write(code + code_cache.trailer(code, key))
        file.flush()
        yield fd


def settle(path: Path) -> None:
    """Wait until a change of the file would leave a trace."""
    while time.time_ns() <= path.stat().st_ctime_ns + integrity.SETTLED_NS:
        os.sched_yield()


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_was_never_compiled_is_just_not_there(place: Place) -> None:
    found = place.look()
    assert (found.entry, found.complaints) == (None, ())
    assert found.key == place.key
    assert not place.own.exists()


def test_what_was_kept_is_found(place: Place) -> None:
    path = place.keep()
    found = place.look()
    assert found.entry is not None
    assert (found.entry.path, found.complaints) == (str(path), ())
    assert path.read_bytes() == CODE + code_cache.trailer(CODE, place.key)


def test_files_are_for_their_owner_alone_unless_they_are_roots(place: Place) -> None:
    old = os.umask(0)
    try:
        own, public = place.keep(), place.keep(public=True)
    finally:
        os.umask(old)
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    for directory, mode in ((own.parent, 0o700), (place.own, 0o700), (public.parent, 0o755)):
        assert stat.S_IMODE(directory.stat().st_mode) == mode


def test_the_trailer_is_as_documented(place: Place) -> None:
    key = place.key
    described = b"weftcode" + key.module + key.engine
    assert code_cache.trailer(CODE, key) == described + hashlib.sha256(CODE + described).digest()
    with sealed(CODE, key) as fd:
        assert code_cache.key_of(fd) == key
        assert code_cache.complaint(fd, key) is None


def test_engines_have_their_code_side_by_side(place: Place) -> None:
    first, second = place.keep(), place.keep(engine=OTHER_ENGINE)
    assert first != second
    for engine, path in ((ENGINE, first), (OTHER_ENGINE, second)):
        entry = place.look(engine).entry
        assert entry is not None
        assert entry.path == str(path)


def test_neither_module_nor_code_is_read_once_both_are_known(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.keep()
    read: list[int] = []
    digest = code_cache._digest

    def counting(fd: int, end: int) -> bytes:
        read.append(end)
        return digest(fd, end)

    monkeypatch.setattr(code_cache, "_digest", counting)
    assert place.look().entry is not None
    assert read == []
    place.records()[0].unlink()
    assert place.look().entry is not None
    assert len(read) == 2  # and that is remembered
    assert place.look().entry is not None
    assert len(read) == 2


def test_a_module_that_was_replaced_in_place_is_another_one(place: Place) -> None:
    place.keep()
    before = place.module.stat()
    place.module.write_bytes(b"A MODULE")
    os.utime(place.module, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert place.module.stat().st_size == before.st_size
    found = place.look()
    assert (found.entry, found.complaints) == (None, ())
    assert found.key == place.key


def test_what_changed_just_now_is_not_recorded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.keep()
    place.records()[0].unlink()
    changed = path.stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: changed + integrity.SETTLED_NS - 1)
    assert place.look().entry is not None
    assert place.records() == []
    monkeypatch.setattr(time, "time_ns", lambda: changed + integrity.SETTLED_NS)
    assert place.look().entry is not None
    assert len(place.records()) == 1


def complained(place: Place, path: Path, expected: str) -> None:
    """The entry is refused with that complaint, and when the code is kept again it is whole again."""
    found = place.look()
    assert found.entry is None
    assert found.complaints == (f"{path} {expected}",)
    assert place.keep() == path
    assert place.look().entry is not None


@pytest.mark.parametrize("size", [0, 1, 103, 104, 105, len(CODE), len(CODE) + 103])
def test_a_truncated_entry_is_refused(place: Place, size: int) -> None:
    path = place.keep()
    os.truncate(path, size)
    complained(place, path, "is truncated, or no compiled code")


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"\x7fELF" + bytes(5000), b"\0asm\1\0\0\0"])
def test_a_foreign_file_is_refused(place: Place, content: bytes) -> None:
    path = place.keep()
    path.write_bytes(content)
    complained(place, path, "is truncated, or no compiled code")


def test_the_code_of_another_module_or_engine_is_refused(place: Place) -> None:
    path = place.keep()
    for key, complaint in (
        (Key(ENGINE, bytes(32)), "is the code of another module"),
        (Key(OTHER_ENGINE, place.key.module), "was made for another engine"),
    ):
        path.write_bytes(CODE + code_cache.trailer(CODE, key))
        complained(place, path, complaint)


def test_a_flipped_bit_is_found_wherever_it_is(place: Place) -> None:
    path = place.keep()
    whole = path.read_bytes()
    chance = random.Random(6)
    at_the_end = range(len(whole) - code_cache.TRAILER_BYTES, len(whole))
    for at in [*at_the_end, *(chance.randrange(len(whole)) for _ in range(FLIPS))]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        found = place.look()
        assert found.entry is None, at
        assert len(found.complaints) == 1, at
        assert found.complaints[0].startswith(f"{path} ")
    path.write_bytes(whole)
    assert place.look().entry is not None


def test_a_flipped_bit_in_a_record_is_found_wherever_it_is(place: Place) -> None:
    place.keep()
    (path,) = place.records()
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        found = place.look()
        assert found.complaints == (f"{path} is not as it was written",)
        assert found.entry is not None
        assert path.read_bytes() == whole  # and has been renewed


def test_a_link_is_refused(place: Place, tmp_path: Path) -> None:
    path = place.keep()
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    complained(place, path, "is a symbolic link")
    path.unlink()
    path.hardlink_to(elsewhere)
    complained(place, path, "has 2 names")


def test_what_is_no_file_is_refused(place: Place) -> None:
    path = place.keep()
    path.unlink()
    os.mkfifo(path)
    complained(place, path, "is not a regular file")
    path.unlink()
    path.mkdir()
    found = place.look()
    assert (found.entry, found.complaints) == (None, (f"{path} is not a regular file",))
    with pytest.raises(IsADirectoryError):
        place.keep()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(place: Place, mode: int) -> None:
    path = place.keep()
    path.chmod(mode)
    complained(place, path, f"can be written by others: its mode is {mode:o}")


@as_root
def test_a_file_of_somebody_else_is_refused(place: Place) -> None:
    path = place.keep()
    os.chown(path, 12345, -1)
    complained(place, path, "belongs to the user 12345, not to 0")


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_nothing_in_a_directory_that_others_can_write_is_used_or_written(place: Place, mode: int) -> None:
    path = place.keep()
    for directory in (path.parent, place.own):
        before = directory.stat().st_mode
        directory.chmod(mode)
        complaint = f"'{directory}' can be written by others: its mode is {mode:o}"
        found = place.look()
        assert (found.entry, found.complaints) == (None, (f"{path} is not safe: {complaint}",))
        with pytest.raises(WeftError) as caught:
            place.keep()
        assert (caught.value.problem, caught.value.message) == (
            Problem.NOT_PERMITTED,
            complaint,
        )
        directory.chmod(before)
    assert place.look().entry is not None


@as_root
def test_nothing_in_a_directory_of_somebody_else_is_used(place: Place) -> None:
    path = place.keep()
    os.chown(place.own, 12345, -1)
    complaint = f"is not safe: '{place.own}' belongs to the user 12345, not to 0"
    assert place.look().complaints == (f"{path} {complaint}",)


def test_a_sticky_directory_above_is_no_danger_but_the_last_one_is(place: Place) -> None:
    path = place.keep()
    place.own.chmod(0o1777)
    assert place.look().entry is not None
    path.parent.chmod(0o1777)
    assert place.look().entry is None


def test_links_on_the_way_are_looked_behind(place: Place, tmp_path: Path) -> None:
    place.keep()
    place.own.rename(tmp_path / "real")
    place.own.symlink_to("real")
    assert place.look().entry is not None
    (tmp_path / "real").chmod(0o777)
    (complaint,) = place.look().complaints
    assert complaint.endswith(f"is not safe: '{tmp_path}/real' can be written by others: its mode is 777")


def test_what_is_wrong_in_one_cache_does_not_matter_where_the_other_is_right(place: Place) -> None:
    public = place.keep(public=True)
    public.write_bytes(b"x" * 5000)
    found = place.look()
    assert (found.entry, len(found.complaints)) == (None, 1)
    own = place.keep()
    found = place.look()
    assert found.entry is not None
    assert (found.entry.path, found.complaints) == (str(own), ())


def test_the_systems_comes_first_and_is_remembered_in_the_own_one(place: Place) -> None:
    place.keep()
    public = place.keep(public=True)
    for record in (*place.records(), *public.parent.glob("*.module")):
        record.unlink()
    settle(public)
    found = place.look()
    assert found.entry is not None
    assert found.entry.path == str(public)
    assert len(place.records()) == 1
    assert list(public.parent.glob("*.module")) == []


def test_an_entry_of_something_else_is_not_kept(place: Place) -> None:
    with sealed(CODE, Key(ENGINE, bytes(32))) as fd, pytest.raises(WeftError) as caught:
        code_cache.keep(place.own, place.look(), fd)
    assert caught.value.problem is Problem.INTERNAL_ERROR
    assert not place.own.exists()


def test_the_entry_that_was_not_used_for_longest_gives_way(place: Place) -> None:
    size = len(CODE) + code_cache.TRAILER_BYTES
    paths = []
    for number in range(4):
        place.module.write_bytes(b"module %d" % number)
        paths.append(place.keep(limit=3 * size))
        # The second one was used last, the third one before it.
        used = {0: 3, 1: 9, 2: 4, 3: 5}[number]
        os.utime(paths[-1], ns=(used * 10**9, 10**9))
    assert {path for path in paths if path.exists()} == set(paths[1:])
    code_cache.prune(place.own, limits.CODE_CACHE._replace(value=size))
    assert [path for path in paths if path.exists()] == [paths[1]]


def test_replacing_an_entry_costs_no_other(place: Place) -> None:
    size = len(CODE) + code_cache.TRAILER_BYTES
    first = place.keep()
    place.module.write_bytes(b"another")
    for _ in range(3):
        second = place.keep(limit=2 * size)
    assert first.exists()
    assert second.exists()


def test_what_is_larger_than_the_cache_is_not_kept(place: Place) -> None:
    first = place.keep()
    place.module.write_bytes(b"another")
    with pytest.raises(WeftError) as caught:
        place.keep(limit=len(CODE))
    assert caught.value.problem is Problem.LIMIT_EXCEEDED
    assert str(caught.value).startswith(
        f"it has {len(CODE) + 104} bytes; the limit for compiled code in a cache is "
    )
    assert first.exists()


def test_records_are_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_cache, "RECORDS_MAX", 3)
    for number in range(6):
        place.module.write_bytes(b"module %d" % number)
        place.keep()
    assert len(place.records()) == 3
    assert place.look().entry is not None
    assert len(place.records()) == 3


def test_what_a_writer_has_left_is_removed_and_what_is_being_written_is_not(place: Place) -> None:
    path = place.keep()
    left, written = path.parent / ".left", path.parent / ".written"
    left.write_bytes(b"half")
    with written.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code_cache.prune(place.own)
        assert names(path.parent) == {path.name, ".written", place.records()[0].name}
    code_cache.prune(place.own)
    assert names(path.parent) == {path.name, place.records()[0].name}


def test_a_file_that_was_just_made_is_not_taken_for_one_that_was_left(place: Place) -> None:
    path = place.keep()
    done = threading.Event()

    def prune_all_the_time() -> None:
        while not done.is_set():
            code_cache.prune(place.own)

    pruning = threading.Thread(target=prune_all_the_time)
    pruning.start()
    try:
        for _ in range(50):
            assert place.keep() == path
    finally:
        done.set()
        pruning.join()


def test_other_files_are_left_alone(place: Place) -> None:
    path = place.keep()
    (path.parent / "notes.txt").write_text("mine")
    (path.parent / "x.code").mkdir()
    code_cache.prune(place.own, limits.CODE_CACHE._replace(value=0))
    assert names(path.parent) == {"notes.txt", "x.code", place.records()[0].name}


def test_pruning_nothing_is_nothing(tmp_path: Path) -> None:
    code_cache.prune(tmp_path / "none")


WRITER = """
import os, sys
from pathlib import Path
from weft_runtime import code_cache
from weft_runtime.code_cache import Caches

own, module = Path(sys.argv[1]), os.open(sys.argv[2], os.O_RDONLY)
code = bytes(4 << 20)
while True:
    found = code_cache.find(Caches(own, own), module, bytes(32))
    if found.entry:
        os.close(found.entry.fd)
    assert not found.complaints, found.complaints
    fd = os.memfd_create("entry")
    os.write(fd, code)
    os.write(fd, code_cache.trailer(code, found.key))
    os.close(code_cache.keep(own, found, fd))
    os.close(fd)
    print("kept", flush=True)
"""


def writer(place: Place) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", WRITER, str(place.own), str(place.module)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


def test_two_writers_do_not_harm_each_other(place: Place) -> None:
    writers = [writer(place), writer(place)]
    try:
        for _ in range(10):
            for process in writers:
                assert process.stdout is not None
                assert process.stdout.readline() == b"kept\n"
    finally:
        for process in writers:
            process.kill()
            process.communicate()
    found = place.look(bytes(32))
    assert (found.entry is not None, found.complaints) == (True, ())


def test_a_writer_that_is_killed_leaves_a_cache_that_can_be_used(place: Place) -> None:
    chance = random.Random(1)
    for _ in range(15):
        process = writer(place)
        assert process.stdout is not None
        assert process.stdout.readline() == b"kept\n"
        killing = threading.Timer(chance.uniform(0, 0.05), process.send_signal, [signal.SIGKILL])
        killing.start()
        process.communicate()
        found = place.look(bytes(32))
        assert (found.entry is not None, found.complaints) == (True, ())
    place.keep()
    assert not [name for name in names(place.own / "code") if name.startswith(".")]


@contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """A small file system of its own, in a name space of this thread's process that others do not see."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@as_root
def test_a_full_disk_costs_only_the_entry(place: Place) -> None:
    with mounted(place.own, "size=256k,mode=700"):
        path = place.keep()
        place.module.write_bytes(b"a large one")
        with pytest.raises(OSError, match="No space left") as caught:
            place.keep(bytes(1 << 20))
        assert caught.value.errno == errno.ENOSPC
        assert [name for name in names(path.parent) if name.startswith(".")] == []
        assert path.exists()


@as_root
def test_what_cannot_be_written_can_be_read(place: Place) -> None:
    with mounted(place.own, "mode=700"):
        place.keep()
        place.records()[0].unlink()
        subprocess.run(["mount", "-o", "remount,ro", place.own], check=True)
        assert place.look().entry is not None
        with pytest.raises(OSError, match="Read-only"):
            place.keep()


def test_an_unreadable_module_is_an_error_that_says_so(place: Place) -> None:
    fd = os.open(place.module, os.O_WRONLY)
    with pytest.raises(WeftError, match="cannot read the module: Bad file descriptor"):
        code_cache.find(place.caches, fd, ENGINE)
    os.close(fd)


def test_a_search_leaves_no_descriptor_open(place: Place) -> None:
    before = names(Path("/proc/self/fd"))
    place.look()
    path = place.keep()
    place.look()
    path.write_bytes(b"x")
    place.look()
    assert names(Path("/proc/self/fd")) == before


def test_a_note_of_what_was_in_vain_is_read_as_it_was_written(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert code_cache.vain(place.own, place.key) is None
    noted = Vain(CompileBounds.here(), "/x/app.wasm is too costly: " + "a long reason " * 200)
    begun = time.time()
    code_cache.note_vain(place.own, place.key, noted)
    found = code_cache.vain(place.own, place.key)
    assert found is not None
    assert found.bounds == noted.bounds
    assert noted.reason.startswith(found.reason[:200])
    assert begun - 1 <= found.noted_at <= time.time() + 1
    assert code_cache.vain(place.own, Key(OTHER_ENGINE, place.key.module)) is None


def test_code_or_the_end_of_an_app_take_the_note_away(tmp_path: Path) -> None:
    place = Place(tmp_path)
    noted = Vain(CompileBounds.here(), "reason")
    code_cache.note_vain(place.own, place.key, noted)
    place.keep()
    assert code_cache.vain(place.own, place.key) is None
    code_cache.note_vain(place.own, place.key, noted)
    code_cache.forget(place.own, place.key.module)
    assert code_cache.vain(place.own, place.key) is None


def test_a_long_reason_does_not_hide_what_kind_of_note_it_is(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for why in (Why.LIMIT, Why.MEMORY):
        code_cache.note_vain(place.own, place.key, Vain(CompileBounds.here(), "ä" * 2000, why=why))
        found = code_cache.vain(place.own, place.key)
        assert found is not None
        assert found.why is why
    # As the first release has written them.
    path = place.own / "code" / place.key.vain_name
    path.write_text(f"{CompileBounds.here()}\nreason\n")
    found = code_cache.vain(place.own, place.key)
    assert found is not None
    assert (found.reason, found.why) == ("reason", Why.LIMIT)


def test_that_it_has_begun_counts_once_whoever_began_is_gone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    fd = code_cache.note_begun(place.own, place.key, CompileBounds.here())
    assert code_cache.vain(place.own, place.key) is None
    os.close(fd)
    found = code_cache.vain(place.own, place.key)
    assert found is not None
    assert found.why is Why.BEGUN
    code_cache.forget_vain(place.own, place.key)
    assert code_cache.vain(place.own, place.key) is None
    code_cache.forget_vain(place.own, place.key)


def test_a_lack_of_memory_counts_for_a_while_and_a_limit_for_ever() -> None:
    here, now = CompileBounds.here(), time.time()
    larger = here._replace(cpu=here.cpu + 1)
    for age, of_memory in ((0, True), (1700, True), (1900, False), (-10, False)):
        assert Vain(here, "reason", now - age, Why.MEMORY).counts(here) is of_memory
        assert Vain(here, "reason", now - age, Why.LIMIT).counts(here)
        assert not Vain(here, "reason", now - age, Why.MEMORY).counts(larger)


@pytest.mark.parametrize("how", ["writable", "linked", "garbage", "fifo", "directory"])
def test_a_note_that_others_could_have_written_is_none(tmp_path: Path, how: str) -> None:
    place = Place(tmp_path)
    code_cache.note_vain(place.own, place.key, Vain(CompileBounds.here(), "reason"))
    path = place.own / "code" / place.key.vain_name
    match how:
        case "writable":
            path.chmod(0o666)
        case "linked":
            (tmp_path / "second").hardlink_to(path)
        case "garbage":
            path.write_bytes(b"\xff\xfe 1 2\n")
        case "fifo":
            path.unlink()
            os.mkfifo(path, 0o600)
        case "directory":
            path.unlink()
            path.mkdir()
    assert code_cache.vain(place.own, place.key) is None


# Begins to compile and has done so, again and again, until it is killed.
COMPILES = """
import os, sys
from pathlib import Path
from weft_runtime import code_cache
from weft_runtime.limits import CompileBounds

cache, key = Path(sys.argv[1]), code_cache.Key(bytes(32), bytes(32))
while True:
    fd = code_cache.note_begun(cache, key, CompileBounds.here())
    code_cache.forget_vain(cache, key)
    os.close(fd)
"""


def test_one_that_ends_while_somebody_looks_was_not_killed(tmp_path: Path) -> None:
    key = code_cache.Key(bytes(32), bytes(32))
    with subprocess.Popen([sys.executable, "-c", COMPILES, str(tmp_path)]) as other:
        try:
            eventually(lambda: any(tmp_path.glob("code/*")), "it has begun")
            found = [code_cache.vain(tmp_path, key) for _ in range(30_000)]
            assert other.poll() is None
        finally:
            other.kill()
    assert set(found) == {None}
