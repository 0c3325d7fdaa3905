# SPDX-License-Identifier: Apache-2.0
"""The plan of a session: all that was decided about it before it begins, as one value with one encoding.

Whoever follows a plan decides nothing. All texts are bytes, since whoever follows it passes them on as they are; and since
that is a process of which each page counts, nothing is imported here.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE_MAX = 63 * 1024
"""Bytes of an encoded plan: it goes in one message (fork_protocol.py). The arguments and the environment of a guest have 32
KiB at most (limits.py)."""

NUMBER_MAX = 2**63 - 1
"""Of each limit: the engine takes them as signed numbers of 64 bits."""

_MAGIC = b"weft-plan 1"
_DIGITS_MAX = 19

READY_MODES = (b"", b"host", b"export", b"guest")
"""Who says READY, as in the manifest; the empty one leaves it to the module's exports."""

READY, LIMITS, ARGUMENTS = 3, 7, 11
"""Where in the fields of an encoded plan there are: who says READY; the limits; the number of arguments, and these."""

READ_WRITE, READ_ONLY = b"rw", b"ro"


def parts(data: bytes) -> tuple[list[bytes], int, int, int]:
    """The fields of an encoded plan, and where in them there are the numbers of: arguments, variables, directories.

    For whoever follows a plan of somebody who is trusted: `Plan.decode` takes a process that has just been forked as long
    as loading the app. Before the arguments there are, in this order, the limits of `Plan.encode`.
    """
    fields = data.split(b"\0")
    command = ARGUMENTS + 1 + int(fields[ARGUMENTS])
    variables = command + 1 + int(fields[command])
    directories = variables + 1 + 2 * int(fields[variables])
    return fields, ARGUMENTS, variables, directories


def command(data: bytes) -> list[bytes]:
    """The command line of the full runtime, of an encoded plan as `parts` takes it."""
    fields, arguments, variables, _ = parts(data)
    return fields[arguments + 2 + int(fields[arguments]) : variables]


class Plan:
    """What a session does. Nothing of it is changed once it is made."""

    __slots__ = (
        "app_id", "argv", "command", "environment", "memories", "memory", "module", "package", "preopens",
        "ready", "session_id", "table_elements", "tables", "version",
    )  # fmt: skip

    def __init__(
        self,
        *,
        app_id: bytes,
        session_id: bytes,
        argv: tuple[bytes, ...],
        environment: tuple[tuple[bytes, bytes], ...],
        preopens: tuple[tuple[bytes, bytes, bool], ...],
        ready: bytes,
        memory: int,
        memories: int,
        table_elements: int,
        tables: int,
        command: tuple[bytes, ...],
        version: bytes = b"",
        package: bytes = b"",
        module: bytes = b"",
    ) -> None:
        """Raises ValueError for what has no encoding: a NUL in a text, a name of a variable that is empty or holds '='."""
        self.app_id = app_id
        self.session_id = session_id
        """A decimal number; empty for a service."""
        self.argv = argv
        """The guest's arguments, the first of them its name."""
        self.environment = environment
        """The guest's: names and values."""
        self.preopens = preopens
        """Directories that the guest may open: the host's path, the guest's path, whether it may write there."""
        self.ready = ready
        """One of READY_MODES."""
        self.memory = memory
        """Bytes of each memory."""
        self.memories = memories
        self.table_elements = table_elements
        """Elements of each table."""
        self.tables = tables
        self.command = command
        """The command line of the full runtime, which does the same: program and arguments."""
        self.version = version
        """The app's, made safe for the log."""
        self.package = package
        """The package's directory, made safe for the log."""
        self.module = module
        """The module's path, made safe for the log."""
        texts = (app_id, session_id, ready, version, package, module, *argv, *command)
        pairs = (*environment, *(preopen[:2] for preopen in preopens))
        if any(b"\0" in text for text in texts) or any(b"\0" in text for pair in pairs for text in pair):
            raise ValueError("a text has a NUL")
        if any(not name or b"=" in name for name, _ in environment):
            raise ValueError("a variable has no name, or one with an equals sign")
        if any(not host or not guest for host, guest, _ in preopens):
            raise ValueError("a path is empty")
        if ready not in READY_MODES:
            raise ValueError("READY is said by nobody known")
        if not all(0 <= number <= NUMBER_MAX for number in (memory, memories, table_elements, tables)):
            raise ValueError("a limit is no number of 63 bits")

    def encode(self) -> bytes:
        """The plan as bytes. Raises ValueError where that are more than SIZE_MAX."""
        fields = [
            _MAGIC, self.app_id, self.session_id, self.ready, self.version, self.package, self.module,
            *(b"%d" % number for number in (self.memory, self.memories, self.table_elements, self.tables)),
        ]  # fmt: skip
        for texts in (self.argv, self.command):
            fields += [b"%d" % len(texts), *texts]
        fields.append(b"%d" % len(self.environment))
        for name, value in self.environment:
            fields += [name, value]
        fields.append(b"%d" % len(self.preopens))
        for host, guest, writable in self.preopens:
            fields += [host, guest, READ_WRITE if writable else READ_ONLY]
        data = b"\0".join(fields) + b"\0"
        if len(data) > SIZE_MAX:
            raise ValueError(f"the plan has {len(data)} bytes, more than {SIZE_MAX}")
        return data

    @classmethod
    def decode(cls, data: bytes) -> "Plan":
        """The plan that was encoded. Raises ValueError for anything else."""
        if len(data) > SIZE_MAX or not data.endswith(b"\0"):
            raise ValueError("it is cut, or too long")
        fields = iter(data[:-1].split(b"\0"))
        take = fields.__next__
        try:
            if take() != _MAGIC:
                raise ValueError("it is no plan of this release")
            # In the order of `encode`: arguments are evaluated from left to right.
            plan = cls(
                app_id=take(), session_id=take(), ready=take(), version=take(), package=take(), module=take(),
                memory=_number(take()), memories=_number(take()),
                table_elements=_number(take()), tables=_number(take()),
                argv=tuple([take() for _ in range(_number(take()))]),
                command=tuple([take() for _ in range(_number(take()))]),
                environment=tuple([(take(), take()) for _ in range(_number(take()))]),
                preopens=tuple([(take(), take(), _is_writable(take())) for _ in range(_number(take()))]),
            )  # fmt: skip
        except StopIteration:
            raise ValueError("it ends too early") from None
        if next(fields, None) is not None:
            raise ValueError("there is something behind it")
        return plan

    def prepared(self) -> "Prepared":
        """All of it but what differs from session to session: the number and the command line. Raises ValueError where that are more than SIZE_MAX."""
        fields, _, variables, _ = parts(self.encode())
        command = variables - len(self.command) - 1
        return Prepared(*(b"\0".join(some) for some in (fields[:2], fields[3:command], fields[variables:])))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    def __hash__(self) -> int:
        return hash((self.app_id, self.session_id, self.argv, self.command))

    def __repr__(self) -> str:
        return f"Plan({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class Prepared:
    """A plan that waits for its session; it is made once for many of them."""

    __slots__ = ("_before", "_behind", "_between")

    def __init__(self, before: bytes, between: bytes, behind: bytes) -> None:
        """The encoding before the session's number, between that and the command line, and behind it."""
        self._before = before
        self._between = between
        self._behind = behind

    def encode(self, session_id: bytes, command: "Sequence[bytes]") -> bytes:
        """The plan of a session as bytes; no text may have a NUL. Raises ValueError where that are more than SIZE_MAX."""
        count = b"%d" % len(command)
        data = b"\0".join([self._before, session_id, self._between, count, *command, self._behind])
        if len(data) > SIZE_MAX:
            raise ValueError(f"the plan has {len(data)} bytes, more than {SIZE_MAX}")
        return data


def _number(text: bytes) -> int:
    """Raises ValueError unless it is what `encode` makes of a number."""
    if not text.isdigit() or len(text) > _DIGITS_MAX or (text[:1] == b"0" and text != b"0"):
        raise ValueError("a number is none")
    return int(text)


def _is_writable(text: bytes) -> bool:
    if text not in (READ_WRITE, READ_ONLY):
        raise ValueError("a directory is neither for reading nor for writing")
    return text == READ_WRITE
