"""Exceptions that Pillow's decoders raise on damaged files, in addition to warnings."""

from __future__ import annotations

import struct
import zlib

PILLOW_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
