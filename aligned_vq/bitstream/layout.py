"""The layout and the largest size of a payload body, derived without reading the body."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Encoded, QuantizerConfig

RESEND = "send the payload again"
STATISTICS_BYTES_PER_TOKEN = 4  # two float16
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Layout:
    """The parts of a body, known before its first byte is read.

    The first `num_stages` stages of the config are present. Bit s of `masked_stages` is set if
    stage s has a mask. With `statistics`, the body starts with two floats per token.
    """

    config: QuantizerConfig
    num_tokens: int
    num_stages: int
    masked_stages: int
    statistics: bool

    @classmethod
    def of(cls, encoded: Encoded, config: QuantizerConfig) -> Layout:
        """The layout of the body of an `Encoded`."""
        masked = sum(1 << s for s, stage in enumerate(encoded.stages) if stage.mask is not None)
        has_statistics = encoded.statistics is not None
        return cls(config, encoded.num_tokens, len(encoded.stages), masked, has_statistics)

    @property
    def statistics_bytes(self) -> int:
        """Bytes before the indices: two float16 per token, or 0."""
        return self.num_tokens * STATISTICS_BYTES_PER_TOKEN if self.statistics else 0

    def has_mask(self, stage: int) -> bool:
        """Whether a stage has a mask."""
        return bool(self.masked_stages >> stage & 1)

    def split_body(self, body: bytes) -> tuple[NDArray[np.float16] | None, bytes]:
        """Statistics float16 `[N, 2]`, or None if the body has none, and the bytes after them.

        Raises:
            CorruptPayload: the body is too short, or a statistic is invalid.
        """
        if not self.statistics:
            return None, body
        if len(body) < self.statistics_bytes:
            raise CorruptPayload(
                f"expected {self.statistics_bytes} bytes of statistics, got {len(body)}; {RESEND}"
            )
        # With a count, or `frombuffer` would go on into the indices.
        pairs = np.frombuffer(body, "<f2", 2 * self.num_tokens).reshape(self.num_tokens, 2)
        statistics = pairs.astype(np.float16)
        if fault := statistics_fault(statistics):
            raise CorruptPayload(f"{fault}; {RESEND}")
        return statistics, body[self.statistics_bytes :]


def statistics_fault(statistics: NDArray[np.floating]) -> str | None:
    """The fault of means and standard deviations `[N, 2]` as a text; None if they are valid."""
    if not np.isfinite(statistics).all():
        return "expected finite statistics, got an infinity or NaN"
    # sqrt(variance + eps) is above 0; float16 could still round it to 0.
    if not (statistics[:, 1] > 0).all():
        return "expected standard deviations above 0, got 0 or less"
    return None


def max_body_bytes(config: QuantizerConfig, num_tokens: int, statistics: bool) -> int:
    """Size in bytes of the largest body that `unpack` accepts in any coding.

    With codebooks: fixed coding of all stages, each with a mask that covers every token. With the
    identity quantizer: the raw features. `statistics` adds two floats per token.
    """
    if config.kind == "identity":
        floats_per_token = config.dim + (2 if statistics else 0)
        return num_tokens * floats_per_token * _FLOAT32_BYTES
    mask_bits = config.num_quantizers  # one bit per token and stage
    index_bytes = math.ceil(num_tokens * (config.bits_per_token + mask_bits) / 8)
    return index_bytes + (num_tokens * STATISTICS_BYTES_PER_TOKEN if statistics else 0)
