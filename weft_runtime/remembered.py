# SPDX-License-Identifier: Apache-2.0
"""A plan that a run without a supervisor has left for the next one like it, beside the compiled code.

Whoever can write there can have any code run anyhow. Nothing is imported here but what every interpreter has loaded, as a
cold start that finds a plan needs nothing else.
"""

import os
from binascii import crc32

from weft_runtime import __version__
from weft_runtime.integrity import Identity, unsafe, unsafe_above
from weft_runtime.plan import Plan
from weft_runtime.sources import Code, Sources

SUBDIRECTORY = "code"
"""Of a cache directory, as in code_cache.py."""

_MAGIC = b"weft-remembered 1"
_SIZE_MAX = 512 * 1024
"""Bytes of a file: a plan, and all the sources that it may have with paths of some length."""

_VARIABLES = ("CACHE_DIRECTORY", "HOME", "STATE_DIRECTORY", "WEFT_APP_STORE", "XDG_CACHE_HOME")
"""Of the environment: what a decision goes by."""

_UNUSUAL = (
    "WEFT_APP_DIR",
    "WEFT_ENGINE",
    "WEFT_LOG_LEVEL",
    "WEFT_REPORT_FD",
    "WEFT_SD_NOTIFY",
    "WEFT_SUPERVISED",
)
"""With one of these a run is not of the usual kind."""

_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.")
_SESSION_DIGITS_MAX = 18

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Wanted:
    """A command line and an environment of the usual kind, for which a plan may be remembered."""

    __slots__ = ("_key", "app_id", "cache", "is_notifying", "session_id")

    def __init__(
        self, app_id: str, session_id: str | None, cache: str, key: bytes, *, is_notifying: bool
    ) -> None:
        self.app_id = app_id
        self.session_id = session_id
        """None for a service."""
        self.cache = cache
        """The caller's own directory for what can be made again."""
        self.is_notifying = is_notifying
        """Whether the service manager is told."""
        self._key = key

    @property
    def file_name(self) -> str:
        return f"{'service' if self.session_id is None else 'session'}-{self.app_id}.plan"

    def recall(self) -> "Remembered | None":
        """What is remembered for it, if that may be believed and would be the same if it were decided again."""
        directory = f"{self.cache}/{SUBDIRECTORY}"
        try:
            data = _read(directory, self.file_name)
            return None if data is None else Remembered.decode(data, self._key)
        except (OSError, ValueError):
            return None


class Remembered:
    """A plan with all that is needed to follow it."""

    __slots__ = ("code", "notice", "plan", "sources")

    def __init__(self, plan: Plan, code: Code, notice: bytes, sources: Sources) -> None:
        self.plan = plan
        self.code = code
        self.notice = notice
        """What is to be said of the app's capabilities; may be empty."""
        self.sources = sources

    def encode(self, wanted: Wanted) -> bytes:
        """As a file for runs of the kind `wanted`. Raises ValueError where the plan has no encoding."""
        state = b" ".join([b"%d" % number for number in self.code.identity])
        code = b"%b\0%b\0%b" % (self.code.path, state, self.notice)
        parts = (wanted._key, code, self.plan.encode(), self.sources.encode())
        body = b"".join(parts)
        sizes = b" ".join([b"%d" % len(part) for part in parts])
        return b"%b %b %08x\n%b" % (_MAGIC, sizes, crc32(body), body)

    @classmethod
    def decode(cls, data: bytes, key: bytes) -> "Remembered":
        """What was encoded for `key`, as long as all that it was made of is as it was. Raises ValueError for all else."""
        head, _, body = data.partition(b"\n")
        if not head.startswith(_MAGIC + b" "):
            raise ValueError("it is no plan that is remembered")
        *numbers, check = head[len(_MAGIC) + 1 :].split(b" ")
        sizes = [int(number) for number in numbers]
        if b"%08x" % crc32(body) != check or sum(sizes) != len(body):
            raise ValueError("it is not as it was written")
        key_size, code_size, plan_size, _ = sizes
        if body[:key_size] != key:
            raise ValueError("it is for another environment")
        at = key_size + code_size
        sources = Sources.decode(body[at + plan_size :])
        if not sources.are_unchanged():
            raise ValueError("something has changed")
        path, state, notice = body[key_size:at].split(b"\0")
        device, inode, size, modified, changed = map(int, state.split(b" "))
        plan = Plan.decode(body[at : at + plan_size])
        return cls(plan, Code(path, Identity(device, inode, size, modified, changed)), notice, sources)


def wanted(argv: "Sequence[str]", environ: "Mapping[str, str]") -> Wanted | None:
    """What is wanted by a command line without the program, and an environment; None where that is not of the usual kind."""
    words, is_service, is_notifying = [], False, False
    for word in argv:
        if word == "--service":
            is_service = True
        elif word == "--sd-notify":
            is_notifying = True
        else:
            words.append(word)
    values = [environ.get(name) for name in _VARIABLES]
    if len(words) != (1 if is_service else 2) or any(name in environ for name in _UNUSUAL):
        return None
    app_id, session_id = words[0], None if is_service else words[1]
    if not app_id or app_id[0] == "." or not _ID_CHARACTERS.issuperset(app_id):
        return None
    if session_id is not None and not _is_number(session_id):
        return None
    cache = cache_directory(environ)
    if (
        cache is None
        or not cache.startswith("/")
        or not all(value is None or value.isascii() for value in values)
    ):
        return None
    key = "\0".join(
        [__version__, app_id, str(is_service), str(is_notifying), str(os.geteuid())]
        + ["" if value is None else f"={value}" for value in values]
    )
    return Wanted(app_id, session_id, cache, key.encode(), is_notifying=is_notifying)


def cache_directory(environ: "Mapping[str, str]") -> str | None:
    """The caller's own directory for what can be made again: systemd's, or that of the user's home."""
    if given := (environ.get("CACHE_DIRECTORY") or "").partition(":")[0]:
        return given
    cache, home = environ.get("XDG_CACHE_HOME"), environ.get("HOME")
    if cache:
        return f"{cache}/weft"
    return f"{home}/.cache/weft" if home else None


def _is_number(text: str) -> bool:
    """Whether that is how a session is written in the log."""
    is_plain = text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")
    return is_plain and len(text) <= _SESSION_DIGITS_MAX


def _read(directory: str, name: str) -> bytes | None:
    """The file of that name, if nobody but root and this user could have written it. Raises OSError."""
    owners = 0, os.geteuid()
    place = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        if unsafe(os.fstat(place), *owners, is_directory=True):
            return None
        if unsafe_above(os.readlink(f"/proc/self/fd/{place}"), *owners):  # noqa: PTH115 - without pathlib
            return None
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        fd = os.open(name, flags, dir_fd=place)
    finally:
        os.close(place)
    try:
        status = os.fstat(fd)
        if unsafe(status, *owners) or status.st_nlink != 1 or status.st_size > _SIZE_MAX:
            return None
        return os.read(fd, _SIZE_MAX)
    finally:
        os.close(fd)
