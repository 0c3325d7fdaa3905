# SPDX-License-Identifier: Apache-2.0
"""Entries of the log on their way out: nobody who logs waits, and what is lost is counted.

An entry goes out at once where the other side takes it. Where it does not, the entry waits in a queue of bounded size,
and a thread passes it on. The thread exists only while something waits.
"""

import _thread  # `threading` costs each launch 1 ms, and all that is used here is below it
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from weft_runtime import limits

WAIT_S = 0.1
"""Seconds between two looks at whether somebody wants the thread to leave."""

LEAVE_S = 0.25
"""Seconds for a write that is under way: all but one to a disk that does not answer have ended by then."""

GRACE_S = 0.05
"""Seconds that whoever logs gives a write to a file, which all but a disk that does not answer needs a thousandth of. Once
it has not come back by then, nobody waits for it again until all is written."""

_POLL_S = 0.001


class Channel(Protocol):
    """Where entries go."""

    never_blocks: bool
    """Whether `send` returns at once, whatever is at the other side."""

    def send(self, entry: bytes) -> bytes:
        """Pass on `entry`; what is left of it, which is nothing where it was taken whole. Raises OSError if it is refused."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait until it may take more, for that long at most."""
        ...


class Backlog:
    """The entries that wait for a channel, in their order."""

    def __init__(self, channel: Channel, lost: Callable[[int], bytes]) -> None:
        """`lost` makes the entry that says how many entries were lost."""
        self._channel = channel
        self._entry_of_lost = lost
        self._lock = _thread.allocate_lock()
        # Each with the number of entries that it stands for: one that tells of lost ones may be lost itself.
        self._queue: deque[tuple[bytes, int]] = deque()
        self._size = 0
        self._lost = 0
        self._has_thread = False
        self._is_sending = False
        """Whether the thread is about to send the first."""
        self._is_parked = False
        self._waiting: list[_thread.LockType] = []
        """Locks that are released when the thread leaves."""

    def put(self, entry: bytes) -> None:
        """Send `entry` behind those before it, now or later. Never waits and never raises."""
        with self._lock:
            if self._lost and self._has_room:
                self._tell_lost()
            full = len(self._queue) >= limits.LOG_ENTRIES.value or (
                self._queue and self._size + len(entry) > limits.LOG_BYTES.value
            )
            # Once one is lost, so are those behind it, until it can be told in its place.
            if self._lost or full:
                self._lost += 1
                return
            self._append(entry, 1)
            if self._has_thread or self._is_parked:
                return
            if self._channel.never_blocks:
                self._drain()
            if not self._queue or not self._start() or self._channel.never_blocks:
                return
            left = self._when_left()
        left.acquire(timeout=GRACE_S)

    def flush(self, seconds: float) -> bool:
        """Wait until nothing waits any more, for that long at most; whether that is so."""
        deadline = time.monotonic() + seconds
        with self._lock:
            if not self._queue:
                return True
            if self._has_thread or self._start():
                left = self._when_left()
            else:  # there is no thread to be had
                while self._queue and time.monotonic() < deadline:
                    self._channel.wait(WAIT_S)
                    self._drain()
                return not self._queue
        left.acquire(timeout=seconds)
        return not self._queue

    def park(self) -> dict[str, Any]:
        """Send nothing from now on; what waits, for the `restore` of another process image.

        What is in there was not sent, and all else was: nothing is told twice or never. Raises OSError where a write is
        under way that does not end; then nothing has changed.
        """
        deadline = time.monotonic() + LEAVE_S
        with self._lock:
            self._is_parked = True
        # From here on the thread takes no other entry.
        while self._is_sending:
            if time.monotonic() > deadline:
                self.resume()
                raise TimeoutError(f"a write to the log has not ended after {LEAVE_S:g} s")
            time.sleep(_POLL_S)
        with self._lock:
            entries = [[entry.decode("latin-1"), count] for entry, count in self._queue]
            return {"entries": entries, "lost": self._lost}

    def resume(self) -> None:
        """Send again what waits: the other process image did not come."""
        with self._lock:
            self._is_parked = False
            if self._queue and not self._has_thread:
                self._start()

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take over what `park` of the process image before this one said; nothing was logged yet."""
        with self._lock:
            for text, count in values["entries"]:
                self._append(text.encode("latin-1"), count)
            self._lost += values["lost"]
            if self._queue:
                self._start()

    @property
    def _has_room(self) -> bool:
        """Whether it is worth while to tell what was lost: another loss is not just about to follow."""
        return (
            len(self._queue) <= limits.LOG_ENTRIES.value // 2 and self._size <= limits.LOG_BYTES.value // 2
        )

    def _when_left(self) -> _thread.LockType:
        """A lock that can be acquired once the thread has left."""
        left = _thread.allocate_lock()
        left.acquire()
        self._waiting.append(left)
        return left

    def _append(self, entry: bytes, count: int) -> None:
        self._queue.append((entry, count))
        self._size += len(entry)

    def _tell_lost(self) -> None:
        count, self._lost = self._lost, 0
        self._append(self._entry_of_lost(count), count)

    def _drain(self) -> None:
        """Send until the channel takes no more."""
        while self._queue:
            sent, rest = self._try_first()
            self._settle(sent, rest)
            if rest:
                return

    def _try_first(self) -> tuple[bool, bytes]:
        """Send the first; whether it was not refused, and what is left of it."""
        try:
            return True, self._channel.send(self._queue[0][0])
        except OSError:
            return False, b""

    def _settle(self, sent: bool, rest: bytes) -> None:
        """Note what became of the first."""
        entry, count = self._queue.popleft()
        self._size -= len(entry) - len(rest)
        if rest:
            self._queue.appendleft((rest, count))
        elif not sent:
            self._lost += count
        elif self._lost and self._has_room:
            self._tell_lost()

    def _start(self) -> bool:
        """Have a thread go on; whether there is one. The caller holds the lock."""
        import signal  # noqa: PLC0415 - only where something waits

        # Signals are for the threads that know about them: a reload blocks them in its own, and no other may take one then.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            _thread.start_new_thread(self._work, ())
            self._has_thread = True
        except RuntimeError:  # no thread to be had: the next entry tries again, and so does `flush`
            pass
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._has_thread

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue or self._is_parked:
                    self._has_thread = False
                    for left in self._waiting:
                        left.release()
                    self._waiting.clear()
                    return
                self._is_sending = True
            # Without the lock, for which nobody is to wait that long. Nobody else sends as long as there is a thread.
            sent, rest = self._try_first()
            with self._lock:
                self._settle(sent, rest)
                self._is_sending = False
            if rest:
                self._channel.wait(WAIT_S)
