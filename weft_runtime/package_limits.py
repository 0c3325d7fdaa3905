# SPDX-License-Identifier: Apache-2.0
"""Every bound on a package and its archive, with its reason; docs/packaging.md shows them all."""

from weft_runtime.limits import GIB, KIB, MIB, Limit

ENTRIES = Limit(
    10_000, "entries", "files, directories and links of a package",
    "ten times what a large app with its pages and pictures has; each costs an inode and a sync",
)  # fmt: skip
BYTES = Limit(
    1 * GIB, "bytes", "all files of a package together",
    "twice the largest module; an archive of a few KiB can unpack to any size",
)  # fmt: skip
DEPTH = Limit(
    32, "directories", "directories inside each other",
    "no tree made by people is as deep, and whoever walks it keeps them all open",
)  # fmt: skip
PATH = Limit(
    1024, "bytes", "a path inside a package",
    "the store's own path comes before it, and Linux takes 4096 bytes in all",
)  # fmt: skip
NAME = Limit(
    255, "bytes", "a name in a path inside a package",
    "the file systems of Linux take no longer one",
)  # fmt: skip
TARGET = Limit(
    4095, "bytes", "the target of a link",
    "Linux takes no longer one; those of real packages are paths inside of them",
)  # fmt: skip
HEADER = Limit(
    16 * KIB, "bytes", "an extended header of an archive",
    "it holds a path and a link's target; it is read into memory as a whole",
)  # fmt: skip
HEADERS = Limit(
    40 * MIB, "bytes", "all headers of an archive together",
    "four KiB for each entry: a path and a link's target of the longest kind",
)  # fmt: skip
RECORDS = Limit(
    100, "records", "records of an extended header",
    "those of pax(1), and the attributes that tar(1) adds when it is told to, are some dozens",
)  # fmt: skip
MEMBERS = Limit(
    20_000, "members", "members of an archive",
    "tar(1) names a directory again when it appends: twice the entries of a package",
)  # fmt: skip
SURPLUS = Limit(
    MIB, "bytes", "what an archive has more than it unpacks to",
    "a few bytes for each frame, and what is read ahead; frames to skip can be of any length",
)  # fmt: skip
WINDOW = Limit(
    8 * MIB, "bytes", "the window of the compression",
    "memory that unpacking takes; RFC 8878 asks each decoder for as much, zstd(1) uses more only when told to",
)  # fmt: skip
KEY_FILE = Limit(
    KIB, "bytes", "a file of a key or a signature",
    "they have 64 and 128 characters, and perhaps white space around",
)  # fmt: skip

ALL = (
    ENTRIES,
    BYTES,
    DEPTH,
    PATH,
    NAME,
    TARGET,
    HEADER,
    HEADERS,
    RECORDS,
    MEMBERS,
    SURPLUS,
    WINDOW,
    KEY_FILE,
)
