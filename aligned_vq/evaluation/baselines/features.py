"""Baselines that send the residual stream at a cut as float16, or as int8 with a scale per token.

The cloud computes the cut LayerNorm from the residual stream, so the only loss is rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from aligned_vq.errors import CorruptPayload
from aligned_vq.evaluation.examiner import Evaluator, on_edge
from aligned_vq.evaluation.llava import PathOutput
from aligned_vq.split.loading import load_prefix, load_suffix
from aligned_vq.split.residual_link import cut_norm_name
from aligned_vq.types import SplitPoint

Stream = NDArray[np.float32]
"""The residual stream of one image, `[N, D]` float32."""


class StreamCoding(Protocol):
    """A conversion between the residual stream of one image and bytes."""

    @property
    def name(self) -> str:
        """Name in tables, such as `raw fp16`."""

    def encode(self, stream: Stream) -> bytes:
        """The bytes of a stream `[N, D]`."""

    def decode(self, data: bytes, dim: int) -> Stream:
        """The stream `[N, D]` in the bytes; CorruptPayload if their length is invalid."""


class RawFloat16:
    """Values as little-endian float16: `2 N D` bytes."""

    name = "raw fp16"

    def encode(self, stream: Stream) -> bytes:
        """The bytes of a stream `[N, D]`, clipped to float16's range."""
        # Beyond the largest float16, 65504, values would become infinite.
        limit = np.finfo(np.float16).max
        values: NDArray[np.float16] = stream.clip(-limit, limit).astype("<f2")
        return values.tobytes()

    def decode(self, data: bytes, dim: int) -> Stream:
        """See `StreamCoding`."""
        _check_length(data, 2 * dim)
        return np.frombuffer(data, "<f2").reshape(-1, dim).astype(np.float32)


class Int8PerToken:
    """N scales in float16, then values as int8 multiples of their token's scale: `N (D + 2)` bytes.

    Quantization is symmetric: the largest magnitude of a token becomes 127.
    """

    name = "int8 per token"

    def encode(self, stream: Stream) -> bytes:
        """The bytes of a stream `[N, D]`; scales are clipped to float16's range."""
        exact = np.abs(stream).max(1, keepdims=True) / 127
        # At least the smallest normal float16: avoids a division by zero for tokens of zeros.
        limits = np.finfo(np.float16)
        scales: NDArray[np.float16] = exact.clip(limits.smallest_normal, limits.max).astype("<f2")
        # Divided by the scale as it is stored; a scale rounded down gives steps beyond 127.
        steps = np.rint(stream / scales.astype(np.float32)).clip(-127, 127)
        return scales.tobytes() + steps.astype(np.int8).tobytes()

    def decode(self, data: bytes, dim: int) -> Stream:
        """See `StreamCoding`."""
        tokens = _check_length(data, dim + 2)
        scales = np.frombuffer(data, "<f2", tokens).astype(np.float32)  # the first 2 N bytes
        steps = np.frombuffer(data, np.int8, offset=2 * tokens).reshape(tokens, dim)
        return np.asarray(steps * scales[:, None], np.float32)


class ResidualBaseline:
    """A `FeaturePath` that sends only the residual stream at a cut.

    Args:
        examiner: its checkpoint is split, and both halves run on its device.
        split: the cut.
        coding: of the residual stream.

    Raises:
        ConfigError: the tower cannot be cut there.
    """

    quantizer = None

    def __init__(self, examiner: Evaluator, split: SplitPoint, coding: StreamCoding) -> None:
        checkpoint, device = examiner.checkpoint, examiner.device
        self.name = f"{coding.name} {split}"
        self.settings: dict[str, Any] = {"cut": str(split), "coding": coding.name}
        self._coding = coding
        self._prefix = load_prefix(checkpoint, split).to(device)
        self._suffix = load_suffix(checkpoint, split).to(device)
        self._eps = checkpoint.tower.vision.layer_norm_eps
        self._norm: tuple[Tensor, Tensor] | None = None
        if split.norm != "pre":  # at the cut `pre`, the features are the residual stream
            names = [f"{cut_norm_name(split)}.{part}" for part in ("weight", "bias")]
            tensors = checkpoint.vision_tensors(names)
            weight, bias = (tensors[name].to(device, torch.float32) for name in names)
            self._norm = weight, bias

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], pixels: Tensor) -> PathOutput:
        """See `FeaturePath`; `images` is not used."""
        bodies, milliseconds = on_edge(pixels, self._send)
        dim = self._prefix.pre_layrnorm.weight.shape[0]
        streams = np.stack([self._coding.decode(body, dim) for body in bodies])
        residual = torch.from_numpy(streams).to(pixels.device)
        features = residual
        if self._norm is not None:
            weight, bias = self._norm
            features = F.layer_norm(residual, (dim,), weight, bias, self._eps)
        states = self._suffix(features, residual)
        return PathOutput(states, [len(body) for body in bodies], None, None, milliseconds)

    def _send(self, pixels: Tensor) -> bytes:
        _, residual = self._prefix(pixels)
        return self._coding.encode(residual[0].float().cpu().numpy())


def feature_baselines(examiner: Evaluator, split: SplitPoint) -> tuple[ResidualBaseline, ...]:
    """The baselines with float16 and int8 at a cut."""
    return tuple(ResidualBaseline(examiner, split, c) for c in (RawFloat16(), Int8PerToken()))


def _check_length(data: bytes, token_bytes: int) -> int:
    """The number of tokens; CorruptPayload if the length is not a multiple of `token_bytes`."""
    tokens, rest = divmod(len(data), token_bytes)
    if rest or not tokens:
        raise CorruptPayload(
            f"expected a multiple of {token_bytes} bytes, got {len(data)}; send them again"
        )
    return tokens
