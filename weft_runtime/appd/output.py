# SPDX-License-Identifier: Apache-2.0
"""What an app writes, made into log lines: cut, made safe, and bounded. No I/O here.

A flood costs little: lines that may not be logged are counted with two searches of the standard library, and are
never made. Lines that may be logged are made a few at a time, so that other work comes between them.
"""

from collections.abc import Callable, Sequence

from weft_runtime.escape import printable

LINE_MAX = 16 * 1024
"""Bytes of one log line: a longer one is cut into several. journald cuts at 48 KiB, and escapes grow."""

LINES_A_TURN = 20
"""Lines that are logged in one turn of the event loop: each costs ten to a hundred microseconds, and a turn must be short."""

BYTES_A_TURN = 16 * 1024
"""Bytes of the lines of one turn but the last: where all of them must be escaped they cost half a microsecond each."""

_LINE_FEED, _CARRIAGE_RETURN = b"\n", b"\r"


class LineSplitter:
    """Cuts a stream of bytes into lines of at most LINE_MAX bytes, in the same way however the stream arrives."""

    def __init__(self, rest: bytes = b"") -> None:
        self.rest = rest
        """What was taken and is not a line yet: lines that wait for their turn, and the beginning of one."""

    @property
    def has_line(self) -> bool:
        """Whether a whole line waits in `rest`."""
        return self._line_at(0) is not None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self.rest += data

    def end(self) -> None:
        """The stream has ended: whatever is left is a line."""
        if self.rest and not self.rest.endswith(_LINE_FEED):
            self.rest += _LINE_FEED

    def lines(self, count: int) -> list[bytes]:
        """The next lines: at most `count` of them, and none that begins behind the first BYTES_A_TURN."""
        found: list[bytes] = []
        start = 0
        while len(found) < count and start < BYTES_A_TURN and (line := self._line_at(start)) is not None:
            found.append(self.rest[start : line[0]])
            start = line[1]
        self.rest = self.rest[start:]
        return found

    def skip(self) -> int:
        """Pass over all lines; how many `lines` would have made of them."""
        count = start = 0
        while True:
            # A window of LINE_MAX bytes and a line feed has only lines that are not cut.
            end = 1 + self.rest.rfind(_LINE_FEED, start, start + LINE_MAX + 1)
            if end:
                count += self.rest.count(_LINE_FEED, start, end)
                start = end
            elif (line := self._line_at(start)) is not None:
                count += 1
                start = line[1]
            else:
                self.rest = self.rest[start:]
                return count

    def forget_line(self) -> None:
        """Drop the beginning of a line that is not complete."""
        self.rest = self.rest[: 1 + self.rest.rfind(_LINE_FEED)]

    def _line_at(self, start: int) -> tuple[int, int] | None:
        """Where the line from `start` on ends, and where the next one begins; None while that is open."""
        longest = start + LINE_MAX
        found = self.rest.find(_LINE_FEED, start, longest + 2)
        if found >= 0:
            end = found - self.rest.endswith(_CARRIAGE_RETURN, start, found)
            if end <= longest:
                return end, found + 1
        elif len(self.rest) <= longest + self.rest.endswith(_CARRIAGE_RETURN, longest):
            return None
        return longest, longest


class OutputLog:
    """Writes one session's lines: both streams under one limit, and a summary of what was dropped."""

    def __init__(
        self, burst: int, interval: float, write: Callable[[str, str], None], dropped: Callable[[int], None]
    ) -> None:
        """Let `burst` lines pass in each `interval` seconds.

        `write` takes a stream's name and a line that is safe to log; `dropped` a number of lines.
        """
        self.interval = interval
        self._burst = burst
        self._write = write
        self._tell_dropped = dropped
        self._begun = float("-inf")
        self._passed = 0
        self._held_back = 0

    @property
    def is_dropping(self) -> bool:
        return self._held_back > 0

    @property
    def is_full(self) -> bool:
        """Whether no more lines may be logged in this interval."""
        return self._passed >= self._burst

    def take(self, stream: str, splitter: LineSplitter, now: float) -> bool:
        """Log the next lines of `stream` at `now`, monotonic seconds; whether others wait for the next turn."""
        self._renew(now)
        lines = splitter.lines(min(LINES_A_TURN, self._burst - self._passed))
        self._passed += len(lines)
        if self.is_full:
            self._held_back += splitter.skip()
        for line in lines:
            self._write(stream, _safe(line))
        return splitter.has_line

    def summarize(self) -> None:
        """Say what was dropped so far."""
        if self._held_back:
            self._tell_dropped(self._held_back)
            self._held_back = 0

    def to_json(self) -> list[float]:
        return [self._begun, self._passed, self._held_back]

    def restore(self, values: Sequence[float]) -> None:
        self._begun, self._passed, self._held_back = values[0], int(values[1]), int(values[2])

    def _renew(self, now: float) -> None:
        if now - self._begun >= self.interval:
            self.summarize()
            self._begun, self._passed = now, 0


def _safe(line: bytes) -> str:
    # Tabs are harmless and common: they become blanks, as a terminal would show them.
    return printable(line.decode(errors="backslashreplace").expandtabs(), limit=8 * LINE_MAX)
