# SPDX-License-Identifier: Apache-2.0
"""What a file's status tells of its content: whether it is what it was, and who could have changed it."""

import os
import stat

from weft_runtime.escape import printable

SETTLED_NS = 20_000_000
"""A file that was changed so shortly before it was read could be changed again without a trace: the kernel's
clock for files ticks every 10 ms at the slowest."""

_COARSE_NS = 2_000_000_000
"""The same where the file system itself keeps whole seconds, as ext4 with inodes of 128 bytes does, or every other one (FAT)."""

_SECOND_NS = 1_000_000_000


def settled_at(changed: int) -> int:
    """From when on a file that was last changed at `changed` cannot be changed without a trace; both in nanoseconds since the
    epoch."""
    return changed + (SETTLED_NS if changed % _SECOND_NS else _COARSE_NS)


# No NamedTuple: a cold start looks at files before anything else, and `typing` costs it more than all of that.
class Identity(tuple[int, int, int, int, int]):
    """What changes with a file's content, as long as nobody but the kernel sets the time of its change."""

    __slots__ = ()

    def __new__(cls, device: int, inode: int, size: int, modified: int, changed: int) -> "Identity":
        """`modified` and `changed` are nanoseconds since the epoch, `size` bytes."""
        return super().__new__(cls, (device, inode, size, modified, changed))

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def size(self) -> int:
        return self[2]

    @property
    def changed(self) -> int:
        return self[4]

    @property
    def settled_at(self) -> int:
        return settled_at(self[4])


def unsafe(status: os.stat_result, *owners: int, is_directory: bool = False) -> str | None:
    """What is wrong with a file that only `owners` may be able to write; completes "FILE ..."."""
    if stat.S_ISDIR(status.st_mode) is not is_directory or not (
        is_directory or stat.S_ISREG(status.st_mode)
    ):
        return f"is not a {'directory' if is_directory else 'regular file'}"
    if status.st_uid not in owners:
        return f"belongs to the user {status.st_uid}, not to {' or '.join(map(str, sorted({*owners})))}"
    if status.st_mode & 0o022:
        return f"can be written by others: its mode is {stat.S_IMODE(status.st_mode):o}"
    return None


def unsafe_above(path: str, *owners: int) -> str | None:
    """What is wrong with a directory above `path`, an absolute path without links: "'DIRECTORY' ...".

    In one that is sticky, such as /tmp, whoever owns what is in it keeps it. Raises OSError.
    """
    end = 0
    while (end := path.find("/", end)) >= 0:
        above = path[:end] or "/"
        status = os.lstat(above)
        complaint = unsafe(status, *owners, is_directory=True)
        # Nothing else can be wrong with one of the right owner.
        if complaint and not (status.st_uid in owners and status.st_mode & stat.S_ISVTX):
            return f"'{printable(above)}' {complaint}"
        end += 1
    return None
