# SPDX-License-Identifier: Apache-2.0
"""The sessions: launches, watches and ends them, and tells whoever listens."""

import asyncio
import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from weft_runtime import capabilities, manifests, paths, store
from weft_runtime.appd import child as processes
from weft_runtime.appd import clock
from weft_runtime.appd.background import Background
from weft_runtime.appd.cgroups import Limits, Removal, SessionGroup, SessionGroups, Usage, in_units
from weft_runtime.appd.child import Child
from weft_runtime.appd.forkserver import Spares
from weft_runtime.appd.numbers import NotNumbered, Numbers
from weft_runtime.appd.output import LineSplitter, OutputLog
from weft_runtime.appd.report import Account, Report
from weft_runtime.appd.session import Action, Facts, Session
from weft_runtime.appd.settings import Places, Settings, find_runtime
from weft_runtime.appd.tasks import AGAIN_S, Tasks, Worker
from weft_runtime.appd.use import Use, of_session
from weft_runtime.errors import ExitStatus, Problem, WeftError
from weft_runtime.escape import printable, quote
from weft_runtime.ids import AppId
from weft_runtime.journal import UNASKED_END, Event, Level, Log, output_identifier
from weft_runtime.limits import COMPILE_TIME
from weft_runtime.manifests import Manifests, Reading
from weft_runtime.plural import counted
from weft_runtime.protocol import AppReady, AppState, ErrorCode, State
from weft_runtime.ready import ReadyScanner
from weft_runtime.settings import stores
from weft_runtime.statusline import VERSION_MAX

HISTORY_MAX = 1000
"""Stopped sessions that are remembered: enough to answer "what happened last night", and bounded."""

P = ParamSpec("P")

_READ_SIZE = 64 * 1024

_READS_AT_END = 64
"""Reads of a dead app's pipe: a pipe holds 64 KiB, and what wrote more after its death is not its output."""

_FLOOD_PAUSE_S = 0.005
"""Seconds between two reads of a session that has used up its lines. Its pipe is still emptied, since an app must not
hang on its output, but at 64 KiB a read that is 13 MB/s of what nobody will see: more would only take CPU time from
everybody else, the daemon's and the app's."""

_REFUSAL_EVENTS = {
    Problem.ENGINE_MISSING: Event.NO_RUNTIME,
    Problem.CAPABILITY_REFUSED: Event.CAPABILITY_REFUSED,
}
"""All others: Event.LAUNCH_REFUSED."""

_REFUSALS = {
    Problem.PACKAGE_NOT_FOUND: ErrorCode.PACKAGE_NOT_FOUND,
    Problem.MODULE_NOT_FOUND: ErrorCode.PACKAGE_NOT_FOUND,
    Problem.MANIFEST_INVALID: ErrorCode.PACKAGE_INVALID,
    Problem.MODULE_INVALID: ErrorCode.PACKAGE_INVALID,
    Problem.LIMIT_EXCEEDED: ErrorCode.PACKAGE_INVALID,
    Problem.ENGINE_MISSING: ErrorCode.NO_RUNTIME,
}


class Refused(Exception):
    """A launch that was not done: the code and the text of the ERROR, and the event that it is."""

    def __init__(self, code: ErrorCode, message: str, event: Event = Event.LAUNCH_REFUSED) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.event = event


class _Live:
    """A session that has a process: what it needs besides its state."""

    def __init__(
        self, session: Session, child: Child, group: SessionGroup | None, output: OutputLog
    ) -> None:
        self.session = session
        self.child = child
        self.group = group
        self.output = output
        self.report = Report(child.report)
        self.extended_until = time.monotonic() + COMPILE_TIME.value
        """Until when compiling may delay READY: longer than the runtime lets it take."""
        self.scanner = ReadyScanner()
        self.splitters = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        self.open_streams = {"stdout": child.stdout, "stderr": child.stderr}
        self.pauses: dict[str, asyncio.Handle] = {}
        """Streams that are not read just now, and what goes on with them."""
        self.deadline_timer: asyncio.TimerHandle | None = None
        self.summary_timer: asyncio.TimerHandle | None = None
        self.shell_pid: int | None = None
        self.is_collected = False
        """Whether its process is reaped, and the descriptors are closed."""

    @property
    def fields(self) -> dict[str, str]:
        """What every log entry about the session carries."""
        return {"WEFT_APP_ID": self.session.app_id, "WEFT_SESSION_ID": str(self.session.id)}

    def stop_pauses(self) -> None:
        for handle in self.pauses.values():
            handle.cancel()
        self.pauses.clear()

    def kill(self) -> None:
        """End all of it: what is in its control group, or where there is none, in its process group."""
        if self.group is not None:
            self.group.kill()
        processes.kill_group(self.child)


class Supervisor:
    """Owns every session. `announce` is called with each push, in order."""

    def __init__(
        self,
        settings: Settings,
        places: Places,
        environ: Mapping[str, str],
        log: Log,
        announce: Callable[[AppReady | AppState], None],
        numbers: Numbers,
    ) -> None:
        self._settings = settings
        self._places = places
        self._log = log
        self._tasks = Tasks(log)
        self._announce = announce
        self.numbers = numbers
        store_override = {} if settings.app_store is None else {"WEFT_APP_STORE": str(settings.app_store)}
        self._environ = {**environ, **store_override}
        self.stores = stores(self._environ)
        self.manifests = Manifests()
        # A thread of its own: what is written to a slow disk must not keep launches waiting.
        self._reader = Worker("weft-manifests")
        self._live: dict[int, _Live] = {}
        self._stopped: OrderedDict[int, Session] = OrderedDict()
        self._all_ended = asyncio.Event()
        self.groups: SessionGroups | None = None
        """Where sessions get control groups of their own; None is "nowhere"."""
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever a session has begun, is ready or has ended."""
        self.on_end: Callable[[Session], None] = lambda session: None
        """Called when a session has ended, before anybody else hears of it."""
        self.closing = False
        self._background = Background(places.runtime, log, self._tasks)
        self.spares = Spares(
            self._session_environment, log, lambda: numbers.next, self._make_group, self._remove_group
        )  # fmt: skip

    @property
    def live(self) -> list[Session]:
        return [live.session for live in self._live.values()]

    @property
    def starting(self) -> int:
        """How many of the live ones have not said READY."""
        return sum(live.session.ready_at is None for live in self._live.values())

    @property
    def stopped(self) -> list[Session]:
        return list(self._stopped.values())

    def use(self, session: Session) -> Use:
        """What it uses now; nothing is known of one that has ended."""
        live = self._live.get(session.id)
        return Use() if live is None else of_session(session.pid, live.group)

    def find(self, session_id: int) -> Session | None:
        live = self._live.get(session_id)
        return live.session if live else self._stopped.get(session_id)

    def launch(
        self, app_id_text: str, caller: str, reading: Reading | None = None, *, is_again: bool = False
    ) -> Session:
        """Start a session of an app for `caller`. Raises Refused with what to answer, and logs it unless it `is_again`.

        Raises NotRemembered where its manifest has to be read first; `reading` is that then, once it is done. Raises
        NotNumbered where its number has to be written down first.
        """
        self.manifests.use(reading)
        try:
            return self._launch(app_id_text, caller)
        except Refused as refusal:
            if is_again:
                raise
            self._log.entry(
                Level.WARNING, f"launch for {caller} refused: {refusal.message}", refusal.event,
                WEFT_APP_ID=printable(app_id_text, 256), WEFT_REASON=refusal.message,
            )  # fmt: skip
            raise
        finally:
            self.manifests.use(None)

    def read(self, directory: Path) -> "asyncio.Future[Reading]":
        """Parse the manifest of the package in `directory` in another thread, which may take 100 ms, and remember it.

        WeftError comes of it where the manifest cannot be opened.
        """
        reading = self._reader.run(manifests.read, directory)
        reading.add_done_callback(self._keep)
        return reading

    def _keep(self, reading: "asyncio.Future[Reading]") -> None:
        if not reading.cancelled() and reading.exception() is None:
            self.manifests.keep(reading.result())

    async def settle(self) -> bool:
        """Wait for a moment until no manifest is being read; whether that is so."""
        return await self._reader.settle()

    def _launch(self, app_id_text: str, caller: str) -> Session:
        if self.closing:
            raise Refused(ErrorCode.SHUTTING_DOWN, "the daemon is shutting down")
        try:
            app_id = AppId.parse(app_id_text)
        except ValueError as error:
            raise Refused(ErrorCode.INVALID_APP_ID, str(error)) from None
        count = len(self._live)
        if count >= self._settings.max_sessions:
            message = f"there {'is' if count == 1 else 'are'} {counted(count, 'session')} already, the setting max_sessions allows no more"
            raise Refused(ErrorCode.TOO_MANY_SESSIONS, message)
        if not self.numbers.is_ready:
            raise NotNumbered
        self.spares.hint(app_id)
        argv, notice, facts = self._command(app_id, self.numbers.next)
        forked = self._fork(app_id, argv)
        child, group = forked or self._execute(argv)
        session = Session.launched(
            self.numbers.next, app_id, child.pid,
            now=clock.now(), ready_deadline=time.monotonic() + self._settings.ready_timeout,
        )  # fmt: skip
        session.facts = facts._replace(launched_by=caller)
        self.numbers.skip()
        try:
            live = self._adopt(session, child, group)
        except BaseException:
            self._abandon(
                self._live.get(session.id)
                or _Live(session, child, group, OutputLog(0, 0, _nothing, _nothing))
            )
            raise
        version = printable(facts.version or "", VERSION_MAX)
        message = f"launched by {caller}, pid {child.pid}: version {version} from {facts.package}"
        self._entry(
            live, Level.INFO, message, Event.SESSION_LAUNCHED, WEFT_CALLER=caller, WEFT_VERSION=version
        )
        if self._log.level >= Level.DEBUG:
            how = "a process of the fork server's" if forked else "executed"
            searched = ", ".join(quote(str(path)) for path in self.stores)
            self._entry(live, Level.DEBUG, f"{printable(argv[0])}, {how}; the stores are {searched}")
        if notice is not None:
            self._entry(live, Level.NOTICE, notice)
        self.on_change()
        return session

    def stop(self, session: Session, why: str, *, expected: bool) -> None:
        """Ask a live session to end; it is killed if it does not. Asking again changes nothing."""
        live = self._live[session.id]
        self._act(live, session.stop(why, kill_deadline=self._kill_deadline(), expected=expected))

    def start_fork_server(self) -> None:
        """Have processes ready for the next sessions, where the runtime offers that."""
        if self._settings.fork_server:
            with contextlib.suppress(WeftError):  # the first launch says so
                self.spares.start(find_runtime(self._settings))

    def close_fork_server(self) -> None:
        """End it and the processes that wait; sessions live on."""
        self.spares.close()

    async def stop_all(self, why: str) -> None:
        """End every session, all at the same time, and wait until the last is gone."""
        self.closing = True
        for live in list(self._live.values()):
            self.stop(live.session, why, expected=True)
        if self._live:
            await self._all_ended.wait()

    @property
    def pids(self) -> Iterator[int]:
        """The process numbers that belong to sessions, or will, and so are no strays."""
        yield from self.spares.pids
        for live in self._live.values():
            yield live.child.pid
            if live.shell_pid is not None:
                yield live.shell_pid

    def reap_shells(self) -> None:
        """Collect the app shells that have ended by themselves."""
        for live in self._live.values():
            if live.shell_pid is not None and os.waitpid(live.shell_pid, os.WNOHANG) != (0, 0):
                live.shell_pid = None
                self._entry(live, Level.INFO, "its app shell has ended")

    def remove_left_over_groups(self) -> None:
        """Remove the groups of a process image before this one, which crashed or was reloaded."""
        if self.groups is not None:
            known = {live.group for live in self._live.values() if live.group is not None}
            for group in self.groups.others(known):
                self._remove_group(group)

    def to_json(self) -> dict[str, Any]:
        """All sessions, for the next process image; the descriptors in it must be inherited."""
        return {
            "next_id": self.numbers.next,
            "live": [
                {
                    "session": live.session.to_json(),
                    "fds": [live.child.stdout, live.child.stderr, live.child.report],
                    "open": list(live.open_streams),
                    "rest": {name: splitter.rest.hex() for name, splitter in live.splitters.items()},
                    "output": live.output.to_json(),
                    "report": live.report.unread.hex(),
                    "shell": live.shell_pid,
                }
                for live in self._live.values()
            ],
            "stopped": [session.to_json() for session in self._stopped.values()],
            "facts": [
                (session.id, session.facts._asdict()) for session in (*self.live, *self._stopped.values())
            ],
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take over what `to_json` of the process image before this one said."""
        # The first release has none.
        facts = {number: Facts(**known) for number, known in values.get("facts", ())}
        for stopped in values["stopped"]:
            session = Session.from_json(stopped)
            session.facts = facts.get(session.id, Facts())
            self._stopped[session.id] = session
        for item in values["live"]:
            session = Session.from_json(item["session"])
            session.facts = facts.get(session.id, Facts())
            assert session.pid is not None
            for fd in item["fds"]:
                os.set_inheritable(fd, False)
            # Not reaped by anybody since, so the number is still this process's.
            child = Child(session.pid, os.pidfd_open(session.pid), *item["fds"])
            group = self.groups.find(session.id) if self.groups else None
            live = self._adopt(session, child, group, item["open"])
            live.output.restore(item["output"])
            live.report.unread = bytes.fromhex(item.get("report", ""))
            live.shell_pid = item["shell"]
            for name, rest in item["rest"].items():
                live.splitters[name].rest = bytes.fromhex(rest)
            # An unfinished line may be the beginning of READY.
            live.scanner.feed(live.splitters["stdout"].rest.rpartition(b"\n")[2])
            for name in live.splitters:
                self._log_lines(live, name)
            self._plan_summary(live)

    @property
    def descriptors(self) -> list[int]:
        """What the next process image must inherit."""
        return [fd for live in self._live.values() for fd in live.child[2:]]

    def _command(self, app_id: AppId, number: int) -> tuple[list[str], str | None, Facts]:
        """The command line of a session, what to say of its capabilities, and what it runs. Raises Refused."""
        try:
            runtime = find_runtime(self._settings)
            package = store.open_package(app_id, self.stores, self.manifests.recall)
            os.close(package.module_fd)
        except WeftError as error:
            raise _refused(_REFUSALS.get(error.problem, ErrorCode.SPAWN_FAILED), error) from None
        try:
            grants = capabilities.resolve(
                package.manifest.capabilities,
                lambda: capabilities.data_directory(self._places.data_root, app_id),
                self._places.home,
            )
        except WeftError as error:
            raise _refused(ErrorCode.CAPABILITY_REFUSED, error) from None
        argv = [os.fspath(runtime), app_id, str(number)]
        for grant in grants.directories:
            argv += ["--preopen" if grant.writable else "--preopen-ro", f"{grant.host}::{grant.guest}"]
        data = next((os.fspath(grant.host) for grant in grants.directories if grant.guest == "/data"), None)
        # As the manifest has it: so is the list of installed apps, with which it is compared.
        facts = Facts(package.manifest.version, package=_shown(package.directory), data=_shown(data))
        return argv, grants.notice, facts

    def _fork(self, app_id: AppId, argv: list[str]) -> tuple[Child, SessionGroup | None] | None:
        """The next session's process by the fork server, if there is one."""
        try:
            spare = self.spares.take(Path(argv[0]), app_id, self.numbers.next)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.spares.failed(error)
            return None
        if spare is None:
            return None
        if spare.begin(argv[1:]):
            return spare.child, spare.group
        self.spares.end(spare)
        return None

    def _session_environment(self) -> dict[str, str]:
        return processes.environment(
            self._environ,
            log_to_journal=self._log.is_native,
            log_level=self._log.level,
            compiler_procs=self.groups.compiler_procs if self.groups else None,
        )

    def _execute(self, argv: list[str]) -> tuple[Child, SessionGroup | None]:
        """The next session's process by executing the runtime. Raises Refused."""
        group = None
        try:
            while True:
                try:
                    group = self._make_group(self.numbers.next)
                    break
                except FileExistsError:  # that of a process which is still on its way out
                    self.numbers.skip()
        except OSError as error:
            message = f"cannot make the session's control group: {error.strerror}"
            raise Refused(ErrorCode.SPAWN_FAILED, message) from None
        argv = [argv[0], argv[1], str(self.numbers.next), *argv[3:]]
        environment = self._session_environment()
        try:
            return processes.spawn(argv, environment, group), group
        except OSError as error:
            if group is not None:
                # The process may have been there for a moment.
                group.kill()
                self._remove_group(group)
                self.numbers.skip()  # the group may still be there
            message = f"cannot start {printable(argv[0])}: {error.strerror}"
            raise Refused(ErrorCode.SPAWN_FAILED, message) from None

    def _make_group(self, number: int) -> SessionGroup | None:
        """The control group of a new session, where there are any. Raises OSError."""
        if self.groups is None:
            return None
        limits = Limits(self._settings.memory_max, self._settings.cpu_quota, self._settings.tasks_max)
        return self.groups.make(number, limits)

    def _remove_group(self, group: SessionGroup) -> None:
        """Remove a group that is not needed any more, once nothing is in it."""
        self._go_on_removing(Removal(group))

    def _go_on_removing(self, removal: Removal) -> None:
        delay = removal.work()
        if delay is not None:
            asyncio.get_running_loop().call_later(delay, self._go_on_removing, removal)

    def _adopt(
        self,
        session: Session,
        child: Child,
        group: SessionGroup | None,
        streams: Sequence[str] = ("stdout", "stderr"),
    ) -> _Live:
        """Watch a session's process, its pipes and its deadline."""

        def write(stream: str, line: str) -> None:
            level = Level.WARNING if stream == "stderr" else Level.INFO
            self._entry(
                live, level, line, Event.OUTPUT,
                WEFT_STREAM=stream, SYSLOG_IDENTIFIER=output_identifier(session.app_id, session.id),
            )  # fmt: skip

        def dropped(count: int) -> None:
            message = (
                f"{counted(count, 'line')} of its output {'was' if count == 1 else 'were'} dropped: more than {self._settings.log_lines} lines"
                f" in {self._settings.log_interval:g} s"
            )
            self._entry(live, Level.WARNING, message, Event.OUTPUT_DROPPED, WEFT_DROPPED=str(count))

        output = OutputLog(self._settings.log_lines, self._settings.log_interval, write, dropped)
        live = self._live[session.id] = _Live(session, child, group, output)
        loop = asyncio.get_running_loop()
        for name in ("stdout", "stderr"):
            if name in streams:
                loop.add_reader(live.open_streams[name], self._readable, live, name)
            else:
                del live.open_streams[name]
        if session.state is State.STARTING:
            what = f"the report of session {session.id}"
            loop.add_reader(child.report, self._tasks.call, what, self._reported, live)
        loop.add_reader(child.pidfd, self._has_ended, live)
        self._all_ended.clear()
        self._arm(live)
        return live

    def _arm(self, live: _Live) -> None:
        """Set the timer for the session's deadline as it is now."""
        if live.deadline_timer is not None:
            live.deadline_timer.cancel()
        live.deadline_timer = None
        if live.session.deadline is not None:
            delay = live.session.deadline - time.monotonic()
            live.deadline_timer = asyncio.get_running_loop().call_later(max(0, delay), self._deadline, live)

    def _reported(self, live: _Live) -> None:
        """The runtime says something before READY; afterwards nobody listens until its end."""
        now = time.monotonic()
        if live.report.is_compiling() and now < live.extended_until:
            self._act(live, live.session.compiling(ready_deadline=now + self._settings.ready_timeout))
        if not live.report.is_open:
            asyncio.get_running_loop().remove_reader(live.child.report)

    def _deadline(self, live: _Live) -> None:
        if not self._tasks.call(f"the deadline of session {live.session.id}", self._act_at_deadline, live):
            # However far it came: the session must not live on because of that.
            loop = asyncio.get_running_loop()
            live.deadline_timer = loop.call_later(AGAIN_S, self._deadline, live)

    def _act_at_deadline(self, live: _Live) -> None:
        timeout = self._settings.ready_timeout
        self._act(live, live.session.deadline_passed(timeout, kill_deadline=self._kill_deadline()))

    def _kill_deadline(self) -> float:
        return time.monotonic() + self._settings.stop_grace

    def _act(self, live: _Live, actions: Sequence[Action]) -> None:
        session = live.session
        for action in actions:
            match action:
                case Action.ANNOUNCE_READY:
                    asyncio.get_running_loop().remove_reader(live.child.report)
                    took = clock.now() - session.launched_at
                    # First of all those who wait for it.
                    self._announce(AppReady(session.id, session.app_id))
                    self._entry(live, Level.INFO, f"ready after {took:.3f} s", Event.SESSION_READY)
                    self._start_shell(live)
                    self.on_change()
                case Action.TERMINATE:
                    late = session.ready_at is None and not session.stop_expected
                    self._entry(
                        live, Level.WARNING if late else Level.INFO, f"ending it: {session.stop_reason}",
                        Event.NOT_READY if late else None, WEFT_REASON=session.stop_reason or "",
                    )  # fmt: skip
                    processes.terminate(live.child)
                case Action.KILL:
                    message = f"still there {self._settings.stop_grace:g} s after SIGTERM: killing it"
                    self._entry(live, Level.WARNING, message)
                    live.kill()
                case Action.ANNOUNCE_STOPPED:
                    self._announce(AppState(session.id, State.STOPPED))
        self._arm(live)

    def _readable(self, live: _Live, name: str) -> None:
        """Some output, or its end. One read at a time: a flood must leave room for everybody else."""
        try:
            data = os.read(live.open_streams[name], _READ_SIZE)
        except BlockingIOError:
            return
        self._output(live, name, data)

    def _output(self, live: _Live, name: str, data: bytes) -> None:
        """Take what was read of a stream; nothing is its end."""
        splitter, at_end = live.splitters[name], not data
        is_ready = name == "stdout" and (live.scanner.end() if at_end else live.scanner.feed(data))
        if is_ready:
            # The signal is not output.
            start, end = live.scanner.span
            if start == 0:
                splitter.forget_line()
            data = data[:start] + data[end:]
        splitter.feed(data)
        if at_end:
            splitter.end()
            asyncio.get_running_loop().remove_reader(live.open_streams.pop(name))
        if is_ready:
            self._act(live, live.session.ready(now=clock.now()))
        if at_end and name == "stdout":
            self._act(live, live.session.output_ended(now=time.monotonic()))
        self._log_lines(live, name)

    def _log_lines(self, live: _Live, name: str) -> None:
        """Log lines that were read, and plan the next turn of the stream where it has to wait for that."""
        has_more = live.output.take(name, live.splitters[name], time.monotonic())
        self._plan_summary(live)
        if not has_more and not (live.output.is_full and name in live.open_streams):
            return
        loop = asyncio.get_running_loop()
        if name in live.open_streams:
            loop.remove_reader(live.open_streams[name])
        delay = 0 if has_more else _FLOOD_PAUSE_S
        live.pauses[name] = loop.call_later(delay, self._go_on, live, name)

    def _go_on(self, live: _Live, name: str) -> None:
        del live.pauses[name]
        try:
            if live.splitters[name].has_line:
                self._log_lines(live, name)
        finally:
            # Whatever went wrong, an app must not hang on its output.
            if name in live.open_streams and name not in live.pauses:
                loop = asyncio.get_running_loop()
                loop.add_reader(live.open_streams[name], self._readable, live, name)

    def _plan_summary(self, live: _Live) -> None:
        """Have it told what was dropped, even if the app falls silent."""
        if live.output.is_dropping and live.summary_timer is None:
            what = f"the summary of session {live.session.id}"
            live.summary_timer = self._tasks.later(live.output.interval, what, self._summarize, live)

    def _summarize(self, live: _Live) -> None:
        live.summary_timer = None
        live.output.summarize()

    def _has_ended(self, live: _Live) -> None:
        self._bring_to_an_end(live, self._ended, live)

    def _bring_to_an_end(
        self, live: _Live, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Do one step of the end of a session; where that fails, the session ends without the rest."""
        what = f"the end of session {live.session.id}"
        if not self._tasks.call(what, step, *args, **kwargs):
            self._tasks.call(what, self._abandon, live)

    def _abandon(self, live: _Live) -> None:
        """Do what is owed to others when a session's end could not be handled as it should be."""
        loop = asyncio.get_running_loop()
        for fd in (live.child.pidfd, live.child.report, *live.open_streams.values()):
            loop.remove_reader(fd)
        for timer in (live.deadline_timer, live.summary_timer):
            if timer is not None:
                timer.cancel()
        if not live.is_collected:
            live.kill()
            with contextlib.suppress(OSError):
                processes.reap(live.child)
            with contextlib.suppress(OSError):
                processes.close(live.child)
        if live.group is not None:
            self._remove_group(live.group)
        self._live.pop(live.session.id, None)
        if not self._live:
            self._all_ended.set()
        if live.session.is_live:
            live.session.ended(
                exit_status=None, signal=None, reason="a fault of the daemon", now=clock.now()
            )
        self._stopped[live.session.id] = live.session
        self._tasks.call("restoring sessions", self.on_end, live.session)
        self._announce(AppState(live.session.id, State.STOPPED))
        self.on_change()

    def _ended(self, live: _Live) -> None:
        """The process is gone, but not reaped yet: its output and its report are read first."""
        loop = asyncio.get_running_loop()
        for fd in (live.child.pidfd, live.child.report, *live.open_streams.values()):
            loop.remove_reader(fd)
        live.stop_pauses()
        live.kill()
        self._drain(live, _READS_AT_END)

    def _drain(self, live: _Live, reads: int) -> None:
        """Log what is left of its output, a piece in each turn of the loop, with so many `reads` at most."""
        for name, splitter in live.splitters.items():
            while splitter.has_line or name in live.open_streams:
                data = b""
                if splitter.has_line:
                    self._log_lines(live, name)
                else:
                    # Somebody else may hold the other end, and even write: this session is over all the same.
                    with contextlib.suppress(BlockingIOError):
                        data = os.read(live.open_streams[name], _READ_SIZE) if reads else b""
                        reads -= 1
                    self._output(live, name, data)
                live.stop_pauses()
                if data or splitter.has_line:
                    loop = asyncio.get_running_loop()
                    loop.call_soon(self._bring_to_an_end, live, self._drain, live, reads)
                    return
        self._finish(live)

    def _finish(self, live: _Live) -> None:
        """All of its output is logged: collect the process and tell how it ended."""
        session = live.session
        account = live.report.account()
        result = processes.reap(live.child)
        usage = Usage(result.cpu_seconds, None, None)
        if live.group is not None:
            usage = live.group.usage()
        session.facts = session.facts._replace(memory_peak=usage.memory_peak, cpu_seconds=usage.cpu_seconds)
        actions = session.ended(
            exit_status=result.status, signal=result.signal,
            reason=account.reason or usage.out_of_memory, now=clock.now(),
        )  # fmt: skip
        for timer in (live.deadline_timer, live.summary_timer):
            if timer is not None:
                timer.cancel()
        live.output.summarize()
        processes.close(live.child)
        live.is_collected = True
        if live.shell_pid is not None:
            processes.kill_and_reap(live.shell_pid)
        del self._live[session.id]
        self._stopped[session.id] = session
        while len(self._stopped) > HISTORY_MAX:
            self._stopped.popitem(last=False)
        if live.group is not None:
            self._remove_group(live.group)
        self._log_cause(live, account, result, usage)
        self._log_end(live, result, usage)
        self._tasks.call("restoring sessions", self.on_end, session)
        if result.status == ExitStatus.TRY_AGAIN:
            self._background.request()
        self._act(live, actions)
        self.on_change()
        if not self._live:
            self._all_ended.set()

    def _log_cause(self, live: _Live, account: Account, result: processes.Exit, usage: Usage) -> None:
        """Tell what its runtime would have told, had it not left that to us; and what it could not know."""
        event, reason = account.event, account.reason
        if reason is None and usage.out_of_memory:
            event, reason = Event.OUT_OF_MEMORY, usage.out_of_memory
        if event is None or reason is None:
            return
        fields = {"WEFT_REASON": reason}
        if result.status is not None:
            fields["WEFT_EXIT_STATUS"] = str(result.status)
        if account.problem is not None:
            fields["WEFT_PROBLEM"] = account.problem
        level = Level.CRIT if event is Event.INTERNAL_ERROR else Level.ERR
        self._entry(
            live, level, f"{reason}\n{account.detail}" if account.detail else reason, event, **fields
        )

    def _log_end(self, live: _Live, result: processes.Exit, usage: Usage) -> None:
        session = live.session
        assert session.stopped_at is not None
        run_time = session.stopped_at - session.launched_at
        how = f"by {result.signal}" if result.signal else f"with status {result.status}"
        used = f"CPU {usage.cpu_seconds:.3f} s"
        if usage.memory_peak is not None:
            used += f", memory peak {in_units(usage.memory_peak)}"
        message = f"ended {how} after {run_time:.3f} s ({used}): {session.reason}"
        as_asked = result.status == 0 or session.stop_expected
        fields = {} if result.status is None else {"WEFT_EXIT_STATUS": str(result.status)}
        if result.signal is not None:
            fields["WEFT_SIGNAL"] = result.signal
        if not as_asked:
            fields["MESSAGE_ID"] = UNASKED_END
        if usage.memory_peak is not None:
            fields["WEFT_MEMORY_PEAK"] = str(usage.memory_peak)
        self._entry(
            live, Level.INFO if as_asked else Level.WARNING, message, Event.SESSION_ENDED,
            WEFT_REASON=session.reason or "", WEFT_RUN_USEC=str(round(run_time * 1e6)),
            WEFT_CPU_USEC=str(round(usage.cpu_seconds * 1e6)), **fields,
        )  # fmt: skip

    def _start_shell(self, live: _Live) -> None:
        shell = self._settings.app_shell_bin
        if shell is None:
            return
        argv = [os.fspath(shell), live.session.app_id, str(live.session.id)]
        try:
            live.shell_pid = processes.spawn_shell(argv, self._environ)
        except OSError as error:
            message = f"cannot start its app shell {printable(str(shell))}, ignoring: {error.strerror}"
            self._entry(live, Level.WARNING, message)

    def _entry(
        self, live: _Live, level: Level, message: str, event: Event | None = None, **fields: str
    ) -> None:
        self._log.entry(level, message, event, **live.fields, **fields)


def _refused(code: ErrorCode, error: WeftError) -> Refused:
    return Refused(code, str(error), _REFUSAL_EVENTS.get(error.problem, Event.LAUNCH_REFUSED))


def _shown(path: str | Path | None) -> str | None:
    """For a message, which is UTF-8 whatever the path is."""
    return None if path is None else printable(paths.shown(path))


def _nothing(*_: object) -> None:
    pass
