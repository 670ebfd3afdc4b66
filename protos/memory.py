"""Memory that nobody uses goes back to the system, where the C library is glibc."""

from __future__ import annotations

import ctypes

LARGE_BYTES = 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def map_large_blocks() -> None:
    """Blocks of `LARGE_BYTES` and more get pages of their own, which go back when they are freed.
    glibc would soon take them from its heap, where what lies above them holds them."""
    _set(_M_MMAP_THRESHOLD, LARGE_BYTES)


def keep_freed(most_bytes: int) -> None:
    """Blocks of up to `most_bytes` are used again, and so much stays when it is freed: pages that
    come new from the system for every image take longer than decoding it."""
    _set(_M_MMAP_THRESHOLD, most_bytes)
    _set(_M_TRIM_THRESHOLD, most_bytes)


def give_back() -> None:
    """Give back what is free between blocks in use, which takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set(name: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(name, value)
