# SPDX-License-Identifier: Apache-2.0
"""A terminal as a whole screen that is drawn again and again, and given back as it was however that ends.

Not by curses: that needs an entry in terminfo for each terminal, of which a small Debian has few, and takes only text of the
locale. The sequences here are those of ECMA-48 and xterm's alternate screen, which the console, serial terminals'
programs and every terminal emulator of the last decades have; one that does not know a sequence ignores it.
"""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Self

from weft_runtime.commandline import write_result
from weft_runtime.errors import Problem, WeftError

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, without a cursor, and without wrapping lines that are too long after all."""

_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Besides Ctrl-C, which Python makes an exception of."""


class Ended(BaseException):
    """A signal asks for the end. Like KeyboardInterrupt it is no error that anybody handles in between."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Terminal:
    """A context manager; ended by a signal, the process dies of it, after all is as it was."""

    def __init__(self, term: str | None) -> None:
        """`term` is $TERM. Raises WeftError(USAGE) where standard output is no terminal that can be drawn on."""
        if sys.stdout is None or not sys.stdout.isatty() or term in (None, "", "dumb"):
            raise WeftError(Problem.USAGE, "this needs a terminal", "see --once and --json")
        self._has_keys = sys.stdin is not None and sys.stdin.isatty()
        self._saved: list[object] | None = None
        self._wakeup: tuple[int, int] = (-1, -1)

    def __enter__(self) -> Self:
        self._wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        for number in _ENDING:
            signal.signal(number, _raise)
        signal.signal(signal.SIGTSTP, self._suspend)
        signal.signal(signal.SIGWINCH, lambda *_: None)  # so that it wakes `wait`
        try:
            self._take()
        except BaseException:
            self._give_back()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)  # nothing may keep it from being given back
        self._give_back()
        signal.set_wakeup_fd(-1)
        for fd in self._wakeup:
            os.close(fd)
        for number in (*_ENDING, signal.SIGTSTP, signal.SIGWINCH):
            signal.signal(number, signal.SIG_DFL)
        if isinstance(error, Ended):
            os.kill(os.getpid(), error.number)

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, which fit, in place of what was there: in one write, so that nothing flickers.

        Raises as `write_result` does.
        """
        text = f"{_END_OF_LINE}\n".join(lines)
        write_result(f"{_HOME}{text}{_END_OF_LINE}{_REST_OF_SCREEN}", end="")

    def wait(self, seconds: float) -> str:
        """What was typed within that time, or until the terminal was resized; empty for nothing.

        Raises EOFError where nobody can type any more.
        """
        sources = [self._wakeup[0], *([0] if self._has_keys else ())]
        readable = select.select(sources, [], [], seconds)[0]
        if self._wakeup[0] in readable:
            with suppress(BlockingIOError):
                os.read(self._wakeup[0], 512)
        if 0 not in readable:
            return ""
        try:
            typed = os.read(0, 64)
        except OSError:  # it is gone, or somebody else's now
            typed = b""
        if not typed:
            raise EOFError
        return typed.decode(errors="replace")

    def _take(self) -> None:
        if self._has_keys:
            # Where it may not be changed, keys come once a line is complete.
            with suppress(termios.error):
                self._saved = termios.tcgetattr(0)
                tty.setcbreak(0)
        _write(_ENTER)

    def _give_back(self) -> None:
        _write(_LEAVE)
        if self._saved is not None:
            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type] # as tcgetattr gave it
            self._saved = None

    def _suspend(self, number: int, _: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal back, and we get it when we go on."""
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Stopped here, until somebody says to go on.
        signal.signal(number, self._suspend)
        self._take()


def _raise(number: int, _: FrameType | None) -> None:
    raise Ended(number)


def _write(text: str) -> None:
    """Past sys.stdout, which refuses a signal handler that has interrupted it; `draw` tells of what is wrong with it."""
    with suppress(OSError):
        os.write(1, text.encode())
