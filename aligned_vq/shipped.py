"""Where the shipped reference model and its bundle lie."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent / "reference"
CHECKPOINT = _HERE / "checkpoint"
"""LLaVA in Hugging Face format, float16, with tokenizer and processor."""
BUNDLE = _HERE / "bundle"
"""The calibrated bundle made from it: 866 B per image."""
NAME = "reference"
"""What the commands accept in place of a path."""


def checkpoint_source(source: str) -> str:
    """The shipped checkpoint's directory for `reference`, anything else unchanged."""
    return str(CHECKPOINT) if source == NAME else source
