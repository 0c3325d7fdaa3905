# SPDX-License-Identifier: Apache-2.0
"""The output of a session, on its way from the pipes to the log: both streams, and READY in one of them."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from functools import partial

from weft_runtime.appd.output import LineSplitter, OutputLog
from weft_runtime.appd.tasks import Tasks
from weft_runtime.appd.turns import Once, Turns
from weft_runtime.appd.watch import Watch
from weft_runtime.ready import ReadyScanner

NAMES = ("stdout", "stderr")

READS_AT_END = 64
"""Reads of a dead app's pipe: a pipe holds 64 KiB, and what wrote more after its death is not its output."""

_READ_SIZE = 64 * 1024

_OUTPUT = "output"
"""The owner of the turns of all sessions that write more than there is time for at once."""

_FLOOD_PAUSE_S = 0.005
"""Seconds between two reads of a session that has used up its lines. Its pipe is still emptied, since an app must not
hang on its output, but at 64 KiB a read that is 13 MB/s of what nobody will see: more would only take CPU time from
everybody else, the daemon's and the app's."""


class Streams:
    """What one session writes. `on_ready` is called at READY, `on_end` at the end of its standard output."""

    def __init__(
        self,
        owner: str,
        descriptors: Mapping[str, int],
        output: OutputLog,
        tasks: Tasks,
        turns: Turns,
        watch: Watch,
        on_ready: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """`owner` is whose they are, for messages. The `descriptors` are non-blocking, and stay the caller's."""
        self.output = output
        self.splitters = {name: LineSplitter() for name in NAMES}
        self.scanner = ReadyScanner()
        self.open = dict(descriptors)
        """Those whose end has not come."""
        self._owner = owner
        self._tasks = tasks
        self._turns = turns
        self._watch = watch
        self._on_ready = on_ready
        self._on_end = on_end
        self._pauses: dict[str, asyncio.Handle | Once] = {}
        """Streams that are not read just now, and what goes on with them."""
        self._summary_timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Read what comes from now on."""
        for name, fd in self.open.items():
            self._watch.add(fd, partial(self._readable, name))

    def unwatch(self) -> None:
        """Read only what `drain` is asked for."""
        for fd in self.open.values():
            self._watch.remove(fd)
        self._stop_pauses()

    def stop_timer(self) -> None:
        """Do not tell by itself what was dropped."""
        if self._summary_timer is not None:
            self._summary_timer.cancel()

    def drain(self, reads: int) -> int | None:
        """Log a piece of what is left, with so many `reads` at most; how many are left then, None if that was all."""
        for name, splitter in self.splitters.items():
            while splitter.has_line or name in self.open:
                data = b""
                if splitter.has_line:
                    self._log_lines(name)
                else:
                    # Somebody else may hold the other end, and even write: this session is over all the same.
                    with contextlib.suppress(BlockingIOError):
                        data = os.read(self.open[name], _READ_SIZE) if reads else b""
                        reads -= 1
                    self._take(name, data)
                self._stop_pauses()
                if data or splitter.has_line:
                    return reads
        return None

    def resume(self, rest: Mapping[str, str]) -> None:
        """Go on with what the process image before this one had read and not logged: `rest`, in hexadecimal digits."""
        for name, digits in rest.items():
            self.splitters[name].rest = bytes.fromhex(digits)
        # An unfinished line may be the beginning of READY.
        self.scanner.feed(self.splitters["stdout"].rest.rpartition(b"\n")[2])
        for name in self.splitters:
            self._log_lines(name)
        self._plan_summary()

    def _readable(self, name: str) -> None:
        """Some output, or its end. One read at a time: a flood must leave room for everybody else."""
        try:
            data = os.read(self.open[name], _READ_SIZE)
        except BlockingIOError:
            return
        self._take(name, data)

    def _take(self, name: str, data: bytes) -> None:
        """Take what was read of a stream; nothing is its end."""
        splitter, at_end = self.splitters[name], not data
        is_ready = name == "stdout" and (self.scanner.end() if at_end else self.scanner.feed(data))
        if is_ready:
            # The signal is not output.
            start, end = self.scanner.span
            if start == 0:
                splitter.forget_line()
            data = data[:start] + data[end:]
        splitter.feed(data)
        if at_end:
            splitter.end()
            self._watch.remove(self.open.pop(name))
        if is_ready:
            self._on_ready()
        if at_end and name == "stdout":
            self._on_end()
        self._log_lines(name)

    def _log_lines(self, name: str) -> None:
        """Log lines that were read, and plan the next turn of the stream where it has to wait for that."""
        has_more = self.output.take(name, self.splitters[name], time.monotonic())
        self._plan_summary()
        if not has_more and not (self.output.is_full and name in self.open):
            return
        if name in self.open:
            self._watch.remove(self.open[name])
        if has_more:
            self._ask(name)
        else:
            loop = asyncio.get_running_loop()
            self._pauses[name] = loop.call_later(_FLOOD_PAUSE_S, self._ask, name)

    def _ask(self, name: str) -> None:
        """Go on with a stream in a turn: however many sessions write all they can, it is one owner's share of the time."""
        go_on = partial(self._tasks.call, f"the output of {self._owner}", self._go_on, name)
        self._pauses[name] = Once(self._turns, _OUTPUT, go_on)

    def _go_on(self, name: str) -> None:
        del self._pauses[name]
        try:
            if self.splitters[name].has_line:
                self._log_lines(name)
            elif name in self.open:
                self._readable(name)
        finally:
            # Whatever went wrong, an app must not hang on its output.
            if name in self.open and name not in self._pauses:
                self._watch.add(self.open[name], partial(self._readable, name))

    def _stop_pauses(self) -> None:
        for handle in self._pauses.values():
            handle.cancel()
        self._pauses.clear()

    def _plan_summary(self) -> None:
        """Have it told what was dropped, even if the app falls silent."""
        if self.output.is_dropping and self._summary_timer is None:
            what = f"the summary of {self._owner}"
            self._summary_timer = self._tasks.later(self.output.interval, what, self._summarize)

    def _summarize(self) -> None:
        self._summary_timer = None
        self.output.summarize()
