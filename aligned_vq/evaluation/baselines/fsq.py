"""Finite scalar quantization at the published rate: four numbers of eight levels per token.

After "Finite Scalar Quantization: VQ-VAE Made Simple" (arXiv 2309.15505): a few latents, each
bounded by tanh and rounded, in place of a codebook. [8, 8, 8, 8] has 4,096 combinations, 12 bits.
Calibrated like our codec (position mean, principal axes, least squares) and not trained.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aligned_vq.bitstream.bits import bits_to_bytes, bytes_to_bits, pack_fields, unpack_fields
from aligned_vq.calibration.codec import features_at, pixel_batches
from aligned_vq.calibration.quantizer import least_squares, principal_axes
from aligned_vq.data.scenes.exam import training_pictures
from aligned_vq.errors import ConfigError, CorruptPayload
from aligned_vq.evaluation.baselines.features import ResidualBaseline, Stream
from aligned_vq.evaluation.examiner import Evaluator
from aligned_vq.split.loading import load_prefix
from aligned_vq.types import SplitPoint

LEVELS, DIMENSIONS, LEVEL_BITS = 8, 4, 3
BOUND = 2.0
"""Standard deviations at which tanh has bent a latent to 0.76 of its bound."""
CALIBRATION_PICTURES = 200


class ScalarLevels:
    """A `StreamCoding` of 12 bits per token, fitted to examples `[M, N, D]` of the residual stream.

    Raises:
        ConfigError: there are fewer examples than directions.
    """

    name = "FSQ 8x8x8x8"

    def __init__(self, examples: Tensor) -> None:
        if examples.shape[0] * examples.shape[1] < examples.shape[2]:
            raise ConfigError(f"expected more examples than {examples.shape[2]} for FSQ's axes")
        self._mean = examples.mean(0)
        centred = (examples - self._mean).flatten(0, 1)
        axes = principal_axes(centred, DIMENSIONS)
        self._down = axes / (BOUND * (centred @ axes.T).std(0, keepdim=True).T)
        levels = self._levels(centred)
        self._up = least_squares(self._latents(levels), centred)

    def encode(self, stream: Stream) -> bytes:
        """Three bits per number, packed: `[N, D]` float32 to 1.5 N bytes."""
        levels = self._levels(torch.from_numpy(stream) - self._mean)
        return bits_to_bytes(pack_fields(levels.numpy().astype(np.int32), LEVEL_BITS))

    def decode(self, data: bytes, dim: int) -> Stream:
        """The stream `[N, D]` float32; CorruptPayload when the length is not that of N tokens."""
        tokens = len(self._mean)
        bits = tokens * DIMENSIONS * LEVEL_BITS
        if len(data) != -(-bits // 8):
            raise CorruptPayload(
                f"expected {-(-bits // 8)} bytes, got {len(data)}; send them again"
            )
        fields = unpack_fields(bytes_to_bits(data)[:bits], LEVEL_BITS).reshape(tokens, DIMENSIONS)
        stream = self._latents(torch.from_numpy(fields)) @ self._up.T + self._mean
        return np.asarray(stream.numpy(), np.float32)

    def _levels(self, centred: Tensor) -> Tensor:
        bounded = torch.tanh(centred @ self._down.T)
        return ((bounded + 1) / 2 * (LEVELS - 1)).round()

    def _latents(self, levels: Tensor) -> Tensor:
        return levels.float() / (LEVELS - 1) * 2 - 1


@torch.inference_mode()
def fsq_baseline(examiner: Evaluator, split: SplitPoint) -> ResidualBaseline:
    """FSQ of the residual stream at a cut, calibrated on pictures the model was trained on."""
    pixels = pixel_batches(examiner.checkpoint, training_pictures(CALIBRATION_PICTURES))
    residual = features_at(load_prefix(examiner.checkpoint, split), pixels).residual
    return ResidualBaseline(examiner, split, ScalarLevels(residual))
