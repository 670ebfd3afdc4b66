"""Paths of the reference model and its bundle, which are shipped with the package."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent / "reference"
CHECKPOINT = _HERE / "checkpoint"
"""LLaVA in Hugging Face format, float16, with tokenizer and processor."""
BUNDLE = _HERE / "bundle"
"""The bundle made from it."""
NAME = "reference"
"""Accepted by the commands in place of a path."""


def checkpoint_source(source: str) -> str:
    """The shipped checkpoint's directory for `reference`, any other source unchanged."""
    return str(CHECKPOINT) if source == NAME else source
