"""Names and values of the edge graph's inputs and outputs, for its writer and its runtime."""

from __future__ import annotations

PIXELS = "pixels"
"""Input, float32 `[B, 3, H, W]`: one normalised image, or none (B = 0) if its latents are known."""
KNOWN_LATENTS = "known_latents"
"""Input, float32 `[1 - B, N, d]`: latents from an earlier run, instead of pixels."""
COVER = "cover"
"""Input, uint8 `[R]`: for each stage NOTHING, BY_RATE or EVERYTHING."""
RATE_WEIGHT = "rate_weight"
"""Input, float32 scalar: the squared latent error that one bit must save."""

LATENTS = "latents"
"""Output, float32 `[B, N, d]`: latents of the pixels."""
STATISTICS = "statistics"
"""Output, float32 `[B * N, 2]`: mean and standard deviation of each token's residual stream; only
for the `statistics` link."""

NOTHING, BY_RATE, EVERYTHING = 0, 1, 2
"""A stage covers no tokens; the tokens that are worth its bits; all tokens."""


def indices_name(stage: int) -> str:
    """Name of the output of a stage's indices: int64 `[N, G]`, valid for covered tokens."""
    return f"indices_{stage}"


def covered_name(stage: int) -> str:
    """Name of the output of a stage's covered tokens: bool `[N]`."""
    return f"covered_{stage}"
