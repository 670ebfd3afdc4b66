"""What a client may be called: its identity in quotas, logs and metrics."""

from __future__ import annotations

import unicodedata

MAX_CHARS = 200
NAME_RULE = (
    f"1 to {MAX_CHARS} printable characters in Unicode's form NFC, without spaces at either end"
)


def is_name(name: object) -> bool:
    """Does it follow `NAME_RULE`? Two names that look alike to a terminal are then one name: no
    control or invisible characters, no NUL, nothing blank, one form for each accented letter."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= MAX_CHARS
        and name.isprintable()
        and name == name.strip()
        and unicodedata.is_normalized("NFC", name)
    )
