# SPDX-License-Identifier: Apache-2.0
"""Which packages are trusted: those signed by a key that root has put among the trusted ones."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from weft_runtime import paths, policy, signature, tree
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.integrity import SETTLED_NS, Identity, unsafe
from weft_runtime.policy import Policy
from weft_runtime.sources import FILE, NAME, SOURCES_MAX, Source
from weft_runtime.tree import Kind, Tree

KEY_SUFFIX = ".pub"

_RECORD_MAX = 200


class Places(NamedTuple):
    """Where root says what it trusts, and where it is remembered what has been verified."""

    config: Path = policy.CONFIG_FILE
    keys: Sequence[Path] = (Path("/etc/weft/trusted.d"), Path("/usr/share/weft/trusted.d"))
    """A file of one directory hides that of the same name in those after it."""
    records: Sequence[Path] = (Path("/var/cache/weft/system/verified"),)
    """The first one that can be written is; of each, only what is root's or the reader's own is believed."""
    owner: int = 0
    """Who may say what is trusted."""
    revoked: Path = Path("/etc/weft/revoked.d")
    """What is in a file here is trusted no more, under whatever name it is among the trusted keys."""


def places(own_cache: Path | None) -> Places:
    """The system's places, and a record of the caller's own besides."""
    system = Places()
    if own_cache is None:
        return system
    return system._replace(records=(*system.records, own_cache / "verified"))


class Keys(NamedTuple):
    by_value: Mapping[bytes, str]
    """The name of each trusted key, without its suffix."""
    complaints: tuple[str, ...]
    """Files that are none, which are passed over."""
    revoked: Mapping[bytes, str] = {}
    """The file of each revoked key; none of them is in `by_value`, whatever its name there."""


_NOT_VALID = "is not signed by a trusted key, or was changed after it was signed"
"""A signature does not say whose it is: only what was seen before can tell the two apart."""


class Verdict(NamedTuple):
    key: str | None
    """The name of the trusted key that has signed the package; None if none has."""
    reason: str
    """Why it is not trusted; completes "PACKAGE ..."."""


def trusted_keys(places: Places) -> Keys:
    """All keys that are trusted.

    Raises WeftError where a directory cannot be read, and CONFIG_INVALID for anything wrong with the revoked keys:
    whoever cannot know which these are trusts none.
    """
    revoked = revoked_keys(places)
    by_value: dict[bytes, str] = {}
    complaints = []
    seen: set[str] = set()
    for directory in places.keys:
        try:
            if complaint := unsafe(directory.stat(), places.owner, is_directory=True):
                complaints.append(f"{printable(str(directory))} {complaint}")
                continue
            names = sorted(path.name for path in directory.iterdir() if path.suffix == KEY_SUFFIX)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise from_os_error(f"read {quote(str(directory))}", error) from None
        for name in names:
            if name in seen:
                continue
            seen.add(name)
            try:
                key = read_key(directory / name, places.owner)
            except WeftError as error:
                complaints.append(error.message)
                continue
            if key is not None and key not in revoked:
                by_value.setdefault(key, name.removesuffix(KEY_SUFFIX))
    return Keys(by_value, tuple(complaints), revoked)


def revoked_keys(places: Places) -> dict[bytes, str]:
    """The file of each revoked key. Raises WeftError where one cannot be read, or is not root's alone to write."""
    directory = places.revoked
    found: dict[bytes, str] = {}
    try:
        status = directory.stat()
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        if os.path.lexists(directory):
            raise WeftError(
                Problem.CONFIG_INVALID, f"{printable(str(directory))} is a link to nothing"
            ) from None
        return found
    except OSError as error:
        raise from_os_error(f"read {quote(str(directory))}", error) from None
    if complaint := unsafe(status, places.owner, is_directory=True):
        raise WeftError(Problem.CONFIG_INVALID, f"{printable(str(directory))} {complaint}")
    for name in names:
        key = read_key(directory / name, places.owner, may_be_empty=False)
        assert key is not None
        found.setdefault(key, str(directory / name))
    return found


def judge(directory: Path, keys: Keys, content: signature.Content | None = None) -> Verdict:
    """Whether a trusted key has signed the package in `directory`. Raises WeftError where it cannot be read."""
    try:
        found = signature.read_signature(directory)
    except WeftError as error:
        if error.problem is not Problem.PACKAGE_INVALID:
            raise
        return Verdict(None, f"has no valid signature: {error.message}")
    if found is None:
        return Verdict(None, "is not signed")
    if not keys.by_value and not keys.revoked:
        return Verdict(None, "is signed, but no key is trusted here")
    digest = (content or signature.read(directory)).digest
    for key, name in keys.by_value.items():
        if signature.is_valid(found, digest, key):
            return Verdict(name, "")
    for key, name in keys.revoked.items():
        if signature.is_valid(found, digest, key):
            return Verdict(None, f"is signed by a key that is revoked, by {quote(name)}")
    if not keys.by_value:
        return Verdict(None, "is signed, but no key is trusted here")
    return Verdict(None, _NOT_VALID)


def demand(directory: Path, module_fd: int, module: str, places: Places) -> None:
    """Let a package pass that a trusted key has signed, and remember it.

    `module_fd` is what will run: it must be the file that was verified. Raises WeftError: NOT_TRUSTED, or CHANGED where it was
    signed by a trusted key when it was looked at before.
    """
    keys = trusted_keys(places)
    name = _record_name(directory)
    found, identities = _look(directory)
    known = _recall(places, name, _fingerprint(identities))
    if known is None or known not in keys.by_value:
        content = signature.read(directory)
        verdict = judge(directory, keys, content)
        if verdict.key is None:
            verified_by = keys.by_value.get(_verified_by(places, name) or b"")
            if verified_by is not None and verdict.reason == _NOT_VALID:
                reason = f"was changed after it was signed: the trusted key {quote(verified_by)} had signed what was here before"
                raise not_trusted(directory, reason, keys, Problem.CHANGED)
            raise not_trusted(directory, verdict.reason, keys)
        identities = content.identities
        remember(directory, content, verdict.key, keys, places)
    resolved = found.resolve(module)
    if resolved is None or identities.get(resolved.path) != Identity.of(os.fstat(module_fd)):
        raise not_trusted(directory, "was changed while it was started", keys, Problem.CHANGED)


def recall(directory: Path, module_fd: int, module: str, places: Places) -> list[Source] | None:
    """What the permission of `demand` depends on, where that goes by what is remembered; None for all else.

    Raises WeftError where something cannot be read.
    """
    if _is_large(directory):
        return None
    keys = trusted_keys(places)
    looked = _look(directory)
    known = _recall(places, _record_name(directory), _fingerprint(looked.identities))
    if known is None or known not in keys.by_value:
        return None
    resolved = looked.tree.resolve(module)
    if resolved is None or looked.identities.get(resolved.path) != Identity.of(os.fstat(module_fd)):
        return None
    base = os.fsencode(directory)
    names: list[Source] = [(FILE, base)]
    names += [(NAME, paths.below(directory, entry.path)) for entry in looked.tree.sorted()]
    for of_keys in (*places.keys, places.revoked):
        names += [(NAME, os.fsencode(of_keys)), (FILE, os.fsencode(of_keys))]
        try:
            names += [(FILE, os.fsencode(path)) for path in sorted(of_keys.iterdir())]
        except FileNotFoundError:
            continue
        except OSError as error:
            raise from_os_error(f"read {quote(str(of_keys))}", error) from None
    return names


class _Looked(NamedTuple):
    tree: Tree
    identities: dict[str, Identity]
    """Of all but directories."""


def _is_large(directory: Path) -> bool:
    """Whether a package has more entries than a decision may depend on, found out without looking at many more.

    Raises WeftError where it cannot be read.
    """
    count, directories = 0, [os.fspath(directory)]
    while directories:
        try:
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > SOURCES_MAX:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.path)
        except OSError as error:
            raise from_os_error(f"read {quote(str(directory))}", error) from None
    return False


def _look(directory: Path) -> _Looked:
    """The entries of a package. Raises WeftError as `tree.walk` and `Tree.add` do."""
    looked = _Looked(Tree(), {})
    for entry, place in tree.walk(directory):
        looked.tree.add(entry)
        if entry.kind is not Kind.DIRECTORY:
            looked.identities[entry.path] = Identity.of(place.status)
    return looked


def not_trusted(
    directory: Path, reason: str, keys: Keys, problem: Problem = Problem.NOT_TRUSTED
) -> WeftError:
    """The refusal, with what may be the cause where a file of a key is wrong."""
    hint = f"the policy in {policy.CONFIG_FILE} is '{Policy.REQUIRE}'"
    if keys.complaints:
        hint += f"; ignored: {'; '.join(keys.complaints)}"
    return WeftError(problem, f"{quote(str(directory))} {reason}", hint)


def remember(
    directory: Path,
    content: signature.Content,
    key_name: str,
    keys: Keys,
    places: Places,
    *,
    wait: bool = False,
) -> None:
    """Spare the next launch from reading all files of a package that has just been verified.

    With `wait` it waits until the files are old enough for that. Where nothing can be written, nothing is.
    """
    left = max((identity.settled_at for identity in content.identities.values()), default=0) - time.time_ns()
    if left > 0:
        if not wait or left > SETTLED_NS:
            return
        time.sleep(left / 1e9)
    key = next(value for value, name in keys.by_value.items() if name == key_name)
    record = f"{key.hex()} {_fingerprint(content.identities)}\n".encode()
    for records in places.records:
        if _write_record(records, _record_name(directory), record):
            return


def forget(directory: Path, places: Places) -> None:
    """Remove what is remembered of a package that is gone, as far as that is allowed."""
    for records in places.records:
        try:
            (records / _record_name(directory)).unlink()
        except OSError:
            continue


def _make_readable(directory: Path) -> None:
    """Make a directory if it is not there, for everybody to read whatever the umask. Raises OSError."""
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        return
    directory.chmod(0o755)


def _write_record(records: Path, name: str, record: bytes) -> bool:
    """Whether it could be written; a launch goes on without."""
    temporary = records / f".{secrets.token_hex(8)}"
    try:
        _make_readable(records)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError:
        return False
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(record)
        temporary.replace(records / name)
    except OSError:
        temporary.unlink(missing_ok=True)
        return False
    return True


def _recall(places: Places, name: str, fingerprint: str) -> bytes | None:
    """The key by which exactly these files were verified before, if that is remembered."""
    return next((key for key, seen in _records(places, name) if seen == fingerprint), None)


def _verified_by(places: Places, name: str) -> bytes | None:
    """The key by which whatever files were verified before in the place of these, if that is remembered."""
    return next((key for key, _ in _records(places, name)), None)


def _records(places: Places, name: str) -> Iterator[tuple[bytes, str]]:
    """What is remembered of a package: the key, and the fingerprint of the files."""
    for records in places.records:
        try:
            fd = os.open(records / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            continue
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if unsafe(status, places.owner, os.geteuid()):
                continue
            key, _, seen = file.read(_RECORD_MAX).decode(errors="replace").strip().partition(" ")
        try:
            yield bytes.fromhex(key), seen
        except ValueError:
            continue


def _fingerprint(identities: Mapping[str, Identity]) -> str:
    """A name for the state that files are in; directories count as far as something is in them, as when signing."""
    lines = (f"{path}\t{' '.join(map(str, identity))}\n" for path, identity in sorted(identities.items()))
    return hashlib.sha256(paths.bytes_of("".join(lines))).hexdigest()


def _record_name(directory: Path) -> str:
    return hashlib.sha256(os.path.realpath(os.fsencode(directory))).hexdigest()


def read_key(path: Path, owner: int, *, may_be_empty: bool = True) -> bytes | None:
    """The key in a file; None in an empty one, which hides another. Raises WeftError(CONFIG_INVALID)."""
    try:
        # Links are followed: /dev/null hides a key, as it masks a unit.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise from_os_error(f"read {quote(str(path))}", error) from None
    status = os.fstat(fd)
    is_null = os.path.samestat(status, os.stat(os.devnull))
    if may_be_empty and (is_null or (status.st_size == 0 and not unsafe(status, owner))):
        os.close(fd)
        return None
    if complaint := unsafe(status, owner):
        os.close(fd)
        raise WeftError(Problem.CONFIG_INVALID, f"{printable(str(path))} {complaint}")
    return signature.read_public_key(fd, str(path))
