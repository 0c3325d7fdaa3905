# SPDX-License-Identifier: Apache-2.0
"""The READY line, and how to find it in a stream of bytes. No I/O here."""

READY_LINE = b"READY\n"

COMPILING = "compiling"
"""The event of a line of the report (`WEFT_REPORT_FD`): from here on the time until READY begins anew."""

LINE_MAX = 64 * 1024
"""Bytes: a longer line is not READY whatever it holds, so that a stream without line breaks costs little."""

# White space as Unicode has it (White_Space), which str.strip() and bytes.strip() both miss by a few.
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


class ReadyScanner:
    """Says when the first line has passed that equals READY after trimming, however the bytes are cut."""

    def __init__(self) -> None:
        self.found = False
        self._line = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True exactly once, when they complete the READY line."""
        if self.found:
            return False
        *lines, rest = data.split(b"\n")
        for line in lines:
            if self._is_ready(line):
                self.found = True
                self._line.clear()
                return True
            self._line.clear()
            self._too_long = False
        if len(self._line) + len(rest) > LINE_MAX:
            self._line.clear()
            self._too_long = True
        elif not self._too_long:
            self._line += rest
        return False

    def end(self) -> bool:
        """The stream has ended: a last line without a line break counts too."""
        return self.feed(b"\n")

    def _is_ready(self, tail: bytes) -> bool:
        if self._too_long or len(self._line) + len(tail) > LINE_MAX:
            return False
        line = self._line + tail
        # Most lines are told apart by this search, before anything is decoded.
        return b"READY" in line and line.decode(errors="replace").strip(_WHITE_SPACE) == "READY"
