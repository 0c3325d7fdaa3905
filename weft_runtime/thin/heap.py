# SPDX-License-Identifier: Apache-2.0
"""The memory of the C library's malloc(3) before a process is forked again and again."""

import ctypes

_M_ARENA_MAX = -8
"""Of mallopt(3)."""

_NEXT = 100 * 1024
"""Bytes that no hole is expected to have, and fewer than malloc maps by itself."""

_SIZES = (*range(64 * 1024, 1024, -1024), *range(1024, 8, -16))
"""Bytes of the holes that are looked for, the largest first."""

_HOLES_MAX = 50_000
"""More than there are: some thousands."""


def share_one_arena() -> None:
    """Have all threads allocate from one heap: a session has one that computes, and each heap costs it pages."""
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def fill_holes() -> None:
    """Allocate what is free between other blocks, for good.

    What a fork allocates would be put there, all over the heap, and each page that a fork writes to is copied. So it is put behind
    all the rest.
    """
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    end = malloc(_NEXT) or 0
    left = _HOLES_MAX
    for size in _SIZES:
        while left and 0 < (malloc(size) or 0) < end:
            left -= 1
