"""Returns freed memory to the system, where the C library is glibc."""

from __future__ import annotations

import ctypes

LARGE_BYTES = 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, from glibc's malloc.h."""


def map_large_blocks() -> None:
    """Allocate blocks of `LARGE_BYTES` and more with mmap, so that freed ones return to the system.

    By default glibc raises its threshold and takes such blocks from the heap, where blocks above
    them keep them from being returned.
    """
    _set_option(_M_MMAP_THRESHOLD, LARGE_BYTES)


def keep_freed(max_bytes: int) -> None:
    """Reuse freed blocks of up to `max_bytes` instead of returning them: mapping new pages for each
    image would take longer than decoding it."""
    _set_option(_M_MMAP_THRESHOLD, max_bytes)
    _set_option(_M_TRIM_THRESHOLD, max_bytes)


def release_free_memory() -> None:
    """Return free memory between used blocks to the system; takes milliseconds."""
    # The symbols of this process; other C libraries, such as musl, lack this function.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set_option(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)
