# SPDX-License-Identifier: Apache-2.0
"""Every bound on what an app may cost before and while it runs, with its reason."""

from typing import NamedTuple, Self

from weft_runtime.errors import Problem, WeftError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

NUMBER_MAX = 2**53 - 1
"""The largest number of a session: JSON's numbers, and those of a web page, are exact up to there."""

NUMBER_BLOCK = 128
"""Numbers of sessions that are written down at a time. Half of them are left when the next ones are written: a fast
device launches so many while a slow card writes. As many at most are skipped after a crash."""

RESTORE_DELAY_MIN_S, RESTORE_DELAY_MAX_S = 2.0, 300.0
"""Seconds until an app that the device could not start is tried again, doubled each time: a device that is just starting
has calmed down after some; and whoever has mended a device need not wait for long, though an attempt costs seconds of CPU."""

RESTORE_ROUNDS = 5
"""Starts after which an app that was not ready in time, or was killed, is not tried again by itself: as many as systemd
grants a service. It may be the app and not the device."""

RESTORE_APPS_MAX = 10_000
"""Apps that may wait to be started again: ten times the sessions that a device may have."""

REFUSED_LISTS_MAX = 9
"""Lists that are kept aside, each refused at another start: nobody looks through more of them."""


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
COMPILE_CPU = Limit(
    300, "seconds", "CPU time of compiling",
    "the largest of the usual modules take a minute of a small CPU; all threads of the compiler count",
)  # fmt: skip
LAUNCH_COMPILE_CPU = Limit(
    100, "seconds", "CPU time of compiling at a launch",
    "half a minute of four small CPUs, for which the other apps wait; what takes longer is left to the background",
)  # fmt: skip
COMPILE_TIME = Limit(
    1800, "seconds", "time of compiling by the clock",
    "a busy device may give a compiler no CPU for minutes; but nobody who waits for one shall wait for ever",
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
LOG_ENTRIES = Limit(
    16_384, "entries", "entries of the log that wait",
    "what sixteen sessions write at once within log_lines, or some thousand launches; the journal takes them in a second",
)  # fmt: skip
LOG_BYTES = Limit(
    8 * MIB, "bytes", "the log that waits",
    "a journal that does not read must not cost a device its memory; usual entries have 300 bytes",
)  # fmt: skip

ALL = (
    MANIFEST, NAME, MODULE, ARGUMENTS, COMPILE_CPU, LAUNCH_COMPILE_CPU, COMPILE_TIME, COMPILE_MEMORY, CODE_CACHE,
    MEMORY, MEMORIES, TABLE_ELEMENTS, TABLES, STACK, LOG_ENTRIES, LOG_BYTES,
)  # fmt: skip


def exceeded(limit: Limit, found: str) -> WeftError:
    """The error for a breach of `limit`; `found` says who broke it and by how much."""
    return WeftError(
        Problem.LIMIT_EXCEEDED, f"{found}; the limit for {limit.what} is {limit.value} {limit.unit}"
    )


def effective(limit: Limit, what: int) -> Limit:
    """`limit`, or what this process has been given of the resource `what` by setrlimit(2), if that is less."""
    import resource  # noqa: PLC0415 - for who compiles

    given = [value for value in resource.getrlimit(what) if value != resource.RLIM_INFINITY]
    return limit._replace(value=min([limit.value, *given]))


class CompileBounds(NamedTuple):
    """What a compiler may have used that this process, or one like it, has started: seconds of CPU time, bytes."""

    cpu: int
    memory: int
    version: str
    """What this release allows at all: another one may try again."""

    @classmethod
    def here(cls, cpu: Limit = COMPILE_CPU) -> Self:
        """Those that hold in this process."""
        import resource  # noqa: PLC0415 - as above

        memory = effective(COMPILE_MEMORY, resource.RLIMIT_DATA).value
        version = f"{COMPILE_CPU.value}/{LAUNCH_COMPILE_CPU.value}/{COMPILE_MEMORY.value}"
        return cls(effective(cpu, resource.RLIMIT_CPU).value, memory, version)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What `str` has made; None for anything else."""
        cpu, _, rest = text.partition(" ")
        memory, _, version = rest.partition(" ")
        if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in (cpu, memory)):
            return None
        return cls(int(cpu), int(memory), version)

    def __str__(self) -> str:
        return f"{self.cpu} {self.memory} {self.version}"

    def covers(self, other: "CompileBounds") -> bool:
        """Whether what was too much for these is too much for `other` as well."""
        return self.version == other.version and self.cpu >= other.cpu and self.memory >= other.memory
