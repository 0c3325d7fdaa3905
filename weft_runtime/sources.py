# SPDX-License-Identifier: Apache-2.0
"""The sources of a decision: files and directories by whose state one can tell whether it would be the same again.

Nothing is imported here but what every interpreter has loaded: a cold start asks for the sources before anything else.
"""

import os
import time

from weft_runtime.integrity import Identity, settled_at

SOURCES_MAX = 256
"""Sources of one decision, for which all others of a daemon wait: to look at so many takes 0.4 ms, and to decide by them,
where all of a package counts, 8 ms."""

FILE = b"file"
"""What a path leads to, through links: its content and who may do what with it; or that nothing is there."""
NAME = b"name"
"""What has the path itself, be it a link: the same."""
PLACE = b"place"
"""A directory that a path leads to: which one it is, and who may do what with it. What is in it comes and goes."""
STEP = b"step"
"""A directory that is no link: the same."""
WRITABLE = b"writable"
"""A place, and whether this process may write there: that depends on the file system too."""

Source = tuple[bytes, bytes]
"""A kind and a path."""

State = tuple[int, ...]

_KINDS = (FILE, NAME, PLACE, STEP, WRITABLE)
_FULL = 8
_CHANGED = 4


class Sources:
    """Some sources, in the state in which they were at one moment."""

    __slots__ = ("_begun", "_states", "names")

    def __init__(self, names: tuple[Source, ...], states: tuple[State, ...] | None = None) -> None:
        """Look at them, or take the `states` that they had."""
        self.names = names
        self._begun = time.time_ns()
        self._states = tuple(map(_state, names)) if states is None else states

    @property
    def are_settled(self) -> bool:
        """Whether a change since then would show: what was changed shortly before may be changed again without a trace."""
        return all(
            settled_at(state[_CHANGED]) <= self._begun for state in self._states if len(state) == _FULL
        )

    def are_unchanged(self) -> bool:
        """Whether all are as they were."""
        return tuple(map(_state, self.names)) == self._states

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sources) and (self.names, self._states) == (other.names, other._states)

    def __hash__(self) -> int:
        return hash((self.names, self._states))

    def encode(self) -> bytes:
        """All of it as bytes: each source is its kind, its path and its state, and ends with a line feed after a NUL."""
        return b"".join(
            b"%b\0%b\0%b\0\n" % (kind, path, b" ".join(b"%d" % number for number in state))
            for (kind, path), state in zip(self.names, self._states, strict=True)
        )

    @classmethod
    def decode(cls, data: bytes) -> "Sources":
        """What was encoded. Raises ValueError for anything else."""
        names, states = [], []
        for line in data.split(b"\0\n")[:-1]:
            kind, path, numbers = line.split(b"\0")
            state = tuple(map(int, numbers.split()))
            if kind not in _KINDS or not path.startswith(b"/"):
                raise ValueError("it is no source")
            names.append((kind, path))
            states.append(state)
        found = cls(tuple(names), tuple(states))
        if len(names) > SOURCES_MAX or found.encode() != data:
            raise ValueError("it is not what was written")
        return found


class Code:
    """A file of compiled code that was judged."""

    __slots__ = ("identity", "path")

    def __init__(self, path: bytes, identity: Identity) -> None:
        self.path = path
        """Without a link in it."""
        self.identity = identity

    def open(self) -> int | None:
        """A descriptor of that file; None where it is another one by now."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        try:
            fd = os.open(self.path, flags)
        except OSError:
            return None
        if Identity.of(os.fstat(fd)) == self.identity:
            return fd
        os.close(fd)
        return None


def _state(source: Source) -> State:
    kind, path = source
    try:
        status = os.lstat(path) if kind in (NAME, STEP) else os.stat(path)
    except OSError as error:
        return (error.errno or -1,)
    if kind in (PLACE, STEP, WRITABLE):
        place = status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid
        if kind != WRITABLE:
            return place
        return *place, int(os.access(path, os.W_OK | os.X_OK, effective_ids=True))
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
        status.st_mode, status.st_uid, status.st_gid,
    )  # fmt: skip
