# SPDX-License-Identifier: Apache-2.0
"""The signature of a package: Ed25519 over the digest of a text that names all its files."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from weft_runtime import limits, package_limits, paths, tree
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.integrity import Identity
from weft_runtime.tree import Kind, Tree

KEY_BYTES = 32
SIGNATURE_BYTES = 64
_READ_SIZE = 1024 * 1024

_FIELD = 2**255 - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER = {0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8}
"""The y of the eight points whose order divides the cofactor; a test computes them from the curve."""


class Content(NamedTuple):
    """What a signature covers, at the time when it was read."""

    text: bytes
    """The canonical text: path, TAB, SHA-256 in hex, line feed, for each file."""
    identities: dict[str, Identity]
    """Of every entry that is no directory, by path; of a directory nothing but its path counts."""

    @property
    def digest(self) -> bytes:
        """The message that is signed."""
        return hashlib.sha256(self.text).digest()

    def digest_of(self, path: str) -> bytes | None:
        """The SHA-256 of one file; None for a path that is spelled in another way than here."""
        start, end = b"\n" + paths.bytes_of(path) + b"\t", b"\n"
        _, found, rest = (b"\n" + self.text).partition(start)
        return bytes.fromhex(rest.partition(end)[0].decode()) if found else None


def read(directory: Path) -> Content:
    """Read a package's files. Raises WeftError as `tree.walk` and `Tree.files` do."""
    found = Tree()
    digests: dict[str, str] = {}
    identities: dict[str, Identity] = {}
    for entry, place in tree.walk(directory):
        found.add(entry)
        if entry.kind is Kind.FILE:
            fd = tree.open_file(place, entry.path)
            try:
                digests[entry.path] = _sha256(fd, entry)
                # After the last byte was read: a change before that shows in it.
                identities[entry.path] = Identity.of(os.fstat(fd))
            finally:
                os.close(fd)
        elif entry.kind is Kind.LINK:
            identities[entry.path] = Identity.of(place.status)
    lines = [f"{path}\t{digests[real]}\n" for path, real in found.files() if path != tree.SIGNATURE]
    return Content("".join(lines).encode(), identities)


def sign(digest: bytes, seed: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - 20 ms

    return Ed25519PrivateKey.from_private_bytes(seed).sign(digest)


def public_key(seed: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    raw, form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(raw, form)


def is_valid(signature: bytes, digest: bytes, key: bytes) -> bool:
    # OpenSSL compares R with its own, and refuses an S that is not below the group's order (RFC 8032, 5.1.7).
    if weakness(key) is not None or weakness(signature[:KEY_BYTES]) is not None:
        return False
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, digest)
    except (InvalidSignature, ValueError):  # some 32 bytes are no public key
        return False
    return True


def weakness(point: bytes) -> str | None:
    """Why 32 bytes may be no public key, and no first half of a signature; completes "FILE ...".

    A point of small order fits a signature that nobody with a private key has made. A point has one encoding (RFC
    8032, section 5.1.3): with a second one a revoked key would come back as another.
    """
    y = int.from_bytes(point, "little") & (2**255 - 1)
    if y >= _FIELD:
        return "is no Ed25519 key in its one form: its number is not below 2^255 - 19"
    if y in _SMALL_ORDER:
        return "is a key of small order, for which anybody can make a signature"
    return None


def read_public_key(fd: int, source: str) -> bytes:
    """The public key in a file, and close it. Raises WeftError(CONFIG_INVALID) for one that proves nothing."""
    key = read_hex(fd, source, KEY_BYTES, Problem.CONFIG_INVALID)
    if (complaint := weakness(key)) is not None:
        raise WeftError(Problem.CONFIG_INVALID, f"{printable(source)} {complaint}")
    return key


def read_signature(directory: Path) -> bytes | None:
    """What `signature.sig` holds, None where there is none. Raises WeftError(PACKAGE_INVALID) if it holds no signature."""
    path = directory / tree.SIGNATURE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(f"open {quote(str(path))}", error) from None
    return read_hex(fd, str(path), SIGNATURE_BYTES, Problem.PACKAGE_INVALID)


def read_hex(fd: int, source: str, size: int, problem: Problem) -> bytes:
    """The `size` bytes that a file has in hex, and close it. Raises WeftError(`problem`) if it has something else."""
    with open(fd, "rb") as file:
        try:
            data = file.read(package_limits.KEY_FILE.value + 1)
        except OSError as error:
            raise from_os_error(f"read {quote(source)}", error) from None
    if len(data) > package_limits.KEY_FILE.value:
        raise limits.exceeded(package_limits.KEY_FILE, f"{printable(source)} has more")
    try:
        text = data.decode().strip()
        # fromhex takes white space between the digits.
        value = bytes.fromhex(text) if len(text) == 2 * size else b""
    except ValueError:
        value = b""
    if len(value) != size:
        raise WeftError(problem, f"{printable(source)} does not hold {2 * size} hexadecimal digits")
    return value


def _sha256(fd: int, entry: tree.Entry) -> str:
    """Raises WeftError where the file is not of the size that was counted."""
    digest, size = hashlib.sha256(), 0
    try:
        while data := os.read(fd, _READ_SIZE):
            size += len(data)
            if size > entry.size:
                break
            digest.update(data)
    except OSError as error:
        raise from_os_error(f"read {quote(entry.path)}", error) from None
    if size != entry.size:
        raise tree.invalid(entry.path, "has changed while it was read")
    return digest.hexdigest()
