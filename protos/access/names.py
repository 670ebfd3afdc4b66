"""Valid client names, which are the identities in quotas, logs and metrics."""

from __future__ import annotations

import unicodedata

MAX_CHARS = 200
NAME_RULE = f"1 to {MAX_CHARS} printable characters in Unicode NFC, without spaces at either end"


def is_name(name: object) -> bool:
    """Whether a name follows `NAME_RULE`.

    The rule keeps names that look alike in a terminal from being different identities: it allows no
    control or invisible characters, no blank ends, and one form for each accented letter.
    """
    return (
        isinstance(name, str)
        and 0 < len(name) <= MAX_CHARS
        and name.isprintable()
        and name == name.strip()
        and unicodedata.is_normalized("NFC", name)
    )
