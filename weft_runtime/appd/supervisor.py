# SPDX-License-Identifier: Apache-2.0
"""The sessions: launches, finds and ends them, and remembers those that have ended."""

import asyncio
import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec

from weft_runtime.appd import child as processes
from weft_runtime.appd import clock, ending
from weft_runtime.appd.background import Background
from weft_runtime.appd.cgroups import Usage
from weft_runtime.appd.child import Child
from weft_runtime.appd.launcher import Launcher, Refused
from weft_runtime.appd.live import Live, Surroundings
from weft_runtime.appd.numbers import NotNumbered, Numbers
from weft_runtime.appd.packages import Packages
from weft_runtime.appd.session import DAEMON, Facts, Session
from weft_runtime.appd.settings import Places, Settings, find_runtime, is_own_runtime
from weft_runtime.appd.streams import NAMES, READS_AT_END
from weft_runtime.appd.tasks import Tasks
from weft_runtime.appd.turns import Turns
from weft_runtime.appd.use import Use, of_session
from weft_runtime.appd.watch import Watch
from weft_runtime.errors import ExitStatus, WeftError
from weft_runtime.escape import printable, quote
from weft_runtime.ids import AppId
from weft_runtime.journal import Event, Level, Log
from weft_runtime.manifests import Reading
from weft_runtime.plural import counted
from weft_runtime.protocol import AppReady, AppState, ErrorCode, State
from weft_runtime.settings import stores
from weft_runtime.statusline import VERSION_MAX

HISTORY_MAX = 1000
"""Stopped sessions that are remembered: enough to answer "what happened last night", and bounded."""

P = ParamSpec("P")


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
        turns: Turns,
    ) -> None:
        self._settings = settings
        self._log = log
        self._tasks = Tasks(log)
        self._announce = announce
        self.numbers = numbers
        store_override = {} if settings.app_store is None else {"WEFT_APP_STORE": str(settings.app_store)}
        environ = {**environ, **store_override}
        self.packages = Packages(stores(environ))
        watch = Watch()
        self.launcher = Launcher(settings, places, environ, log, numbers, self.packages, watch)
        self._live: dict[int, Live] = {}
        self._stopped: OrderedDict[int, Session] = OrderedDict()
        self._all_ended = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever a session has begun, is ready or has ended."""
        self.on_end: Callable[[Session], None] = lambda session: None
        """Called when a session has ended, before anybody else hears of it."""
        self.closing = False
        self._background = Background(places.runtime, log, self._tasks)
        self._surroundings = Surroundings(
            settings, environ, log, self._tasks, turns, watch, announce, lambda: self.on_change()
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
        self.packages.manifests.use(reading)
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
            self.packages.manifests.use(None)

    def _launch(self, app_id_text: str, caller: str) -> Session:
        if self.closing:
            raise Refused(ErrorCode.SHUTTING_DOWN, "the daemon is shutting down")
        try:
            app_id = AppId.parse(app_id_text)
        except ValueError as error:
            raise Refused(ErrorCode.INVALID_APP_ID, str(error)) from None
        count = len(self._live)
        if count >= self._settings.max_sessions:
            there = f"there {'is' if count == 1 else 'are'} {counted(count, 'session')} already"
            message = f"{there}, the setting max_sessions allows no more"
            raise Refused(ErrorCode.TOO_MANY_SESSIONS, message)
        if not self.numbers.is_ready:
            raise NotNumbered
        known = self.launcher.find(app_id)
        forked = self.launcher.fork(app_id, known)
        child, group = forked or self.launcher.execute(known.command(app_id, self.numbers.next))
        session = Session.launched(
            self.numbers.next, app_id, child.pid,
            now=clock.now(), ready_deadline=time.monotonic() + self._settings.ready_timeout,
        )  # fmt: skip
        session.facts = known.facts._replace(launched_by=caller)
        self.numbers.skip()
        live = Live(session, child, group, self._surroundings)
        try:
            self._adopt(live)
        except BaseException:
            self._abandon(live)
            raise
        version = printable(known.facts.version or "", VERSION_MAX)
        message = f"launched by {caller}, pid {child.pid}: version {version} from {known.facts.package}"
        live.entry(Level.INFO, message, Event.SESSION_LAUNCHED, WEFT_CALLER=caller, WEFT_VERSION=version)
        if self._log.level >= Level.DEBUG:
            how = "a process of the fork server's" if forked else "executed"
            searched = ", ".join(quote(str(path)) for path in self.packages.stores)
            program = printable(str(known.program))
            live.entry(Level.DEBUG, f"{program}, {how}; the stores are {searched}")
        if known.notice is not None:
            live.entry(Level.NOTICE, known.notice)
        self.on_change()
        return session

    def stop(self, session: Session, by: str) -> None:
        """Ask a live session to end, for `by`; it is killed if it does not. Asking again changes nothing."""
        self._live[session.id].stop(f"terminated by {by}", expected=True, by=by)

    def start_fork_server(self) -> None:
        """Have processes ready for the next sessions, where they may be forks."""
        if self._settings.fork_server:
            with contextlib.suppress(WeftError):  # the first launch says so
                program = find_runtime(self._settings)
                # Another one gets no plan, so its forks would wait in vain.
                if is_own_runtime(program, self._settings):
                    self.launcher.spares.start(program)

    def close_fork_server(self) -> None:
        """End it and the processes that wait; sessions live on."""
        self.launcher.spares.close()

    async def stop_all(self, why: str) -> None:
        """End every session, all at the same time, and wait until the last is gone."""
        self.closing = True
        for live in list(self._live.values()):
            live.stop(why, expected=True, by=DAEMON)
        if self._live:
            await self._all_ended.wait()

    @property
    def pids(self) -> Iterator[int]:
        """The process numbers that belong to sessions, or will, and so are no strays."""
        yield from self.launcher.spares.pids
        for live in self._live.values():
            yield live.child.pid
            if live.shell_pid is not None:
                yield live.shell_pid

    def reap_shells(self) -> None:
        """Collect the app shells that have ended by themselves."""
        for live in self._live.values():
            if live.shell_pid is not None and os.waitpid(live.shell_pid, os.WNOHANG) != (0, 0):
                live.shell_pid = None
                live.entry(Level.INFO, "its app shell has ended")

    def remove_left_over_groups(self) -> None:
        """Remove the groups of a process image before this one, which crashed or was reloaded."""
        if self.launcher.groups is not None:
            known = {live.group for live in self._live.values() if live.group is not None}
            for group in self.launcher.groups.others(known):
                self.launcher.remove_group(group)

    def to_json(self) -> dict[str, Any]:
        """All sessions, for the next process image; the descriptors in it must be inherited."""
        return {
            "next_id": self.numbers.next,
            "live": [live.to_json() for live in self._live.values()],
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
            group = self.launcher.groups.find(session.id) if self.launcher.groups else None
            live = Live(session, child, group, self._surroundings)
            self._adopt(live, item["open"])
            live.resume(item)

    @property
    def descriptors(self) -> list[int]:
        """What the next process image must inherit."""
        return [fd for live in self._live.values() for fd in live.child[2:]]

    def _adopt(self, live: Live, streams: Sequence[str] = NAMES) -> None:
        self._live[live.session.id] = live
        self._all_ended.clear()
        live.watch(self._has_ended, streams)

    def _has_ended(self, live: Live) -> None:
        self._bring_to_an_end(live, self._ended, live)

    def _bring_to_an_end(
        self, live: Live, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Do one step of the end of a session; where that fails, the session ends without the rest."""
        what = f"the end of session {live.session.id}"
        if not self._tasks.call(what, step, *args, **kwargs):
            self._tasks.call(what, self._abandon, live)

    def _abandon(self, live: Live) -> None:
        """Do what is owed to others when a session's end could not be handled as it should be."""
        live.unwatch()
        live.stop_timers()
        if not live.is_collected:
            live.kill()
            with contextlib.suppress(OSError):
                processes.reap(live.child)
            with contextlib.suppress(OSError):
                processes.close(live.child)
        if live.group is not None:
            self.launcher.remove_group(live.group)
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

    def _ended(self, live: Live) -> None:
        """The process is gone, but not reaped yet: its output and its report are read first."""
        live.unwatch()
        processes.kill_group(live.child)
        self._drain(live, READS_AT_END)

    def _drain(self, live: Live, reads: int) -> None:
        """Log what is left of its output, a piece in each turn of the loop, with so many `reads` at most."""
        left = live.streams.drain(reads)
        if left is None:
            self._finish(live)
        else:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._bring_to_an_end, live, self._drain, live, left)

    def _finish(self, live: Live) -> None:
        """All of its output is logged: collect the process and tell how it ended."""
        session = live.session
        account = live.report.account()
        result = processes.reap(live.child)
        usage = Usage(result.cpu_seconds, None, None)
        if live.group is not None:
            usage = live.group.usage(is_killed=result.signal == "SIGKILL")
        session.facts = session.facts._replace(memory_peak=usage.memory_peak, cpu_seconds=usage.cpu_seconds)
        actions = session.ended(
            exit_status=result.status, signal=result.signal,
            reason=account.reason or usage.out_of_memory, now=clock.now(),
        )  # fmt: skip
        live.stop_timers()
        live.streams.output.summarize()
        processes.close(live.child)
        live.is_collected = True
        if live.shell_pid is not None:
            processes.kill_and_reap(live.shell_pid)
        del self._live[session.id]
        self._stopped[session.id] = session
        while len(self._stopped) > HISTORY_MAX:
            self._stopped.popitem(last=False)
        if live.group is not None and not live.group.remove():
            live.group.kill()  # it has left its process group, or a part of it
            self.launcher.remove_group(live.group)
        ending.tell(live, account, result, usage)
        self._tasks.call("restoring sessions", self.on_end, session)
        if result.status == ExitStatus.TRY_AGAIN:
            self._background.request()
        live.act(actions)
        self.on_change()
        if not self._live:
            self._all_ended.set()
