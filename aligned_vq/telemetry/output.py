"""Standard output of the commands."""

from __future__ import annotations

import io
import sys


def escape_unencodable() -> None:
    """Print characters that the terminal's encoding lacks as escapes, such as \\xe9, as standard
    error does: a label or an answer may have any."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
