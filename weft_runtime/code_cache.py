# SPDX-License-Identifier: Apache-2.0
"""Compiled code that is kept: where it lies, what of it may be used, and how it is written.

Compiled code is machine code, and the engine does not check its bytes: whoever can write such a file runs what they
like. So a file is used only if nobody but root and its reader could have written it, and if it is what was written.
It is a sealed entry: the code, then a trailer that says of which module and engine it is, with a digest over all.

Beside the entries are records: one says which module a file holds whose status is so and so, and which state of
the entry has been read whole. So a launch of megabytes reads none of them. An entry, once it has its name, is
only ever replaced or removed: processes have it mapped.
"""

import os
import stat
import time
from binascii import crc32
from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from weft_runtime import limits
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable
from weft_runtime.integrity import SETTLED_NS, Identity, unsafe, unsafe_above
from weft_runtime.limits import CompileBounds, Limit
from weft_runtime.sources import NAME, PLACE, STEP, Source

SUBDIRECTORY = "code"
"""Of a cache directory: entries and records, both in one so that one chain of directories is to be checked."""

ENTRY_SUFFIX = ".code"
RECORD_SUFFIX = ".module"
VAIN_SUFFIX = ".vain"
"""Of a note that compiling was in vain, or may be: it stands where the entry would be."""

PLAN_SUFFIX = ".plan"
"""Of a plan that is remembered (remembered.py)."""

MAGIC = b"weftcode"
DIGEST_BYTES = 32
TRAILER_BYTES = len(MAGIC) + 3 * DIGEST_BYTES

RECORDS_MAX = 4096
"""Records in one cache: each takes a block of the file system, and there is one for each module and engine."""

_RECORD_MAX = 1000
_CHUNK = 1024 * 1024
_ENGINE_DIGITS = 16
"""Of the engine's digest, in a file's name: they tell a few engines apart. The trailer has all of it."""

_READ = os.O_RDONLY | os.O_CLOEXEC
# No link, and no waiting for the writer of a FIFO.
_READ_FILE = _READ | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Caches(NamedTuple):
    """Where compiled code is looked for, in this order."""

    system: Path = Path("/var/cache/weft/system")
    """Root's, for everybody."""
    own: Path | None = None
    """The reader's, who also writes there."""


class Key(NamedTuple):
    """What an entry is the code of: two SHA-256 digests."""

    engine: bytes
    """Of what the engine says of its compatibility."""
    module: bytes
    """Of the module's file."""

    @property
    def file_name(self) -> str:
        return f"{self._stem}{ENTRY_SUFFIX}"

    @property
    def vain_name(self) -> str:
        return f"{self._stem}{VAIN_SUFFIX}"

    @property
    def _stem(self) -> str:
        return f"{_engine_name(self.engine)}-{self.module.hex()}"


class Entry(NamedTuple):
    """A file of compiled code that may be used."""

    fd: int
    path: str
    """For messages."""


class Why(StrEnum):
    """Why there is a note instead of code."""

    LIMIT = "limit"
    """The compiler ran into one of its bounds, as it would again."""
    MEMORY = "memory"
    """The kernel has ended the compiler for want of memory, which may have been that of others."""
    BEGUN = "begun"
    """Whoever compiled was ended with its compiler, and had no time to say why."""


class Vain(NamedTuple):
    """That a module was compiled in vain."""

    bounds: CompileBounds
    """What the compiler may have used."""
    reason: str
    """What came of it: one safe line."""
    noted_at: float = 0.0
    """When, in Unix seconds; not part of the note."""
    why: Why = Why.LIMIT

    @property
    def is_recent(self) -> bool:
        """Whether it was noted so lately that a compiler which was started then may still be at work."""
        return 0 <= time.time() - self.noted_at < limits.COMPILE_TIME.value

    def counts(self, bounds: CompileBounds) -> bool:
        """Whether compiling within `bounds` would be in vain as well. A lack of memory goes by."""
        return self.bounds.covers(bounds) and (self.why is Why.LIMIT or self.is_recent)


class Lookup(NamedTuple):
    """What became of a search."""

    key: Key
    module: Identity
    """The state of the module's file to which the key belongs."""
    entry: Entry | None
    complaints: tuple[str, ...]
    """What was there and must not be used: "FILE is wrong in this way"."""
    is_known: bool = False
    """Whether a record spared reading the module and the entry."""


def find(caches: Caches, module_fd: int, engine: bytes) -> Lookup:
    """Search for the code of the module open on `module_fd`, made by the engine with the digest `engine`.

    The caller closes the entry's descriptor. Raises WeftError where the module cannot be read.
    """
    found = _find(caches, module_fd, engine, reads=True)
    assert found is not None
    return found


def recall(caches: Caches, module_fd: int, engine: bytes) -> Lookup | None:
    """The same without reading a file whole, or writing one: None where `find` had to, or has something to complain of.

    Raises WeftError as that does.
    """
    found = _find(caches, module_fd, engine, reads=False)
    if found is None or found.entry is None:
        return None
    if found.complaints:
        os.close(found.entry.fd)
        return None
    return found


def _find(caches: Caches, module_fd: int, engine: bytes, *, reads: bool) -> Lookup | None:
    """As `find`; None where that had to read a file whole and must not."""
    try:
        module = Identity.of(os.fstat(module_fd))
        with ExitStack() as opened:
            places = []
            for cache in (caches.system, caches.own):
                # One that is not there, or that this user has no business in, holds nothing for it.
                with suppress(OSError):
                    if cache is not None:
                        places.append(opened.enter_context(_Place(cache / SUBDIRECTORY)))
            records, complaints = _recall(places, engine, module)
            if not records and not reads:
                return None
            key = Key(engine, records[0].module if records else _digest(module_fd, module.size))
            known = {record.code for record in records if record.module == key.module}
            candidates = [
                opened.enter_context(found) for place in places if (found := place.candidate(key.file_name))
            ]
            # One that is as it was when it was read goes first: it makes all others irrelevant.
            candidates.sort(key=lambda candidate: candidate.identity not in known)
            for candidate in candidates:
                is_known = candidate.identity in known
                if not is_known and not reads:
                    return None
                complaint = candidate.complaint or _complaint(candidate.fd, key, is_known=is_known)
                if complaint:
                    complaints.append(f"{candidate.path} {complaint}")
                    continue
                if not is_known and caches.own is not None:
                    _remember(caches.own, key, module, candidate.identity)
                entry = Entry(candidate.take(), candidate.path)
                return Lookup(key, module, entry, tuple(complaints), is_known)
            return Lookup(key, module, None, tuple(complaints))
    except OSError as error:
        raise from_os_error("read the module", error) from None


def sources(caches: Caches, found: Lookup, *, with_way: bool = True) -> list[Source]:
    """What `found` depends on, besides the module's file; `with_way` is whether the way to the caller's own cache counts."""
    names: list[Source] = []
    for cache in (caches.system, caches.own):
        if cache is not None:
            directory = os.fsencode(cache / SUBDIRECTORY)
            if with_way or cache is caches.system:
                names.append((PLACE, directory))
                with suppress(OSError):  # one that is not there has nothing above that counts
                    names += _above(directory)
            for name in (_record_name(found.key.engine, found.module), found.key.file_name):
                names.append((NAME, directory + b"/" + name.encode()))
    return names


def _above(directory: bytes) -> list[Source]:
    """The directories above one, through all links, as `unsafe_above` looks at them. Raises OSError."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        real = os.fsencode(Path(f"/proc/self/fd/{fd}").readlink())
    finally:
        os.close(fd)
    return [(STEP, real[:end] or b"/") for end, byte in enumerate(real) if byte == ord("/")]


def trailer(code: bytes | bytearray, key: Key) -> bytes:
    """What makes `code`, as the engine has serialized it, a sealed entry when it is written behind it."""
    from hashlib import sha256  # noqa: PLC0415 - loads OpenSSL, which a launch of known code does without

    digest = sha256(code)
    described = MAGIC + key.module + key.engine
    digest.update(described)
    return described + digest.digest()


def key_of(fd: int) -> Key | None:
    """Of what the file open on `fd` says that it is the code; None if it is no sealed entry. Raises OSError."""
    found = _read_trailer(fd)
    return found and found.key


def complaint(fd: int, key: Key) -> str | None:
    """What keeps the file open on `fd` from being the sealed entry of `key`; completes "FILE ...".

    It is read whole.
    """
    return _complaint(fd, key, is_known=False)


def keep(
    cache: Path, found: Lookup, sealed_fd: int, *, public: bool = False, limit: Limit = limits.CODE_CACHE
) -> int:
    """Put a sealed entry into `cache`, for the module that was looked up, in place of what has its name.

    `public` is for all to read. Returns a descriptor of the new file. Raises OSError, and WeftError: INTERNAL_ERROR
    for an entry that is not the module's, LIMIT_EXCEEDED for one larger than a cache may be, NOT_PERMITTED where
    others could write to the directory.
    """
    if key_of(sealed_fd) != found.key:
        raise WeftError(
            Problem.INTERNAL_ERROR, "it is not that of the module, which may have changed meanwhile"
        )
    directory = cache / SUBDIRECTORY
    _make_directory(directory, 0o755 if public else 0o700)
    with _Place(directory) as place:
        if place.complaint:
            raise WeftError(Problem.NOT_PERMITTED, place.complaint)
        size = os.fstat(sealed_fd).st_size
        if size > limit.value:
            raise limits.exceeded(limit, f"it has {size} bytes")
        _make_room(place, size, limit, besides=found.key.file_name)
        fd = place.write(found.key.file_name, sealed_fd, public=public)
        _remove(place, found.key.vain_name)
        _remember(cache, found.key, found.module, Identity.of(os.fstat(fd)), wait=True, public=public)
        return fd


def remember(cache: Path, found: Lookup, *, public: bool = False) -> None:
    """Record in `cache` what was found without a record, so that launches need not read it either. Raises OSError."""
    if found.entry is not None and not found.is_known:
        code = Identity.of(os.fstat(found.entry.fd))
        _remember(cache, found.key, found.module, code, wait=True, public=public)


def is_there(cache: Path, key: Key) -> bool:
    """Whether there is a file where the entry of `key` would be; whether it is any good, `find` says."""
    return os.access(cache / SUBDIRECTORY / key.file_name, os.F_OK)


def vain(cache: Path, key: Key) -> Vain | None:
    """What is noted in `cache` of an attempt to compile a module; None for nothing, or nothing to believe.

    One that goes on is none.
    """
    try:
        with _Place(cache / SUBDIRECTORY) as place:
            data = place.read_record(key.vain_name)
            if not isinstance(data, bytes):
                return None
            text, reason, why, *_ = [*data.decode(errors="replace").split("\n"), ""]
            if (bounds := CompileBounds.parse(text)) is None:
                return None
            noted_at = os.stat(key.vain_name, dir_fd=place.fd).st_mtime
            found = Vain(bounds, printable(reason), noted_at, Why(why or Why.LIMIT))
            return None if found.why is Why.BEGUN and _is_held(place, key.vain_name) else found
    except (OSError, ValueError):
        return None


def note_vain(cache: Path, key: Key, vain: Vain, *, public: bool = False) -> None:
    """Note in `cache` that a module was compiled in vain. Raises OSError, and WeftError(NOT_PERMITTED) as `keep`."""
    os.close(_note(cache, key, vain, public=public))


def note_begun(cache: Path, key: Key, bounds: CompileBounds) -> int:
    """Note in `cache` that a module is being compiled; returns a descriptor of the note, to be kept open meanwhile.

    The note says that it was in vain if it is still there when this process has ended, or has closed the descriptor.
    Raises as `note_vain`.
    """
    return _note(cache, key, Vain(bounds, "whoever compiled it was killed", why=Why.BEGUN), public=False)


def forget_vain(cache: Path, key: Key) -> None:
    """Remove the note in `cache` on a module. Raises OSError."""
    with suppress(FileNotFoundError), _Place(cache / SUBDIRECTORY) as place:
        _remove(place, key.vain_name)


def _note(cache: Path, key: Key, vain: Vain, *, public: bool) -> int:
    _make_directory(cache / SUBDIRECTORY, 0o755 if public else 0o700)
    with _Place(cache / SUBDIRECTORY) as place:
        if place.complaint:
            raise WeftError(Problem.NOT_PERMITTED, place.complaint)
        # A reason that is too long gives way to what comes behind it.
        reason = vain.reason.encode(errors="replace")[: _RECORD_MAX // 2]
        fd = place.write(
            key.vain_name,
            b"%b\n%b\n%b\n" % (str(vain.bounds).encode(), reason, vain.why.encode()),
            public=public,
        )
        try:
            _make_room(place, 0, limits.CODE_CACHE)
        except BaseException:
            os.close(fd)
            raise
        return fd


def put(cache: Path, name: str, data: bytes) -> None:
    """Put a small file into `cache` that is not code. Where nothing can be written safely, nothing is."""
    with suppress(OSError):
        _make_directory(cache / SUBDIRECTORY, 0o700)
        with _Place(cache / SUBDIRECTORY) as place:
            if place.complaint is None:
                os.close(place.write(name, data, public=False))
                _make_room(place, 0, limits.CODE_CACHE)


def forget(cache: Path, module: bytes) -> None:
    """Remove the code of the module with this digest, for whichever engine it was made. Raises OSError."""
    suffix = (f"-{module.hex()}{ENTRY_SUFFIX}", f"-{module.hex()}{VAIN_SUFFIX}")
    with suppress(FileNotFoundError), _Place(cache / SUBDIRECTORY) as place, os.scandir(place.fd) as found:
        for file in found:
            if file.name.endswith(suffix):
                _remove(place, file.name)


def prune(cache: Path, limit: Limit = limits.CODE_CACHE) -> None:
    """Remove the oldest entries beyond the limit, and what a crash has left. Raises OSError."""
    with suppress(FileNotFoundError), _Place(cache / SUBDIRECTORY) as place:
        _make_room(place, 0, limit)


class _Candidate:
    """A file under the name of an entry, and what its status says against it."""

    def __init__(self, path: str, fd: int, complaint: str | None) -> None:
        self.path = path
        self.fd = fd
        self.complaint = complaint
        self.identity = Identity.of(os.fstat(fd)) if fd >= 0 else Identity(0, 0, 0, 0, 0)

    def take(self) -> int:
        """The descriptor, which is the caller's from now on."""
        fd, self.fd = self.fd, -1
        return fd

    def __enter__(self) -> "_Candidate":
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Place:
    """An open directory of entries and records, and what there is against believing anything in it."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self.directory = directory
        self._owners = {0, os.geteuid()}
        self.fd = os.open(directory, _READ | os.O_DIRECTORY)
        try:
            self.complaint = self._unsafe()
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> "_Place":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def path(self, name: str) -> str:
        """That of a file in it, for messages."""
        return printable(os.fspath(self.directory / name))

    def candidate(self, name: str) -> _Candidate | None:
        """The file of that name; None if there is none."""
        path = self.path(name)
        try:
            fd = os.open(name, _READ_FILE, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            try:
                is_link = stat.S_ISLNK(os.lstat(name, dir_fd=self.fd).st_mode)
            except OSError:
                return None
            return _Candidate(
                path, -1, "is a symbolic link" if is_link else f"cannot be opened: {error.strerror}"
            )
        complaint = f"is not safe: {self.complaint}" if self.complaint else self._unsafe_file(fd)
        return _Candidate(path, fd, complaint)

    def write(self, name: str, source: int | bytes, *, public: bool) -> int:
        """Put a file with the content of a descriptor, or these bytes, in place of whatever has the name.

        Returns a descriptor of it. Raises OSError.
        """
        temporary, fd = self._create()
        try:
            if isinstance(source, int):
                copy(source, fd)
                os.fsync(fd)
            else:
                os.write(fd, source)
            if public:
                os.fchmod(fd, 0o644)
            os.rename(temporary, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            if isinstance(source, int):
                os.fsync(self.fd)
        except BaseException:
            os.close(fd)
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self.fd)
            raise
        return fd

    def _create(self) -> tuple[str, int]:
        """A new file under a name that nobody looks for. Raises OSError.

        As long as it is locked somebody is writing it; the lock of a writer that was killed is gone.
        """
        import fcntl  # noqa: PLC0415 - not needed where everything is there

        while True:
            name = f".{os.urandom(8).hex()}"
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return name, fd
            # Before it was locked another writer has taken it for one that was left, and removed it.
            os.close(fd)

    def read_record(self, name: str) -> bytes | str | None:
        """The content of a record, or what is wrong with it; None if there is none, or its place is not believed."""
        if self.complaint or (file := self.candidate(name)) is None:
            return None
        with file:
            return file.complaint or os.pread(file.fd, _RECORD_MAX, 0)

    def _unsafe(self) -> str | None:
        status = os.fstat(self.fd)
        # Through all links, as it is: what was opened, and not what has the name by now.
        real = os.fspath(Path(f"/proc/self/fd/{self.fd}").readlink())
        complaint = unsafe(status, *self._owners, is_directory=True)
        return f"'{printable(real)}' {complaint}" if complaint else unsafe_above(real, *self._owners)

    def _unsafe_file(self, fd: int) -> str | None:
        status = os.fstat(fd)
        if complaint := unsafe(status, *self._owners):
            return complaint
        # Under another name it may be in a directory of somebody else's.
        return f"has {status.st_nlink} names" if status.st_nlink != 1 else None


class _Trailer(NamedTuple):
    key: Key
    digest: bytes
    """Of all before it."""
    end: int
    """Where that ends."""


class _Record(NamedTuple):
    module: bytes
    """The digest of the module."""
    code: Identity
    """The state of the entry that was read whole."""

    def encode(self) -> bytes:
        text = " ".join([self.module.hex(), *map(str, self.code)]).encode()
        return b"%s %08x\n" % (text, crc32(text))

    @classmethod
    def decode(cls, data: bytes) -> "_Record":
        """Raises ValueError."""
        text, _, check = data.rpartition(b" ")
        if check != b"%08x\n" % crc32(text):
            raise ValueError
        module, *numbers = text.decode().split(" ")
        device, inode, size, modified, changed = map(int, numbers)
        return cls(bytes.fromhex(module), Identity(device, inode, size, modified, changed))


def _engine_name(engine: bytes) -> str:
    return engine.hex()[:_ENGINE_DIGITS]


def _record_name(engine: bytes, module: Identity) -> str:
    return f"{_engine_name(engine)}-{'-'.join(f'{number:x}' for number in module)}{RECORD_SUFFIX}"


def _recall(places: list[_Place], engine: bytes, module: Identity) -> tuple[list[_Record], list[str]]:
    """What is known of a module's file, and which records must not be believed."""
    records: list[_Record] = []
    complaints: list[str] = []
    name = _record_name(engine, module)
    for place in places:
        try:
            match place.read_record(name):
                case bytes(data):
                    records.append(_Record.decode(data))
                case str(complaint):
                    complaints.append(f"{place.path(name)} {complaint}")
        except OSError as error:
            complaints.append(f"{place.path(name)} cannot be read: {error.strerror}")
        except ValueError:
            complaints.append(f"{place.path(name)} is not as it was written")
    return records, complaints


def _remember(
    cache: Path, key: Key, module: Identity, code: Identity, *, wait: bool = False, public: bool = False
) -> None:
    """Spare the next launch from reading what has just been read. Where nothing can be written, nothing is."""
    left = max(module.settled_at, code.settled_at) - time.time_ns()
    if left > 0:
        if not wait or left > SETTLED_NS:
            return
        time.sleep(left / 1e9)
    try:
        _make_directory(cache / SUBDIRECTORY, 0o755 if public else 0o700)
        with _Place(cache / SUBDIRECTORY) as place:
            if place.complaint:
                return
            # Not worth an fsync: what a crash leaves of it is told by its checksum.
            os.close(
                place.write(
                    _record_name(key.engine, module), _Record(key.module, code).encode(), public=public
                )
            )
            _make_room(place, 0, limits.CODE_CACHE)
    except OSError:
        return


def _read_trailer(fd: int) -> _Trailer | None:
    size = os.fstat(fd).st_size
    data = os.pread(fd, TRAILER_BYTES, max(0, size - TRAILER_BYTES))
    # An entry of no code at all is none.
    if size <= TRAILER_BYTES or len(data) != TRAILER_BYTES or not data.startswith(MAGIC):
        return None
    module, engine, sealed = (
        data[at : at + DIGEST_BYTES] for at in range(len(MAGIC), len(data), DIGEST_BYTES)
    )
    return _Trailer(Key(engine, module), sealed, size - DIGEST_BYTES)


def _complaint(fd: int, key: Key, *, is_known: bool) -> str | None:
    """As `complaint`; what `is_known` has been read whole before. An error of reading is a complaint as well."""
    try:
        found = _read_trailer(fd)
        if found is None:
            return "is truncated, or no compiled code"
        if found.key.module != key.module:
            return "is the code of another module"
        if found.key.engine != key.engine:
            return "was made for another engine"
        if not is_known and _digest(fd, found.end) != found.digest:
            return "is not as it was written"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _digest(fd: int, end: int) -> bytes:
    """The SHA-256 of the first `end` bytes. Raises OSError."""
    from hashlib import sha256  # noqa: PLC0415 - as above

    digest, at = sha256(), 0
    while at < end and (data := os.pread(fd, min(_CHUNK, end - at), at)):
        digest.update(data)
        at += len(data)
    return digest.digest()


def copy(source: int, target: int) -> None:
    """Copy a file from its beginning to where another one stands. Raises OSError."""
    at = 0
    while count := os.sendfile(target, source, at, _CHUNK):
        at += count


def _make_directory(path: Path, mode: int) -> None:
    """Make a directory and those above it that are not there, whatever the umask. Raises OSError."""
    try:
        path.mkdir()
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_directory(path.parent, mode)
        with suppress(FileExistsError):
            path.mkdir()
    path.chmod(mode)


def _make_room(place: _Place, size: int, limit: Limit, besides: str = "") -> None:
    """Remove the entries that were not used for longest until one of `size` bytes fits in, and what writers that
    are gone have left. The entry `besides` is about to be replaced. Raises OSError."""
    entries, records = [], []
    with os.scandir(place.fd) as found:
        for file in found:
            try:
                status = file.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if file.name.startswith("."):
                _remove_if_left(place, file.name)
            elif file.name.endswith((RECORD_SUFFIX, VAIN_SUFFIX, PLAN_SUFFIX)):
                records.append((status.st_mtime_ns, file.name))
            elif file.name.endswith(ENTRY_SUFFIX) and file.name != besides:
                # Being mapped counts as being read. Where the time of that is not kept, the oldest goes first.
                used = max(status.st_atime_ns, status.st_mtime_ns)
                entries.append((used, file.name, status.st_size))
    surplus = sum(entry[2] for entry in entries) + size - limit.value
    for _, name, freed in sorted(entries):
        if surplus <= 0:
            break
        _remove(place, name)
        surplus -= freed
    for _, name in sorted(records)[: max(0, len(records) - RECORDS_MAX)]:
        _remove(place, name)


def _remove_if_left(place: _Place, name: str) -> None:
    """Remove a file that nobody is writing any more."""
    import fcntl  # noqa: PLC0415 - as above

    try:
        fd = os.open(name, _READ_FILE, dir_fd=place.fd)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(place, name)
    except OSError:
        return  # it is being written
    finally:
        os.close(fd)


def _is_held(place: _Place, name: str) -> bool:
    """Whether somebody who lives has the file locked since it was made, or had it until a moment ago. Raises OSError."""
    import fcntl  # noqa: PLC0415 - as above

    fd = os.open(name, _READ_FILE, dir_fd=place.fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Whoever ends in good order removes the file first, and then its lock is gone.
        return os.fstat(fd).st_nlink == 0
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def _remove(place: _Place, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place.fd)
