# SPDX-License-Identifier: Apache-2.0
"""Every bound on what an app may cost before and while it runs, with its reason."""

from typing import NamedTuple

from weft_runtime.errors import Problem, WeftError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class Limit(NamedTuple):
    """One bound, as its error message and weft-runtime(1) show it, and why it is what it is."""

    value: int
    unit: str
    what: str
    reason: str


MANIFEST = Limit(
    64 * KIB, "bytes", "wapp.toml",
    "twenty pages of text; the TOML parser takes a microsecond a byte, and holds many times its size in memory",
)  # fmt: skip
NAME = Limit(
    256, "characters", "the name or the version of an app",
    "every list of installed apps has them all; a name has 64 characters by the rule, a version a dozen",
)  # fmt: skip
MODULE = Limit(
    512 * MIB, "bytes", "the module file",
    "larger than any real module, smaller than what a small device would choke on",
)  # fmt: skip
ARGUMENTS = Limit(
    32 * KIB, "bytes", "arguments and environment together",
    "half of what a manifest may have; a guest copies it into its own memory",
)  # fmt: skip
COMPILE_SECONDS = Limit(
    25, "seconds", "compile time",
    "a supervisor waits 30 s for READY: give up a little earlier, so that the log has the reason",
)  # fmt: skip
COMPILE_AHEAD_SECONDS = Limit(
    300, "seconds", "compile time ahead of a launch",
    "nobody waits for READY when an app is installed; the largest of the usual modules take a minute of a small CPU",
)  # fmt: skip
COMPILE_MEMORY = Limit(
    2 * GIB, "bytes", "compile memory",
    "ten times what an 18 MB module needs; a 4 MB module made for it asks for over 4 GiB",
)  # fmt: skip
CODE_CACHE = Limit(
    1 * GIB, "bytes", "compiled code in a cache",
    "the code of some hundred usual apps; it can always be made again, so it must not fill the storage",
)  # fmt: skip
MEMORY = Limit(
    1 * GIB, "bytes", "one guest memory",
    "a memory cgroup is the real bound; this one holds where there is none",
)  # fmt: skip
MEMORIES = Limit(
    4, "memories", "memories of a guest",
    "the engine bounds each memory, not their sum; toolchains make one",
)  # fmt: skip
TABLE_ELEMENTS = Limit(
    1_000_000, "elements", "one guest table",
    "a table costs 8 bytes an element outside of any memory limit; large programs have 100,000",
)  # fmt: skip
TABLES = Limit(
    16, "tables", "tables of a guest",
    "the engine bounds each table, not their sum; toolchains make one or two",
)  # fmt: skip
STACK = Limit(
    1 * MIB, "bytes at least", "the stack (ulimit -s)",
    "the engine gives a guest half of that and cannot tell that the stack below it is smaller: SIGSEGV",
)  # fmt: skip

ALL = (
    MANIFEST, NAME, MODULE, ARGUMENTS, COMPILE_SECONDS, COMPILE_AHEAD_SECONDS, COMPILE_MEMORY, CODE_CACHE,
    MEMORY, MEMORIES, TABLE_ELEMENTS, TABLES, STACK,
)  # fmt: skip


def exceeded(limit: Limit, found: str) -> WeftError:
    """The error for a breach of `limit`; `found` says who broke it and by how much."""
    return WeftError(
        Problem.LIMIT_EXCEEDED, f"{found}; the limit for {limit.what} is {limit.value} {limit.unit}"
    )
