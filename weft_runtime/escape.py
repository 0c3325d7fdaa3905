# SPDX-License-Identifier: Apache-2.0
"""Text from outside (apps, files, arguments) made safe for a log line or a terminal."""

QUOTED_MAX = 256
"""Characters of one quoted value: enough for any sane name, and no value fills a log line alone."""

REASON_MAX = 2048
"""Characters of one explanation: the engine's longest honest messages have a few hundred."""


def printable(text: str, limit: int = REASON_MAX) -> str:
    r"""`text` on one line: whatever does not print becomes a backslash escape, the rest is cut at `limit`.

    Control characters, line breaks, bidirectional overrides and lone surrogates (undecodable bytes of
    an argument) are all "not printable" in the sense of `str.isprintable`.
    """
    if len(text) > limit:
        text = text[:limit] + "..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def quote(text: str) -> str:
    """`text` in single quotes, safe and short enough to stand inside a sentence."""
    return f"'{printable(text, QUOTED_MAX)}'"


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{{{code:x}}}"
