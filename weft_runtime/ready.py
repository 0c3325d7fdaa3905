# SPDX-License-Identifier: Apache-2.0
"""The READY line, and how to find it in a stream of bytes. No I/O here."""

import re

READY_LINE = b"READY\n"

COMPILING = "compiling"
"""The event of a line of the report (`WEFT_REPORT_FD`): from here on the time until READY begins anew."""

LINE_MAX = 64 * 1024
"""Bytes: a longer line is not READY whatever it holds, so that a stream without line breaks costs little."""

# White space as Unicode has it (White_Space), which str.strip() and bytes.strip() both miss by a few; in UTF-8, and
# without the line feed.
_WHITE_SPACE = rb"(?:[\t\v\f\r ]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80)*+"
_READY = re.compile(_WHITE_SPACE + b"READY" + _WHITE_SPACE)
# One search over many lines, however many of them nearly match: nothing is matched twice.
_READY_BETWEEN = re.compile(b"\n" + _READY.pattern + b"(?=\n)")


class ReadyScanner:
    """Says when the first line has passed that equals READY after trimming, however the bytes are cut."""

    def __init__(self) -> None:
        self.found = False
        self.span = (0, 0)
        """Where the READY line, with its line feed, was in the bytes of the `feed` that found it."""
        self._line = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True exactly once, when they complete the READY line."""
        if self.found:
            return False
        first, last = data.find(b"\n"), data.rfind(b"\n")
        if first >= 0:
            if self._is_ready(data[:first]):
                return self._find(0, first + 1)
            # Most floods are told apart by this search.
            if data.find(b"READY", first) >= 0:
                for match in _READY_BETWEEN.finditer(data, first, last + 1):
                    if match.end() - match.start() - 1 <= LINE_MAX:
                        return self._find(match.start() + 1, match.end() + 1)
            self._line.clear()
            self._too_long = False
        rest = data[last + 1 :]
        if len(self._line) + len(rest) > LINE_MAX:
            self._line.clear()
            self._too_long = True
        elif not self._too_long:
            self._line += rest
        return False

    def end(self) -> bool:
        """The stream has ended: a last line without a line break counts too."""
        return self.feed(b"\n")

    def _find(self, start: int, end: int) -> bool:
        self.found, self.span = True, (start, end)
        self._line.clear()
        return True

    def _is_ready(self, tail: bytes) -> bool:
        if self._too_long or len(self._line) + len(tail) > LINE_MAX:
            return False
        return _READY.fullmatch(self._line + tail) is not None
