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
DUAL_ENCODER = _FOLDER / "dual_encoder" / "checkpoint"
"""A CLIP that knows the reference rooms, float16; installed with `CHECKPOINT`."""
CLASSIFIER = _FOLDER / "classifier"
"""The bundle of a student of it, which runs on the device alone."""
NAME = "reference"
"""Accepted by the commands in place of a path."""


def checkpoint_source(source: str) -> str:
    """The shipped LLaVA's directory for `reference`, anything else unchanged.

    Raises:
        ConfigError: the reference model's weights are not installed.
    """
    return str(_weights(CHECKPOINT)) if source == NAME else source


def dual_encoder_source(source: str) -> str:
    """The shipped CLIP's directory for `reference`, anything else unchanged.

    Raises:
        ConfigError: the reference model's weights are not installed.
    """
    return str(_weights(DUAL_ENCODER)) if source == NAME else source


def bundle_source(source: str | Path) -> Path:
    """The shipped bundle's directory for `reference`, anything else unchanged."""
    return BUNDLE if str(source) == NAME else Path(source)


def classifier_source(source: str | Path) -> Path:
    """The shipped classifier's directory for `reference`, anything else unchanged."""
    return CLASSIFIER if str(source) == NAME else Path(source)


def _weights(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(
            f"expected the reference model's weights in {folder}, got none; install them from "
            "a source tree: pip install ./aligned_vq/reference"
        )
    return folder
