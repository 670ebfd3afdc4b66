"""File descriptors of a process that serves: each connection takes one."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

MOST_CONNECTIONS = 4096
"""More than that has to be asked for: an idle one costs some ten kilobytes."""


def raise_limit() -> int:
    """As many descriptors as the system allows this process; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return allowed()


def allowed() -> int:
    """How many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def default_connections(most: int = MOST_CONNECTIONS, part: float = 0.375) -> int:
    """`most` of them, or that part of the descriptors: files and other sockets need some, too."""
    return max(1, min(most, int(allowed() * part)))
