# SPDX-License-Identifier: Apache-2.0
"""`weft-pack generate-key`, `sign` and `verify`."""

import os
import secrets
import stat
from pathlib import Path

from weft_runtime import signature, tree, trust
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import quote
from weft_runtime.pack.files import write_new
from weft_runtime.pack.screen import Screen
from weft_runtime.trust import Places

PRIVATE_NAME = "weft-sign.key"
PUBLIC_NAME = "weft-sign.pub"


def generate_key(screen: Screen, directory: Path) -> int:
    """Make a pair of keys; neither file may be there. Raises WeftError."""
    private, public = directory / PRIVATE_NAME, directory / PUBLIC_NAME
    for path in (private, public):
        if os.path.lexists(path):
            raise WeftError(
                Problem.OS_ERROR, f"{quote(str(path))} is there already", "keep it, or move it away"
            )
    seed = secrets.token_bytes(signature.KEY_BYTES)
    key = signature.public_key(seed)
    # The private one first: a public key that nobody can sign with might get trusted.
    write_new(private, seed.hex().encode(), mode=0o600)
    write_new(public, key.hex().encode(), mode=0o644)
    screen.line(str(private))
    screen.line(str(public))
    return 0


def sign(screen: Screen, directory: Path, key_file: Path) -> int:
    """Write `signature.sig`, in place of one that is there. Raises WeftError."""
    seed = _read_private(key_file)
    path, temporary = directory / tree.SIGNATURE, directory / f".{tree.SIGNATURE}.new"
    # A rest of a run that was ended would be signed with the package.
    temporary.unlink(missing_ok=True)
    with screen.progress(f"reading {directory}"):
        content = signature.read(directory)
    write_new(temporary, signature.sign(content.digest, seed).hex().encode(), mode=0o644)
    try:
        temporary.replace(path)
    except OSError as error:
        temporary.unlink()
        raise from_os_error(f"write {quote(str(path))}", error) from None
    screen.line(f"signed: {path}")
    return 0


def verify(screen: Screen, directory: Path, key_file: Path, places: Places | None = None) -> int:
    """Say whether the signature is that of the key, and that is not revoked here.

    Raises WeftError where there is none to verify, or where it cannot be known which keys are revoked.
    """
    key = signature.read_public_key(_open_key(key_file, "public"), str(key_file))
    revoked = trust.revoked_keys(places or Places()).get(key)
    if revoked is not None:
        raise WeftError(
            Problem.NOT_TRUSTED, f"the key in {quote(str(key_file))} is revoked, by {quote(revoked)}"
        )
    found = signature.read_signature(directory)
    if found is None:
        raise WeftError(
            Problem.NOT_TRUSTED, f"{quote(str(directory))} is not signed: it has no {tree.SIGNATURE}"
        )
    with screen.progress(f"reading {directory}"):
        content = signature.read(directory)
    if signature.is_valid(found, content.digest, key):
        screen.line("OK")
        return 0
    screen.problem("INVALID signature")
    return 1


def _read_private(path: Path) -> bytes:
    try:
        status = path.stat()
    except OSError as error:
        raise from_os_error(f"read the private key {quote(str(path))}", error) from None
    # A pipe, as from a password manager, is nobody else's.
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        message = f"others can read the private key {quote(str(path))}"
        raise WeftError(Problem.NOT_PERMITTED, message, f"chmod 600 {path}")
    fd = _open_key(path, "private")
    return signature.read_hex(fd, str(path), signature.KEY_BYTES, Problem.CONFIG_INVALID)


def _open_key(path: Path, what: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise from_os_error(f"read the {what} key {quote(str(path))}", error) from None
