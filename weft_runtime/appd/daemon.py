# SPDX-License-Identifier: Apache-2.0
"""The daemon: puts the parts together, and starts, reloads and ends them in order."""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from weft_runtime import __version__, activation
from weft_runtime.appd import cgroups, clock, control, handover, status, websocket
from weft_runtime.appd import child as processes
from weft_runtime.appd.cgroups import SessionGroups
from weft_runtime.appd.control import ControlServer
from weft_runtime.appd.dispatch import Client, Dispatcher
from weft_runtime.appd.keeper import Keeper
from weft_runtime.appd.listener import listen
from weft_runtime.appd.loopwatch import open_watch
from weft_runtime.appd.numbers import Counter, Numbers
from weft_runtime.appd.persistence import LastSession, write_port
from weft_runtime.appd.restorer import Restorer
from weft_runtime.appd.settings import WS_PORT_OFF, Places, Settings, find_runtime, load, places
from weft_runtime.appd.supervisor import Supervisor
from weft_runtime.appd.tasks import Tasks, Worker
from weft_runtime.appd.websocket import WebSocketServer
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import printable, quote
from weft_runtime.journal import Event, Level, Log
from weft_runtime.notify import Notifier, open_notifier
from weft_runtime.plural import counted
from weft_runtime.protocol import DaemonStatus, Error, ErrorCode, Reloaded

CONTROL_NAME, WS_NAME = "control", "ws"
"""FileDescriptorName= of the sockets that systemd passes in."""

CHANGE_DELAY_S = 0.2
"""Seconds after a change before it is told to systemd and saved: many changes become one."""

STRAYS_DELAY_S = 0.1
"""Seconds from one look for strays to the next: many ends become one look, whose cost grows with the number of
sessions."""

STRAYS_AT_ONCE = 256
"""Children without a session of their own that one look is for: each takes three system calls."""

CHECK_TIMEOUT_S = 30.0
"""Seconds that the next program may take to say that it would start."""

NUMBER_S = 0.5
"""Seconds for the number of the next session, beyond those for the list: without it some are skipped."""

STRAYS_TIMEOUT_S = 0.3
"""Seconds for what the last sessions have left to be gone once it is killed."""

TAKE_S = 0.5
"""Seconds by which a slow disk may delay the start, which does not depend on it."""

GIVE_WAY_S = 0.0005
"""Seconds after which another thread of ours lets the loop go on, which asks for that after each of some fifty system
calls of a launch. Python's own 5 ms are for threads that are equals."""

PORT_FILE = "appd.wsport"
PROCESS_NAME = b"weft-appd"
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


class Daemon:
    """One run of weft-appd, from its sockets to its last session."""

    def __init__(
        self, config: Path | None, settings: Settings, environ: Mapping[str, str], log: Log
    ) -> None:
        """Raises WeftError where the environment has no place for the daemon's files."""
        self._config = config
        self._settings = settings
        self._environ = environ
        self._log = log
        self._places: Places = places(settings, environ)
        self._dispatcher = Dispatcher()
        self._tasks = Tasks(log)
        # What is in the state directory is read and written in the order in which that is asked for.
        state = Worker("weft-state")
        self._numbers = Numbers(Counter(self._places.state, self._places.runtime), state, self._tasks, log)
        self._supervisor = Supervisor(
            settings, self._places, environ, log, self._dispatcher.announce, self._numbers,
            self._dispatcher.turns,
        )  # fmt: skip
        self._dispatcher.supervisor = self._supervisor
        self._dispatcher.reload = self._request_reload
        self._dispatcher.status = self._describe
        self._dispatcher.settings = lambda: status.all_settings(settings)
        self._dispatcher.failed = self._request_failed
        self._supervisor.on_change = self._changed
        self._notifier: Notifier = open_notifier(
            log, wanted=True, notify_socket=environ.get("NOTIFY_SOCKET"), later=self._notify_later
        )
        self._restorer = Restorer(
            self._supervisor, self._dispatcher.acknowledge, self._changed, self._tasks, log
        )
        self._supervisor.on_end = self._restorer.ended
        self._dispatcher.restorer = self._restorer
        self._keeper = Keeper(
            LastSession(self._places.state, self._places.runtime),
            self._listed, self._restorer.add, state, self._tasks, log,
        )  # fmt: skip
        self._dispatcher.keeper = self._keeper
        self._files = Worker("weft-settings")
        self._watch = open_watch(environ, self._log_callback)
        self._since = clock.now()
        self._stopping = asyncio.Event()
        self._reloading: asyncio.Task[None] | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._change_timer: asyncio.TimerHandle | None = None
        self._strays_timer: asyncio.TimerHandle | None = None
        self._strays_begin = 0
        self._looked_at = float("-inf")
        self._checker: int | None = None
        self._own_socket: Path | None = None
        self._owed: list[Client] = []
        """Those whose RELOAD the process image before this one has carried out."""
        self._control: ControlServer
        self._websocket: WebSocketServer | None = None

    async def run(self, state: Mapping[str, Any] | None) -> None:
        """Serve until SIGTERM or SIGINT; `state` is what the process image before this one has left.

        Raises WeftError where the daemon cannot start.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._log_failure)
        sys.setswitchinterval(GIVE_WAY_S)
        # Orphans of a session come to us and not to PID 1, so that they can be found and ended.
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # After a reload it would be that of the interpreter.
        libc.prctl(_PR_SET_NAME, PROCESS_NAME, 0, 0, 0)
        self._supervisor.launcher.groups = self._open_groups(is_first=state is None)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._request_reload, None)
        loop.add_signal_handler(signal.SIGCHLD, self._child_ended)
        for directory in (self._places.state, self._places.runtime):
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise from_os_error(f"make the directory {quote(str(directory))}", error) from None
        if state is None:
            self._open_sockets()
        else:
            self._take_over(state)
        self._supervisor.remove_left_over_groups()
        handover.unblock_signals()
        # Before anybody is served, so that those apps are the first, unless the disk is slow.
        taking = self._tasks.start(
            "the list of the last session", self._keeper.take, wanted=self._settings.restore
        )
        numbering = self._tasks.start("the numbers of sessions", self._numbers.begin)
        await asyncio.wait([taking, numbering], timeout=TAKE_S)
        # What was imported stays: the garbage collector need not look at it again and again, for 10 ms each time.
        gc.collect()
        gc.freeze()
        await self._serve()
        self._ping_watchdog()
        self._supervisor.start_fork_server()
        if state is not None:
            self._finish_reload()
        if self._watch is not None:
            self._watch.begin()
        self._restoring = self._tasks.start("starting the apps of the last session", self._restorer.run)
        await self._stopping.wait()
        await self._shut_down()

    def _open_groups(self, *, is_first: bool) -> SessionGroups | None:
        """The control groups of the sessions, where systemd leaves it to us to make some."""
        base = cgroups.delegated_group()
        if base is None:
            # Started by hand there is no unit, and nobody expects limits.
            if is_first and "NOTIFY_SOCKET" in self._environ:
                self._log.notice("the unit's control group is not delegated: sessions run without limits")
            return None
        try:
            groups = SessionGroups(base)
        except OSError as error:
            problem = f"cannot divide the control group {quote(str(base))}: {error.strerror}"
            self._log.warning(f"{problem}; sessions run without limits")
            return None
        if is_first and (
            missing := [name for name in cgroups.CONTROLLERS if name not in groups.controllers]
        ):
            self._log.notice(
                f"no controller here for {', '.join(missing)}: sessions run without these limits"
            )
        return groups

    def _open_sockets(self) -> None:
        """Take all the sockets that systemd passes in, by name, or make our own."""
        passed = activation.passed_sockets()
        for name in passed.keys() - {CONTROL_NAME, WS_NAME}:
            for unknown in passed[name]:
                where = f"at {activation.address(unknown)} named {quote(name)}"
                hint = f"FileDescriptorName= must be '{CONTROL_NAME}' or '{WS_NAME}'"
                self._log.warning(f"systemd passes a socket {where}, which nobody serves: {hint}")
                unknown.close()
        listeners, ws_listeners = passed.get(CONTROL_NAME, []), passed.get(WS_NAME, [])
        activation.check(CONTROL_NAME, listeners, (socket.AF_UNIX,))
        activation.check(WS_NAME, ws_listeners, (socket.AF_INET, socket.AF_INET6))
        if not listeners:
            if self._places.socket is None:
                message = "there is no place for the control socket"
                hint = "set WEFT_APPD_SOCKET or XDG_RUNTIME_DIR, or start weft-appd.socket"
                raise WeftError(Problem.CONFIG_INVALID, message, hint)
            listeners = [listen(self._places.socket)]
            self._own_socket = self._places.socket
        self._control = ControlServer(listeners, self._settings, self._dispatcher, self._log)
        try:
            # Where systemd opens the doors, it opens all of them: no port without its socket unit.
            if not passed and self._settings.ws_port != WS_PORT_OFF:
                ws_listeners = [websocket.listen(self._settings.ws_port)]
            if ws_listeners:
                self._websocket = WebSocketServer(ws_listeners, self._settings, self._dispatcher, self._log)
        except WeftError:
            self._close_control()
            raise

    async def _serve(self) -> None:
        listeners = [*self._control.listeners]
        self._control.start()
        if self._websocket is not None:
            self._websocket.start()
            self._write_port(self._websocket.port)
            listeners += self._websocket.listeners
        doors = " and ".join(activation.address(listener) for listener in listeners)
        try:
            runtime = printable(str(find_runtime(self._settings)))
        except WeftError as error:
            self._log.entry(Level.ERR, str(error), Event.NO_RUNTIME, WEFT_REASON=str(error))
            runtime = "none"
        message = f"weft-appd {__version__} serves {doors}, runtime {runtime}"
        self._log.entry(Level.INFO, message, Event.DAEMON_READY)
        self._notifier.send("READY=1", self._status())

    def _write_port(self, port: int) -> None:
        path = self._places.runtime / PORT_FILE
        try:
            write_port(path, port)
        except OSError as error:  # who knows the port does not need it
            message = f"cannot write {quote(str(path))}, which tells local pages the port: {error.strerror}"
            self._log.entry(Level.WARNING, message, Event.SAVE_FAILED, WEFT_REASON=message)

    async def _shut_down(self) -> None:
        """STOPPING, stop accepting, end the sessions, tell the clients, exit."""
        if self._watch is not None:
            self._watch.end()
        # Whatever is under way must neither take over now nor write a list of what is left meanwhile.
        self._supervisor.on_change = lambda: None
        if self._change_timer is not None:
            self._change_timer.cancel()
        under_way = [task for task in (self._reloading, self._restoring) if task is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        self._answer_reload(Error(ErrorCode.SHUTTING_DOWN, "the daemon is shutting down"))
        count = len(self._supervisor.live)
        self._log.entry(Level.INFO, f"stopping, {counted(count, 'session')} to end", Event.DAEMON_STOPPING)
        self._notifier.send("STOPPING=1")
        saving = self._tasks.start("the last list", self._keeper.save_last, self._keeper.stop())
        self._control.stop()
        self._supervisor.close_fork_server()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.stop_grace + 0.5):
                await self._supervisor.stop_all("the daemon is stopping")
        await asyncio.sleep(0)  # the list goes to the disk before the number
        numbering = self._numbers.write_last()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STRAYS_TIMEOUT_S):
                while self._reap_strays():  # noqa: ASYNC110 - only the kernel knows
                    await asyncio.sleep(0.01)
        if self._websocket is not None:
            await self._websocket.close()
            with contextlib.suppress(OSError):
                (self._places.runtime / PORT_FILE).unlink()
        self._close_control()
        await saving
        if numbering is not None:
            await asyncio.wait([numbering], timeout=NUMBER_S)

    def _close_control(self) -> None:
        if self._own_socket is not None:
            # While it is still ours: the next daemon may make one as soon as nobody listens.
            self._own_socket.unlink(missing_ok=True)
        self._control.close()

    # What changes while it runs

    def _listed(self) -> list[str]:
        """The apps that the next daemon is to start: those whose end somebody has asked for are over."""
        running = [session.app_id for session in self._supervisor.live if not session.stop_expected]
        return [*running, *self._restorer.app_ids]

    def _changed(self) -> None:
        if self._change_timer is None:
            what = "telling of a change"
            self._change_timer = self._tasks.later(CHANGE_DELAY_S, what, self._tell_change)

    def _tell_change(self) -> None:
        self._change_timer = None
        self._keeper.save()
        self._notifier.send(self._status())

    def _status(self) -> str:
        live, starting = len(self._supervisor.live), self._supervisor.starting
        clients = counted(len(self._control.clients), "client")
        return f"STATUS={counted(live, 'session')}, {starting} of them starting, {clients}"

    def _describe(self) -> DaemonStatus:
        return status.describe(
            self._settings, self._supervisor,
            since=clock.to_unix(self._since), clients=len(self._dispatcher.clients), log_to_journal=self._log.is_native,
        )  # fmt: skip

    def _notify_later(self, seconds: float, send: Callable[[], None]) -> None:
        self._tasks.later(seconds, "notifying the service manager", send)

    def _ping_watchdog(self) -> None:
        """From the loop that does the work: a loop that hangs is what the watchdog is for."""
        microseconds = self._environ.get("WATCHDOG_USEC", "")
        if microseconds.isdigit() and self._environ.get("WATCHDOG_PID", str(os.getpid())) == str(
            os.getpid()
        ):
            # First the next one, which must come whatever becomes of this.
            asyncio.get_running_loop().call_later(int(microseconds) / 2e6, self._ping_watchdog)
            self._tasks.call("notifying the watchdog", self._notify_watchdog)

    def _notify_watchdog(self) -> None:
        self._notifier.send("WATCHDOG=1")

    def _child_ended(self) -> None:
        # The ends of sessions themselves are told by their descriptors, at once.
        if self._strays_timer is None:
            delay = max(0, self._looked_at + STRAYS_DELAY_S - time.monotonic())
            self._strays_timer = self._tasks.later(delay, "looking for strays", self._look_for_strays)

    def _look_for_strays(self) -> None:
        self._strays_timer = None
        self._looked_at = time.monotonic()
        if self._supervisor.launcher.spares.is_asking:
            self._child_ended()  # once the number of what has just been forked is known
        else:
            self._reap_strays()

    def _reap_strays(self) -> bool:
        """End and collect what the process of a session left to us; whether some of it is still there."""
        self._supervisor.reap_shells()
        known = {self._checker, *self._supervisor.pids}
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
        except OSError:  # a kernel without that file, or no descriptor left just now
            return False
        others = [pid for pid in map(int, children) if pid not in known]
        some_left = len(others) > STRAYS_AT_ONCE
        if some_left:
            # Those that live on in the group of a session must not hide the ones behind them.
            self._strays_begin = (self._strays_begin + STRAYS_AT_ONCE) % len(others)
            others = (others[self._strays_begin :] + others[: self._strays_begin])[:STRAYS_AT_ONCE]
            self._child_ended()
        for pid in others:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                # In the group of a live session it will end with that; anything else has no owner left.
                is_stray = os.getpgid(pid) not in known
                if is_stray:
                    os.kill(pid, signal.SIGKILL)
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    some_left |= is_stray
        return some_left

    def _log_failure(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio has no other place for."""
        error, message = context.get("exception"), printable(str(context["message"]))
        if isinstance(error, OSError) and error.errno in control.OUT_OF_RESOURCES:
            self._log.warning(f"{message}, trying again: {error.strerror}")
            return
        if error is None:
            error = RuntimeError("no exception is known")
        self._tasks.report(message, error)

    def _request_failed(self, client: Client, error: BaseException) -> None:
        """A request was not answered, for a fault of ours: say so."""
        self._tasks.report(f"a request of {client.caller}", error)
        answer = Error(ErrorCode.INTERNAL, "internal error of the daemon: its log says more")
        self._tasks.call(f"answering {client.caller}", client.give_up, answer)
        # A launch may have left a process that belongs to no session.
        self._child_ended()

    def _log_callback(self, text: str, is_fault: bool) -> None:
        self._log.entry(Level.ERR if is_fault else Level.NOTICE, f"event loop: {text}")

    # Reload

    def _request_reload(self, client: Client | None) -> None:
        """Begin a reload; `client` is answered when it is done, together with others that ask meanwhile."""
        if self._reloading is None:
            self._reloading = self._tasks.start("the reload", self._reload)

    async def _reload(self) -> None:
        try:
            reason = await self._try_to_reload()
            if reason is None:
                return
            message = f"reload refused, going on as before: {reason}"
            if self._watch is not None:
                self._watch.begin()
            # Each of them is owed to somebody, whatever becomes of the others.
            self._tasks.call("starting the fork server again", self._supervisor.start_fork_server)
            if self._websocket is not None:
                self._tasks.later(0, "opening the WebSocket again", self._websocket.start)
            self._log.entry(Level.ERR, message, Event.RELOAD_FAILED, WEFT_REASON=message)
            self._tasks.call("notifying the service manager", self._notifier.send, "READY=1", self._status())
            self._answer_reload(Error(ErrorCode.RELOAD_FAILED, message))
        finally:
            self._reloading = None

    async def _try_to_reload(self) -> str | None:
        """Come back only if that fails, with the reason; or with None where the daemon ends."""
        try:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    await self._files.run(load, self._config, self._environ)
            except TimeoutError:
                raise TimeoutError("the disk of the settings does not answer") from None
            await self._check_next_program()
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reloading")
            if self._websocket is not None:
                await self._websocket.stop()
            # The kernel would let the whole process wait for a thread that waits for a disk.
            if not await self._keeper.settle():
                raise TimeoutError("the disk of the state directory does not answer")
            if not await self._supervisor.packages.settle():
                raise TimeoutError("the disk of a package store does not answer")
            handover.block_signals()
            try:
                # One that has come before is still on its way: read, queued, and then handled.
                for _ in range(3):
                    await asyncio.sleep(0)
                if self._stopping.is_set():
                    return None
                # The next image starts one of its own: of the program and with the settings that are there now.
                if self._watch is not None:
                    self._watch.end()
                self._supervisor.close_fork_server()
                self._execute()
            finally:
                handover.unblock_signals()
        except (WeftError, OSError) as error:
            return str(error)
        except asyncio.CancelledError as error:
            if self._stopping.is_set():
                raise
            return self._tasks.report("the reload", error)
        except Exception as error:
            return self._tasks.report("the reload", error)

    async def _check_next_program(self) -> None:
        """Have the program that would take over look at itself and at the settings. Raises WeftError."""
        child = processes.spawn(handover.check_command(), handover.check_environment(self._environ))
        self._checker = child.pid
        try:
            ended = asyncio.Event()
            asyncio.get_running_loop().add_reader(child.pidfd, ended.set)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), CHECK_TIMEOUT_S)
        finally:
            asyncio.get_running_loop().remove_reader(child.pidfd)
            result = processes.reap(child)
            text = processes.read_text(child.stderr)
            processes.close(child)
            self._checker = None
        if result.status != 0:
            raise WeftError(Problem.CONFIG_INVALID, f"the next program does not start: {text}")

    def _execute(self) -> NoReturn:
        """Go on as the next process image. Raises OSError, and then nothing has changed."""
        doors = [listener.fileno() for listener in self._control.listeners]
        ws_doors = [listener.fileno() for listener in self._websocket.listeners] if self._websocket else []
        clients = [client.to_json() for client in self._control.clients]
        state = {
            "supervisor": self._supervisor.to_json(),
            "clients": clients,
            "control": doors[0],
            "websocket": ws_doors[0] if ws_doors else None,
            # By keys of their own: a program from before there could be several finds its first ones.
            "more_control": doors[1:],
            "more_websocket": ws_doors[1:],
            "own_socket": None if self._own_socket is None else str(self._own_socket),
            "since": clock.to_unix(self._since),
            **self._keeper.to_json(),
            **self._restorer.to_json(),
            **self._numbers.to_json(),
        }
        descriptors = [*doors, *ws_doors, *(client["fd"] for client in clients)]
        try:
            # Last of all: what is logged from here on only the next image can send.
            state["log"] = None if self._log.backlog is None else self._log.backlog.park()
            handover.execute(state, [*descriptors, *self._supervisor.descriptors], self._environ)
        finally:
            if self._log.backlog is not None:
                self._log.backlog.resume()

    def _take_over(self, state: Mapping[str, Any]) -> None:
        """Go on with what the process image before this one had."""
        if "since" in state:
            self._since = clock.from_unix(state["since"])
        self._keeper.restore(state)
        self._own_socket = None if state["own_socket"] is None else Path(state["own_socket"])
        doors = [state["control"], *state.get("more_control", [])]
        listeners = [_inherited(fd) for fd in doors]
        self._control = ControlServer(listeners, self._settings, self._dispatcher, self._log)
        if state["websocket"] is not None:
            ws_doors = [state["websocket"], *state.get("more_websocket", [])]
            ws_listeners = [_inherited(fd) for fd in ws_doors]
            self._websocket = WebSocketServer(ws_listeners, self._settings, self._dispatcher, self._log)
        # First the clients, so that they hear what the sessions have to tell. One that is lost takes no other with it.
        for values in state["clients"]:
            self._tasks.call("taking over a connection", self._control.adopt, values)
        self._restorer.restore(state)
        self._numbers.restore(state, state["supervisor"]["next_id"])
        self._supervisor.restore(state["supervisor"])
        # A RELOAD that is looked at from here on is another one.
        self._owed = [client for client in self._dispatcher.clients if client.waiting_for_reload]
        for client in list(self._dispatcher.clients):
            client.resume()

    def _finish_reload(self) -> None:
        # What the image before this one had planned.
        self._reap_strays()
        self._changed()
        self._keeper.survive_later()
        self._dispatcher.answer_ends()
        count = len(self._supervisor.live)
        verb = "lives" if count == 1 else "live"
        self._log.entry(Level.INFO, f"reloaded, {counted(count, 'session')} {verb} on", Event.RELOADED)
        self._answer_reload(Reloaded(__version__), self._owed)

    def _answer_reload(self, answer: Error | Reloaded, clients: Iterable[Client] | None = None) -> None:
        for client in list(self._dispatcher.clients if clients is None else clients):
            if client.waiting_for_reload:
                client.waiting_for_reload = False
                client.send(answer)
                client.resume()


def _inherited(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)
