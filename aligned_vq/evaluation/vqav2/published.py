"""Published figures on VQA-v2, none of which were measured by this project."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A figure published by others."""

    name: str
    split: str
    accuracy: float
    """In percent."""
    payload_bytes: float | None
    """Per image; None for models that receive the whole image."""
    source: str


PUBLISHED = (
    Published("LLaVA-1.5-7B", "test-dev2015", 78.5, None, "LLaVA's model zoo"),
    Published("LLaVA-1.5-7B, LoRA", "test-dev2015", 79.1, None, "LLaVA's model zoo"),
    Published(
        "LLaVA-AlignedVQ",
        "not known here",
        79.98,
        865.5,
        "arXiv 2411.05961, figure 1; 577 x 12 bits, the residual stream not counted",
    ),
)
