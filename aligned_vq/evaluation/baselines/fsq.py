"""Baseline with finite scalar quantization at AlignedVQ's rate: 4 values of 8 levels per token.

After "Finite Scalar Quantization: VQ-VAE Made Simple" (arXiv 2309.15505): a few latents, each
bounded by tanh and rounded, replace the codebook. [8, 8, 8, 8] has 4,096 combinations, or 12 bits.
Calibrated as this project's codec (position mean, principal axes, least squares), not trained.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aligned_vq.bitstream.bits import bits_to_bytes, bytes_to_bits, pack_fields, unpack_fields
from aligned_vq.calibration.codec import features_at, pixel_batches
from aligned_vq.calibration.quantizer import least_squares, principal_axes
from aligned_vq.data.scenes.exam import training_images
from aligned_vq.errors import ConfigError, CorruptPayload
from aligned_vq.evaluation.baselines.features import ResidualBaseline, Stream
from aligned_vq.evaluation.examiner import Evaluator
from aligned_vq.split.loading import load_prefix
from aligned_vq.types import SplitPoint

LEVELS, DIMENSIONS, LEVEL_BITS = 8, 4, 3
BOUND = 2.0
"""Latents are divided by this many standard deviations before tanh."""
CALIBRATION_IMAGES = 200


class ScalarLevels:
    """A `StreamCoding` of 12 bits per token, fitted to examples `[M, N, D]` of the residual stream.

    Raises:
        ConfigError: there are fewer tokens than dimensions D.
    """

    name = "FSQ 8x8x8x8"

    def __init__(self, examples: Tensor) -> None:
        if examples.shape[0] * examples.shape[1] < examples.shape[2]:
            raise ConfigError(
                f"expected at least {examples.shape[2]} tokens for FSQ, got "
                f"{examples.shape[0] * examples.shape[1]}; give more images"
            )
        self._mean = examples.mean(0)  # [N, D]
        centred = (examples - self._mean).flatten(0, 1)  # [M * N, D]
        axes = principal_axes(centred, DIMENSIONS)  # [4, D]
        # Each latent then has a standard deviation of 1 / BOUND.
        self._down = axes / (BOUND * (centred @ axes.T).std(0, keepdim=True).T)
        levels = self._levels(centred)
        # Fitted to the rounded latents, which the receiver has.
        self._up = least_squares(self._latents(levels), centred)

    def encode(self, stream: Stream) -> bytes:
        """The 1.5 N bytes of a stream float32 `[N, D]`."""
        levels = self._levels(torch.from_numpy(stream) - self._mean)
        return bits_to_bytes(pack_fields(levels.numpy().astype(np.int32), LEVEL_BITS))

    def decode(self, data: bytes, dim: int) -> Stream:
        """The stream float32 `[N, D]`; CorruptPayload if the length is not that of N tokens."""
        tokens = len(self._mean)
        bits = tokens * DIMENSIONS * LEVEL_BITS
        if len(data) != -(-bits // 8):
            raise CorruptPayload(
                f"expected {-(-bits // 8)} bytes, got {len(data)}; send them again"
            )
        # `[:bits]` cuts off the padding.
        fields = unpack_fields(bytes_to_bits(data)[:bits], LEVEL_BITS).reshape(tokens, DIMENSIONS)
        stream = self._latents(torch.from_numpy(fields)) @ self._up.T + self._mean
        return np.asarray(stream.numpy(), np.float32)

    def _levels(self, centred: Tensor) -> Tensor:
        bounded = torch.tanh(centred @ self._down.T)
        # From tanh's range of -1 to 1 to the levels 0 to 7.
        return ((bounded + 1) / 2 * (LEVELS - 1)).round()

    def _latents(self, levels: Tensor) -> Tensor:
        return levels.float() / (LEVELS - 1) * 2 - 1


@torch.inference_mode()
def fsq_baseline(examiner: Evaluator, split: SplitPoint) -> ResidualBaseline:
    """FSQ of the residual stream at a cut, calibrated on images of the training split."""
    pixels = pixel_batches(examiner.checkpoint, training_images(CALIBRATION_IMAGES))
    residual = features_at(load_prefix(examiner.checkpoint, split), pixels).residual
    return ResidualBaseline(examiner, split, ScalarLevels(residual))
