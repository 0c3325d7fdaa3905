# SPDX-License-Identifier: Apache-2.0
"""The processes that wait for sessions: what makes a launch fast, and may be missing.

Whatever goes wrong here costs a launch nothing but time: the supervisor executes the runtime instead.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from weft_runtime.appd import child as processes
from weft_runtime.appd.cgroups import SessionGroup
from weft_runtime.appd.forkserver import ANSWER_TIMEOUT_S, HELLO_TIMEOUT_S, ForkServer
from weft_runtime.appd.spare import Spare
from weft_runtime.appd.tasks import Tasks
from weft_runtime.appd.watch import Watch
from weft_runtime.escape import printable
from weft_runtime.fork_protocol import ProtocolError
from weft_runtime.journal import Event, Level, Log

RESTART_MIN_S, RESTART_MAX_S = 1.0, 60.0
"""Seconds until a fork server that has ended is started again, doubled each time."""

SPARES, SPARES_MAX = 2, 8
"""Processes that wait for a session: at rest, and while launches come faster than these are replaced. Each has entered its
control group, for which the kernel lets a process wait up to 20 ms, and costs a device 1 MiB."""

CALM_S = 10.0
"""Seconds after the last launch in which there are no more of them than at rest."""

REFILL_DELAY_S = 0.02
"""Seconds from a launch until the spare is replaced: what has just been launched is to be ready first."""


class Request(NamedTuple):
    """What the fork server has been asked for, and has not answered."""

    number: int
    group: SessionGroup | None


class Spares:
    """The processes that wait for sessions, and the fork server that they come from."""

    def __init__(
        self,
        environment: Callable[[], Mapping[str, str]],
        log: Log,
        watch: Watch,
        next_number: Callable[[], int],
        make_group: Callable[[int], SessionGroup | None],
        remove_group: Callable[[SessionGroup], None],
    ) -> None:
        """`make_group` may raise OSError; `remove_group` is told what is not needed any more."""
        self._environment = environment
        self._log = log
        self._tasks = Tasks(log)
        self._watch = watch
        self._next_number = next_number
        self._make_group = make_group
        self._remove_group = remove_group
        self._server: ForkServer | None = None
        self._origin: ForkServer | None = None
        """The last one that could fork, even if it has ended: the one that what waits comes from."""
        self._waiting: deque[Spare] = deque()
        self._timer: asyncio.TimerHandle | None = None
        """Of a hello that is due, of the next start, or of the next refill."""
        self._wanted = SPARES
        """How many are to wait."""
        self._calm: asyncio.TimerHandle | None = None
        """Of a moment when there may have been no launches for a while."""
        self._calm_at = 0.0
        """When that is so, by the clock of the loop."""
        self._asked: Request | None = None
        self._overdue: asyncio.TimerHandle | None = None
        """Of the moment when the answer to that comes too late."""
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

    @property
    def is_asking(self) -> bool:
        """Whether there may be a process of which only the fork server knows."""
        return self._asked is not None

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

    @property
    def made_by(self) -> bytes | None:
        """What compiled code a session can be given, as the cache of it calls that; None while there is nobody to follow a
        plan."""
        return (self._origin and self._origin.made_by) or None

    def take(self, program: Path, number: int, plan: bytes, code_fd: int) -> Spare | None:
        """A process of `program` that follows the encoded `plan` as session `number`; None if it has to be executed."""
        if self._origin is None:
            return None
        if self._origin.program != program or not self._origin.is_current:
            self._log.entry(
                Level.INFO, f"{printable(str(program))} has changed: starting its fork server anew"
            )
            self.close()
            self.start(program)
            return None
        loop = asyncio.get_running_loop()
        self._calm_at = loop.time() + CALM_S
        spare = self._waiting_for(number) or self._fork(number)
        if spare is not None and not spare.begin(plan, code_fd):
            self._discard(spare)
            spare = None
        if self._waiting:
            self._refill_later()
        else:
            # Launches come faster than processes that wait are replaced. The next one is not to find them on their way.
            self._wanted = min(2 * self._wanted, SPARES_MAX)
            if self._calm is None:
                self._calm_down_at(self._calm_at)
            self._refill_in(0)
        return spare

    def surrender(self, number: int) -> SessionGroup | None:
        """The group of what waits to become session `number`, which is executed instead; None if there is none."""
        spare = self._waiting_for(number)
        self._refill_later()
        return None if spare is None else spare.leave()

    def close(self) -> None:
        """End the fork server and whatever waits; a program is given another chance."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._calm is not None:
            self._calm.cancel()
            self._calm = None
        self._wanted = SPARES
        self._drop_waiting()
        if (server := self._server) is not None:
            self._server = None
            self._expect_nothing(server)
            server.close()
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
        self._server = None
        self._expect_nothing(server)
        text = server.collect()
        program = printable(str(server.program))
        if server.is_none and not server.has_said_hello:
            self._cannot = server.program
            self._is_missed = False
            self._log.entry(Level.INFO, f"{program} offers no fork server, each session executes it: {text}")
            return
        what = "is gone, starting another" if server.has_said_hello else "did not come up, starting another"
        self._miss(server.program, f"{what}: {text}")

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

    def _calm_down_at(self, time: float) -> None:
        loop = asyncio.get_running_loop()
        self._calm = loop.call_at(time, self._call, "the end of many launches", self._calm_down)

    def _calm_down(self) -> None:
        self._calm = None
        if self._calm_at > asyncio.get_running_loop().time():  # there were launches since
            self._calm_down_at(self._calm_at)
            return
        self._wanted = SPARES
        self._drop_waiting(self._wanted)

    def _refill_later(self) -> None:
        if self._timer is None:
            self._refill_in(REFILL_DELAY_S)

    def _refill_in(self, seconds: float) -> None:
        if self._server is not None and self._server is self._origin:
            self._plan(seconds, self._refill)

    def _refill(self) -> None:
        """Ask for one more process. One at a time: whoever else waits for the loop comes between."""
        if self._server is None or self._asked is not None or len(self._waiting) >= self._wanted:
            return
        if self._ask(self._next_number() + len(self._waiting)):
            what = "an answer of the fork server"
            self._server.expect_answer(lambda: self._call(what, self._answered))
            loop = asyncio.get_running_loop()
            self._overdue = loop.call_later(ANSWER_TIMEOUT_S, self._call, what, self._is_overdue)

    def _answered(self) -> None:
        spare = self._answer()
        if spare is not None:
            self._wait_with(spare)
            self._plan(0, self._refill)

    def _is_overdue(self) -> None:
        self._overdue = None
        self._failed(TimeoutError("timed out"))

    def _wait_with(self, spare: Spare) -> None:
        what = "the end of a process that waited"
        self._watch.add(spare.child.pidfd, partial(self._call, what, self._spare_ended, spare))
        self._waiting.append(spare)

    def _waiting_for(self, number: int) -> Spare | None:
        """The process that waits to become session `number`; whatever waits for one before that waits in vain."""
        if not self._waiting and self._asked is not None and (spare := self._answer()) is not None:
            self._wait_with(spare)
        while self._waiting:
            spare = self._waiting.popleft()
            self._watch.remove(spare.child.pidfd)
            if spare.number == number:
                return spare
            self._discard(spare)
        return None

    def _fork(self, number: int) -> Spare | None:
        """A process for session `number`, for which the loop waits; None if that is not possible now."""
        if (
            self._server is None or self._server is not self._origin
        ):  # it has ended, or another one is still starting
            return None
        if self._asked is not None:
            # For another session.
            spare = self._answer()
            if spare is not None:
                self._discard(spare)
        return self._answer() if self._ask(number) else None

    def _ask(self, number: int) -> bool:
        """Ask for a process for session `number`; whether there will be an answer."""
        assert self._server is not None
        try:
            group = self._make_group(number)
        except FileExistsError:
            return False  # that of a process which is still on its way out
        except OSError as error:
            self._failed(error)
            return False
        self._asked = Request(number, group)
        try:
            self._server.ask(group)
        except OSError as error:
            self._failed(error)
            return False
        return True

    def _answer(self) -> Spare | None:
        """What has been asked for; None if it does not come."""
        assert self._server is not None
        assert self._asked is not None
        try:
            child, order = self._server.answer()
        except (ProtocolError, OSError) as error:
            self._failed(error)
            return None
        number, group = self._asked
        self._asked = None
        self._expect_nothing(self._server)
        self._delay = RESTART_MIN_S
        return Spare(number, child, order, group)

    def _failed(self, error: Exception) -> None:
        """There is no answer, or none that helps: whatever is wrong with it, the next one may be better."""
        self._log.warning(f"cannot fork a session, executing the runtime instead: {error}")
        if self._server is not None:
            self._expect_nothing(self._server)
            # Its end is noticed as any other.
            processes.kill_group(self._server.child)

    def _expect_nothing(self, server: ForkServer) -> None:
        """Nothing is asked for any more, or nothing comes of it."""
        server.expect_answer(None)
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        if self._asked is not None and self._asked.group is not None:
            self._remove_group(self._asked.group)
        self._asked = None

    def _spare_ended(self, spare: Spare) -> None:
        """Killed from outside, or it could not enter its group."""
        self._watch.remove(spare.child.pidfd)
        self._waiting.remove(spare)
        text = processes.read_text(spare.child.stderr)
        self._log.warning(f"a process that waited for session {spare.number} is gone{text and ': '}{text}")
        self._discard(spare)
        # The others are for the sessions after that one.
        self._drop_waiting()
        if self._timer is None:
            self._plan(self._delay, self._refill)
            self._wait_longer()

    def _drop_waiting(self, rest: int = 0) -> None:
        while len(self._waiting) > rest:
            spare = self._waiting.pop()
            self._watch.remove(spare.child.pidfd)
            self._discard(spare)

    def _discard(self, spare: Spare) -> None:
        """End one that could not begin, or is not needed."""
        spare.end()
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
