"""What others published of VQA-v2. Nothing here was measured by this project."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One figure of somebody else's."""

    name: str
    split: str
    accuracy: float
    """In percent."""
    payload_bytes: float | None
    """Per image; None where whole pictures were used."""
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
