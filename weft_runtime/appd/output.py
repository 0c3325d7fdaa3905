# SPDX-License-Identifier: Apache-2.0
"""What an app writes, made into log lines: cut, made safe, and bounded. No I/O here."""

from collections.abc import Callable, Sequence

from weft_runtime.escape import printable

LINE_MAX = 16 * 1024
"""Bytes of one log line: a longer one is cut into several. journald cuts at 48 KiB, and escapes grow."""


class LineSplitter:
    """Cuts a stream of bytes into lines of at most LINE_MAX bytes."""

    def __init__(self, rest: bytes = b"") -> None:
        self.rest = rest
        """The beginning of a line that is not complete yet."""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        found = [piece for line in lines for piece in _pieces(line)]
        while len(self.rest) > LINE_MAX:
            found.append(self.rest[:LINE_MAX])
            self.rest = self.rest[LINE_MAX:]
        return found

    def end(self) -> list[bytes]:
        """The stream has ended: whatever is left is a line."""
        rest, self.rest = self.rest, b""
        return _pieces(rest) if rest else []


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

    def lines(self, stream: str, lines: list[bytes], now: float) -> None:
        """Log `lines` of `stream` at `now`, monotonic seconds."""
        self._renew(now)
        admitted = lines[: self._burst - self._passed]
        self._passed += len(admitted)
        self._held_back += len(lines) - len(admitted)
        # Only what passes is decoded: a flood costs little more than reading it.
        for line in admitted:
            self._write(stream, _safe(line))

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


def _pieces(line: bytes) -> list[bytes]:
    line = line.removesuffix(b"\r")
    return [line[start : start + LINE_MAX] for start in range(0, len(line) or 1, LINE_MAX)]


def _safe(line: bytes) -> str:
    # Tabs are harmless and common: they become blanks, as a terminal would show them.
    return printable(line.decode(errors="backslashreplace").expandtabs(), limit=8 * LINE_MAX)
