"""What the inputs and outputs of the edge's graph are called, for whoever writes it or runs it."""

from __future__ import annotations

PIXELS = "pixels"
"""Input, float32 `[B, 3, H, W]`: one normalised image, or none (B = 0) where its latents are."""
KNOWN_LATENTS = "known_latents"
"""Input, float32 `[1 - B, N, d]`: latents of an image that was looked at before, or none."""
COVER = "cover"
"""Input, uint8 `[R]`: what each stage covers."""
RATE_WEIGHT = "rate_weight"
"""Input, float32 scalar: the squared latent error that one bit must save."""

LATENTS = "latents"
"""Output, float32 `[B, N, d]`: latents of the pixels."""
STATISTICS = "statistics"
"""Output, float32 `[B * N, 2]`: means and standard deviations of the residual stream's tokens;
there only for the residual link that needs them."""

NOTHING, WORTHY, EVERYTHING = 0, 1, 2
"""A stage covers no token; those that are worth its bits; all."""


def indices_name(stage: int) -> str:
    """Output, int64 `[N, G]`, of a stage that covers something: meaningful where it does."""
    return f"indices_{stage}"


def covered_name(stage: int) -> str:
    """Output, bool `[N]`, of such a stage: the tokens that it covers."""
    return f"covered_{stage}"
