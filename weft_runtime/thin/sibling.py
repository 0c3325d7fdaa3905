# SPDX-License-Identifier: Apache-2.0
"""A fork whose child belongs to our own parent, as if that had forked it, and ends when that has ended."""

import ctypes
import os
from _signal import SIGCHLD, SIGKILL

_PR_SET_PDEATHSIG = 1
_PR_GET_TID_ADDRESS = 40

# Flags of clone(2).
_CLONE_PIDFD = 0x1000
_CLONE_PARENT = 0x8000
_CLONE_CHILD_CLEARTID = 0x200000
_CLONE_CHILD_SETTID = 0x1000000
_FLAGS = _CLONE_PARENT | _CLONE_PIDFD | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | SIGCHLD

# Number of the system call, and where the address of the thread's number stands among its last two arguments.
_CLONE = {"x86_64": (56, 0), "aarch64": (220, 1)}


class SiblingFork:
    """fork(2) with CLONE_PARENT: the caller's parent is the child's, is sent its SIGCHLD, and waits for it.

    Nobody has to wait between the two, no process stands between them for a moment, and the child outlives
    whoever forked it. os.fork() cannot do that. What os.fork() and the C library's fork do besides is for processes with
    several threads, whose locks nobody would open in the child; one with a single thread is copied as it is, and must
    neither have had others nor have imported what asks to be told of forks (os.register_at_fork). Only the number of the
    thread is put where the C library keeps it, by the kernel.
    """

    def __init__(self) -> None:
        """Raises OSError where this machine or kernel cannot."""
        try:
            number, place = _CLONE[os.uname().machine]
        except KeyError:
            raise OSError(f"clone(2) is not known here on {os.uname().machine}") from None
        # PyDLL keeps the interpreter's lock, as the child must.
        libc = ctypes.PyDLL(None, use_errno=True)
        self._syscall = libc.syscall
        self._syscall.restype = ctypes.c_long
        # The same address that the C library has told the kernel, and gives it at a fork of its own.
        thread_id = ctypes.c_void_p()
        if libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(thread_id), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if not thread_id.value:
            raise OSError("the C library has told the kernel no address of a thread")
        self._parent = os.getppid()
        self._prctl = libc.prctl
        self._with_parent = tuple(map(ctypes.c_long, (_PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)))
        self._pidfd = ctypes.c_int()
        last: list[ctypes.c_void_p | None] = [None, None]
        last[place] = thread_id
        self._arguments = (
            ctypes.c_long(number), ctypes.c_long(_FLAGS), None, ctypes.byref(self._pidfd), *last
        )  # fmt: skip

    def fork(self) -> int:
        """0 in the child, its process number in the caller. Raises OSError."""
        pid: int = self._syscall(*self._arguments)
        if pid < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if pid == 0:
            self.end_with_parent()
        return pid

    def end_with_parent(self) -> None:
        """Have this process end with its parent: nothing that an app does could keep it alive then, and who comes next would
        start the app once more."""
        self._prctl(*self._with_parent)
        if os.getppid() != self._parent:  # that had ended before
            os._exit(0)

    @property
    def pidfd(self) -> int:
        """A descriptor of the last child (pidfd_open(2)), closed on exec. It is the caller's to close."""
        return self._pidfd.value
