"""What a body must look like, from the config and the manifest alone, never from the bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Encoded, QuantizerConfig

RESEND = "send the payload again"
STATISTICS_BYTES_PER_TOKEN = 4
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Layout:
    """The parts a body consists of, all known before its first byte is read.

    `num_stages` is how many stages of the config are present, the first ones, in order. Bit s of
    `masked_stages` is set when stage s carries a mask. `statistics` tells whether two floats per
    token are part of the body.
    """

    config: QuantizerConfig
    num_tokens: int
    num_stages: int
    masked_stages: int
    statistics: bool

    @classmethod
    def of(cls, encoded: Encoded, config: QuantizerConfig) -> Layout:
        """The layout of an `Encoded`'s body, whose arrays are not looked into."""
        masked = sum(1 << s for s, stage in enumerate(encoded.stages) if stage.mask is not None)
        has_statistics = encoded.statistics is not None
        return cls(config, encoded.num_tokens, len(encoded.stages), masked, has_statistics)

    @property
    def statistics_bytes(self) -> int:
        """Bytes before the indices: two float16 per token, or none."""
        return self.num_tokens * STATISTICS_BYTES_PER_TOKEN if self.statistics else 0

    def has_mask(self, stage: int) -> bool:
        """Whether a stage carries a mask."""
        return bool(self.masked_stages >> stage & 1)

    def split_body(self, body: bytes) -> tuple[NDArray[np.float16] | None, bytes]:
        """Statistics float16 `[N, 2]` (None without them) and the bytes that follow.

        Raises:
            CorruptPayload: the body is too short, or a statistic cannot be one.
        """
        if not self.statistics:
            return None, body
        if len(body) < self.statistics_bytes:
            raise CorruptPayload(
                f"expected {self.statistics_bytes} bytes of statistics, got {len(body)}; {RESEND}"
            )
        pairs = np.frombuffer(body, "<f2", 2 * self.num_tokens).reshape(self.num_tokens, 2)
        statistics = pairs.astype(np.float16)
        if fault := statistics_fault(statistics):
            raise CorruptPayload(f"{fault}; {RESEND}")
        return statistics, body[self.statistics_bytes :]


def statistics_fault(statistics: NDArray[np.floating]) -> str | None:
    """What is wrong with the values of `[N, 2]` means and standard deviations, None if nothing."""
    if not np.isfinite(statistics).all():
        return "expected finite statistics, got an infinity or NaN"
    if not (statistics[:, 1] > 0).all():
        return "expected standard deviations above 0, got 0 or less"
    return None


def max_body_bytes(config: QuantizerConfig, num_tokens: int, statistics: bool) -> int:
    """Bytes of the largest body that `unpack` accepts, whatever its coding.

    That is every stage with a full mask in fixed coding; for the identity quantizer, whose bodies
    have one length only, the raw features. `statistics` adds its two floats per token.
    """
    if config.kind == "identity":
        floats_per_token = config.dim + (2 if statistics else 0)
        return num_tokens * floats_per_token * _FLOAT32_BYTES
    mask_bits = config.num_quantizers
    index_bytes = math.ceil(num_tokens * (config.bits_per_token + mask_bits) / 8)
    return index_bytes + (num_tokens * STATISTICS_BYTES_PER_TOKEN if statistics else 0)
