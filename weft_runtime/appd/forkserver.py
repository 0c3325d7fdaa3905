# SPDX-License-Identifier: Apache-2.0
"""The fork server and the spare processes that it has forked: what makes a launch fast, and may be missing.

Whatever goes wrong here costs a launch nothing but time: the supervisor executes the runtime instead.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from weft_runtime import fork_protocol
from weft_runtime.appd import child as processes
from weft_runtime.appd.cgroups import SessionGroup
from weft_runtime.appd.child import Child
from weft_runtime.appd.tasks import Tasks
from weft_runtime.errors import ExitStatus
from weft_runtime.escape import printable
from weft_runtime.fork_protocol import ProtocolError, Request
from weft_runtime.integrity import Identity
from weft_runtime.journal import Event, Level, Log

HELLO_TIMEOUT_S = 30.0
"""Seconds until a program that says neither hello nor anything else is ended, and tried again; ours needs a tenth of one."""

SILENCE_TIMEOUT_S = 5.0
"""Seconds from the end of a conversation until the program is gone, if it is about to end anyway."""

ANSWER_TIMEOUT_S = 0.5
"""Seconds for a fork, which takes some milliseconds. The daemon's whole loop waits for it: one that is as late is killed,
and the next one is not started at once."""

RESTART_MIN_S, RESTART_MAX_S = 1.0, 60.0
"""Seconds until a fork server that has ended is started again, doubled each time."""

SPARES = 2
"""Processes that wait for a session. With one, a second launch right after the first would have to wait for a fork and
for the kernel to let it into its control group; with more, each costs a device some 4 MiB."""

REFILL_DELAY_S = 0.02
"""Seconds from a launch until the spare is replaced: what has just been launched is to be ready first."""


# What a shell ends with for a program that could not be executed or was killed, and statuses of ours that tell of the
# device and not of the program.
_BY_THE_DEVICE = frozenset(
    {126, 127, *range(129, 160), ExitStatus.SOFTWARE, ExitStatus.OS_ERROR, ExitStatus.TRY_AGAIN}
)

# A program that is not even started to its end may say so with any status.
_SHORTAGES = (
    "MemoryError", *(os.strerror(number) for number in (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN))
)  # fmt: skip
Call = Callable[..., None]
"""Takes what is being done, a function and its arguments."""


class Spare(NamedTuple):
    """A process that waits for its order, in its control group."""

    number: int
    """Of the session that it can become."""
    child: Child
    order: int
    group: SessionGroup | None

    def hint(self, app_id: str) -> None:
        """Tell it which app it may be about to run, so that it can begin to look."""
        with contextlib.suppress(OSError):  # it has ended, which is noticed elsewhere, or has enough of them
            os.write(self.order, fork_protocol.hint(app_id))

    def begin(self, arguments: Sequence[str]) -> bool:
        """Let it run; False if it cannot any more."""
        data = fork_protocol.order(arguments)
        try:
            return os.write(self.order, data) == len(data)
        except OSError:  # it has ended, or the order is longer than a pipe takes
            return False
        finally:
            os.close(self.order)


class ForkServer:
    """One fork server, from its start until it ends or is closed."""

    def __init__(
        self, program: Path, environment: Mapping[str, str], on_hello: Callable[[], None], call: Call
    ) -> None:
        """Start it. `on_hello` is called once it can fork; whatever happens is handled by `call`. Raises OSError."""
        self.program = program
        self.has_said_hello = False
        self.is_none = False
        """Whether it has said, by whatever it did, that it is no fork server."""
        self._is_closed = False
        self._on_hello = on_hello
        self._silence: asyncio.TimerHandle | None = None
        self._identities: dict[str, Identity | None] = {}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                command = [os.fspath(program), fork_protocol.OPTION]
                self.child = processes.spawn(command, environment, third=theirs.fileno())
            except OSError:
                self._socket.close()
                raise
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, call, "the hello of the fork server", self._hello)
        # A program that takes the option for an app and says READY need not be waited for.
        loop.add_reader(self.child.stdout, call, "the hello of the fork server", self._has_output)

    @property
    def is_current(self) -> bool:
        """Whether the program's files are those that it was started from."""
        return all(identity == _identity(path) for path, identity in self._identities.items())

    def fork(self, group: SessionGroup | None, likely: str) -> tuple[Child, int]:
        """A process in `group`, or on its way there, and where to write its order; it can expect to run the app `likely`.

        Raises ProtocolError or OSError.
        """
        procs = "" if group is None else os.fspath(group.procs)
        return processes.forked(
            lambda descriptors: fork_protocol.request(self._socket, Request(procs, likely, descriptors))
        )

    def close(self) -> str:
        """End it, if it has not ended; what it has to say. Asked again it does nothing."""
        if self._is_closed:
            return ""
        self._is_closed = True
        self._expect_nothing()
        self._socket.close()
        result = processes.reap(self.child)
        text = processes.read_text(self.child.stderr)
        processes.close(self.child)
        is_word = result.status is not None and result.status not in _BY_THE_DEVICE
        if is_word and not any(shortage in text for shortage in _SHORTAGES):
            self.is_none = True
        how = f"by {result.signal}" if result.signal else f"with status {result.status}"
        return f"it ended {how}{text and ': '}{text}"

    def give_up(self) -> None:
        """It has had its time: it is ended, which says nothing of what it is."""
        processes.kill_group(self.child)

    def _expect_nothing(self) -> None:
        loop = asyncio.get_running_loop()
        for readable in (self._socket, self.child.stdout):
            loop.remove_reader(readable)
        if self._silence is not None:
            self._silence.cancel()

    def _says_none(self) -> None:
        """By its own word it is no fork server."""
        self.is_none = True
        self._expect_nothing()
        processes.kill_group(self.child)

    def _has_output(self) -> None:
        try:
            data = os.read(self.child.stdout, 1)
        except OSError:
            return
        if data:
            self._says_none()
        else:  # closed, as by its end
            asyncio.get_running_loop().remove_reader(self.child.stdout)

    def _hello(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            message = self._socket.recv(fork_protocol.MESSAGE_MAX)
        except OSError:
            message = b""
        if not message:
            # As by its end, which comes next then. Whoever lives on has closed what it would not talk by.
            loop.remove_reader(self._socket)
            self._silence = loop.call_later(SILENCE_TIMEOUT_S, self._says_none)
            return
        try:
            files = fork_protocol.parse_hello(message)
        except ProtocolError:
            self._says_none()
            return
        self._expect_nothing()
        self._identities = {path: _identity(path) for path in (*files, os.fspath(self.program))}
        self.has_said_hello = True
        self._on_hello()


class Spares:
    """The processes that wait for sessions, and the fork server that they come from."""

    def __init__(
        self,
        environment: Callable[[], Mapping[str, str]],
        log: Log,
        next_number: Callable[[], int],
        make_group: Callable[[int], SessionGroup | None],
        remove_group: Callable[[SessionGroup], None],
    ) -> None:
        """`make_group` may raise OSError; `remove_group` is told what is not needed any more."""
        self._environment = environment
        self._log = log
        self._tasks = Tasks(log)
        self._next_number = next_number
        self._make_group = make_group
        self._remove_group = remove_group
        self._server: ForkServer | None = None
        self._origin: ForkServer | None = None
        """The last one that could fork, even if it has ended: the one that what waits comes from."""
        self._waiting: deque[Spare] = deque()
        self._timer: asyncio.TimerHandle | None = None
        """Of a hello that is due, of the next start, or of the next refill."""
        self._likely = ""
        """The app that was launched last: an app that crashes, or that many use, is launched again and again."""
        self._delay = RESTART_MIN_S
        self._cannot: Path | None = None
        """A program that is no fork server."""
        self._is_missed = False
        """Whether it was told that there is none for now."""

    @property
    def server_pid(self) -> int | None:
        """The process number of the fork server, if there is one that can fork."""
        return self._server.child.pid if self._server is not None and self._server.has_said_hello else None

    @property
    def waiting(self) -> int:
        """How many processes wait for a session."""
        return len(self._waiting)

    @property
    def pids(self) -> Iterator[int]:
        """The process numbers that belong here."""
        if self._server is not None:
            yield self._server.child.pid
        for spare in self._waiting:
            yield spare.child.pid

    def start(self, program: Path) -> None:
        """Start the fork server of `program`, unless it has one already or none at all."""
        if self._server is not None or program == self._cannot:
            return
        loop = asyncio.get_running_loop()
        try:
            self._server = server = ForkServer(program, self._environment(), self._said_hello, self._call)
        except OSError as error:
            self._miss(program, f"cannot be started: {error.strerror}")
            return
        loop.add_reader(server.child.pidfd, self._call, "the end of the fork server", self._ended)
        self._plan(HELLO_TIMEOUT_S, server.give_up)

    def hint(self, app_id: str) -> None:
        """An app is about to be launched, unless it is refused."""
        if self._waiting:
            self._waiting[0].hint(app_id)

    def take(self, program: Path, app_id: str, number: int) -> Spare | None:
        """A process for session `number` of `program`, which is to run `app_id`; None if it has to be executed."""
        self._likely = app_id
        if self._origin is None:
            return None
        if self._origin.program != program or not self._origin.is_current:
            self._log.entry(
                Level.INFO, f"{printable(str(program))} has changed: starting its fork server anew"
            )
            self.close()
            self.start(program)
            return None
        while self._waiting:
            spare = self._waiting.popleft()
            asyncio.get_running_loop().remove_reader(spare.child.pidfd)
            if spare.number == number:
                if self._server is self._origin:
                    self._refill_later()
                return spare
            self._discard(spare)
        if self._server is not self._origin:  # it has ended, or another one is still starting
            return None
        self._refill_later()
        return self._fork(number)

    def close(self) -> None:
        """End the fork server and whatever waits; a program is given another chance."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop_waiting()
        if self._server is not None:
            self._take_down(self._server)
        self._origin = self._cannot = None

    def _said_hello(self) -> None:
        assert self._server is not None
        self._origin = self._server
        text = f"fork server of {printable(str(self._server.program))}"
        if self._is_missed:
            self._is_missed = False
            self._log.notice(f"the {text} is there again")
        self._log.debug(f"{text}, pid {self._server.child.pid}")
        self._plan(0, self._refill)

    def _ended(self) -> None:
        """The fork server is gone. What it has forked is ours, and stays."""
        server = self._server
        assert server is not None
        text = self._take_down(server)
        program = printable(str(server.program))
        if server.is_none and not server.has_said_hello:
            self._cannot = server.program
            self._is_missed = False
            self._log.entry(Level.INFO, f"{program} offers no fork server, each session executes it: {text}")
            return
        what = "is gone, starting another" if server.has_said_hello else "did not come up, starting another"
        self._miss(server.program, f"{what}: {text}")

    def _take_down(self, server: ForkServer) -> str:
        asyncio.get_running_loop().remove_reader(server.child.pidfd)
        self._server = None
        return server.close()

    def _miss(self, program: Path, what: str) -> None:
        """There is none for now: tell it once, until there is one again."""
        text = f"the fork server of {printable(str(program))} {what}"
        if self._is_missed:
            self._log.debug(text)
        else:
            self._log.warning(f"{text}; until then each session executes it", Event.FORK_SERVER_LOST)
        self._is_missed = True
        self._plan(self._delay, self.start, program)
        self._wait_longer()

    def _wait_longer(self) -> None:
        self._delay = min(2 * self._delay, RESTART_MAX_S)

    def _refill_later(self) -> None:
        if self._timer is None:
            self._plan(REFILL_DELAY_S, self._refill)

    def _refill(self) -> None:
        if self._server is None or len(self._waiting) >= SPARES:
            return
        spare = self._fork(self._next_number() + len(self._waiting))
        if spare is not None:
            what = "the end of a process that waited"
            loop = asyncio.get_running_loop()
            loop.add_reader(spare.child.pidfd, self._call, what, self._spare_ended, spare)
            self._waiting.append(spare)
            # One at a time: whoever else waits for the loop comes between.
            self._plan(0, self._refill)

    def _fork(self, number: int) -> Spare | None:
        """A process for session `number`; None if that is not possible now."""
        assert self._server is not None
        group = None
        try:
            group = self._make_group(number)
            spare = Spare(number, *self._server.fork(group, self._likely), group)
        except FileExistsError:
            return None  # that of a process which is still on its way out
        except (ProtocolError, OSError) as error:
            if group is not None:
                self._remove_group(group)
            self._log.warning(f"cannot fork a session, executing the runtime instead: {error}")
            # Whatever is wrong with it, the next one may be better. Its end is noticed as any other.
            processes.kill_group(self._server.child)
            return None
        self._delay = RESTART_MIN_S
        return spare

    def _spare_ended(self, spare: Spare) -> None:
        """Killed from outside, or it could not enter its group."""
        asyncio.get_running_loop().remove_reader(spare.child.pidfd)
        self._waiting.remove(spare)
        # Should it be what that app made of it, the next one is spared that.
        self._likely = ""
        text = processes.read_text(spare.child.stderr)
        self._log.warning(f"a process that waited for session {spare.number} is gone{text and ': '}{text}")
        self._discard(spare)
        # The others are for the sessions after that one.
        self._drop_waiting()
        if self._timer is None:
            self._plan(self._delay, self._refill)
            self._wait_longer()

    def _drop_waiting(self) -> None:
        while self._waiting:
            spare = self._waiting.pop()
            asyncio.get_running_loop().remove_reader(spare.child.pidfd)
            self._discard(spare)

    def _discard(self, spare: Spare) -> None:
        os.close(spare.order)
        self.end(spare)

    def end(self, spare: Spare) -> None:
        """End one that could not begin, or is not needed; its order is closed already."""
        if spare.group is not None:
            spare.group.kill()
        processes.reap(spare.child)
        processes.close(spare.child)
        if spare.group is not None:
            self._remove_group(spare.group)

    def _call(self, what: str, function: Callable[..., None], *arguments: object) -> None:
        """Call `function`; if it fails unexpectedly begin anew in a while, with nothing of what is there now."""
        server = self._server
        if self._tasks.call(what, function, *arguments):
            return
        program = (
            server.program if server else next((item for item in arguments if isinstance(item, Path)), None)
        )
        if server is not None:
            self._tasks.call("ending the fork server", server.close)  # however far it came
        self._begin_anew(program)

    def failed(self, error: BaseException) -> None:
        """A launch could not use what is there, for a fault of ours."""
        server = self._server or self._origin
        self._tasks.report("the fork server", error)
        self._begin_anew(None if server is None else server.program)

    def _begin_anew(self, program: Path | None) -> None:
        self._tasks.call("ending the fork server", self.close)
        self._server = self._origin = None
        if program is not None:
            self._plan(self._delay, self.start, program)
            self._wait_longer()

    def _plan(self, seconds: float, what: Callable[..., None], *arguments: object) -> None:
        """The one thing to do next; it takes the place of what was planned."""
        if self._timer is not None:
            self._timer.cancel()

        def do() -> None:
            self._timer = None
            self._call("the next step of the fork server", what, *arguments)

        self._timer = asyncio.get_running_loop().call_later(seconds, do)


def _identity(path: str) -> Identity | None:
    with contextlib.suppress(OSError):
        return Identity.of(os.stat(path))
    return None
