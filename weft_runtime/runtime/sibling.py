# SPDX-License-Identifier: Apache-2.0
"""A fork whose child belongs to our own parent, as if that had forked it."""

import ctypes
import os
import signal

_PR_GET_TID_ADDRESS = 40

# Flags of clone(2).
_CLONE_PARENT = 0x8000
_CLONE_CHILD_CLEARTID = 0x200000
_CLONE_CHILD_SETTID = 0x1000000

# Number of the system call, and where the address of the thread's number stands among its last two arguments.
_CLONE = {"x86_64": (56, 0), "aarch64": (220, 1)}


class SiblingFork:
    """fork(2) with CLONE_PARENT: the caller's parent is the child's, is sent its SIGCHLD, and waits for it.

    Nobody has to wait between the two, no process stands between them for a moment, and the child outlives
    whoever forked it. os.fork() cannot do that, so this does what os.fork() and the C library's fork do for a
    process with a single thread: Python's own preparations around it, and the number of the thread put where
    the C library keeps it. No lock of the C library can be held by a thread that is not there.
    """

    def __init__(self) -> None:
        """Raises OSError where this machine or kernel cannot."""
        try:
            self._number, self._place = _CLONE[os.uname().machine]
        except KeyError:
            raise OSError(f"clone(2) is not known here on {os.uname().machine}") from None
        # The library of PyDLL keeps the interpreter's lock, without which a fork of the interpreter is none.
        self._libc = ctypes.PyDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        # The same address that the C library has told the kernel, and gives it at a fork of its own.
        self._thread_id = ctypes.c_void_p()
        if self._libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(self._thread_id), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if not self._thread_id.value:
            raise OSError("the C library has told the kernel no address of a thread")

    def fork(self) -> int:
        """0 in the child, its process number in the caller. Raises OSError."""
        last: list[ctypes.c_void_p | None] = [None, None]
        last[self._place] = self._thread_id
        flags = _CLONE_PARENT | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | signal.SIGCHLD
        python = ctypes.pythonapi
        python.PyOS_BeforeFork()
        pid: int = self._libc.syscall(ctypes.c_long(self._number), ctypes.c_long(flags), None, None, *last)
        if pid == 0:
            python.PyOS_AfterFork_Child()
            return 0
        error = ctypes.get_errno()
        python.PyOS_AfterFork_Parent()
        if pid < 0:
            raise OSError(error, os.strerror(error))
        return pid
