"""The limit on file descriptors, of which every connection takes one."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

MAX_CONNECTIONS = 4096
"""Default limit, as an idle connection costs some ten kilobytes."""


def raise_limit() -> int:
    """Raise the soft limit to the hard limit; returns the limit in effect."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # some systems refuse their own hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return allowed()


def allowed() -> int:
    """The limit on this process's descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No limit is reported as -1, which would compare as less than any.
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def default_connections(limit: int = MAX_CONNECTIONS, share: float = 0.375) -> int:
    """At most `limit` connections, and at most `share` of the descriptors, as files and other
    sockets need some too."""
    return max(1, min(limit, int(allowed() * share)))
