"""Where the shipped reference model and its bundle are installed."""

from __future__ import annotations

from pathlib import Path

from aligned_vq.errors import ConfigError

_FOLDER = Path(__file__).parent / "reference"
CHECKPOINT = _FOLDER / "checkpoint"
"""LLaVA in Hugging Face format, float16, with tokenizer and processor. Not in the distribution that
devices install: `aligned-vq-reference` adds it, and the bundle's cloud half."""
BUNDLE = _FOLDER / "bundle"
"""The bundle trained for it: at most 866 B per image."""
CLASSIFIER = _FOLDER / "classifier"
"""The bundle of a classifier that runs on the device alone; not part of this version yet."""
NAME = "reference"
"""Accepted by the commands in place of a path."""


def checkpoint_source(source: str) -> str:
    """The shipped LLaVA's directory for `reference`, anything else unchanged.

    Raises:
        ConfigError: the reference model's weights are not installed.
    """
    if source != NAME:
        return source
    if not CHECKPOINT.is_dir():
        raise ConfigError(
            f"expected the reference model's weights in {CHECKPOINT}, got none; install them from "
            "a source tree: pip install ./aligned_vq/reference"
        )
    return str(CHECKPOINT)


def bundle_source(source: str | Path) -> Path:
    """The shipped bundle's directory for `reference`, anything else unchanged."""
    return BUNDLE if str(source) == NAME else Path(source)


def classifier_source(source: str | Path) -> Path:
    """The shipped classifier's directory for `reference`, anything else unchanged.

    Raises:
        ConfigError: this installation has no reference classifier.
    """
    if str(source) != NAME:
        return Path(source)
    if not CLASSIFIER.is_dir():
        raise ConfigError(
            f"expected the reference classifier in {CLASSIFIER}, which this version has not yet; "
            "train one with `aligned-vq edgevl-train` and name its folder"
        )
    return CLASSIFIER
