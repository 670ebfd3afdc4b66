"""How far two backends agree about one image, and whether they differ by more than rounding."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligned_vq.codec.bundle import open_edge_bundle
from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.quantizer.residual import GroupedCodebook
from aligned_vq.types import Encoded, OperatingPoint
from edge_client.backends.onnx import OnnxBackend
from edge_client.backends.torch import TorchBackend

ROUNDING = 2.0**-17
"""Of a score's parts: float32 rounds by 2^-24 at each of the many sums before it."""


class Agreement(NamedTuple):
    """Of the indices of one or more images."""

    indices: int
    """All that torch sends."""
    differing: int
    """Indices of tokens on which some stage differs, in index or in whether it is sent."""
    beyond_ties: int
    """Tokens that differ first where the two choices are further apart than rounding."""

    def plus(self, other: Agreement) -> Agreement:
        return Agreement(*(a + b for a, b in zip(self, other, strict=True)))


class Pair:
    """One bundle on both backends."""

    def __init__(self, bundle: Path) -> None:
        self.manifest = read_manifest(bundle)
        self.onnx = OnnxBackend(bundle, self.manifest, threads=1)
        self.torch = TorchBackend(bundle, "float32", threads=0)
        self._opened = open_edge_bundle(bundle)

    @torch.inference_mode()
    def agreement(self, pixels: NDArray[np.float32]) -> Agreement:
        """For normalised pixels `[3, H, W]`, at every operating point."""
        features, _ = self._opened.prefix(torch.from_numpy(pixels)[None])
        ours, theirs = self.torch.run_prefix(pixels), self.onnx.run_prefix(pixels)
        return reduce(
            Agreement.plus,
            (
                self._at(point, features, ours.encode(point), theirs.encode(point))
                for point in self.manifest.operating_points
            ),
        )

    def _at(
        self, point: OperatingPoint, features: Tensor, ours: Encoded, theirs: Encoded
    ) -> Agreement:
        assert_equal_statistics(ours, theirs)
        quantizer = self._opened.codec.quantizer
        assert quantizer is not None
        remaining = quantizer.latents(features)[0].double()
        books = quantizer.codebooks
        price = torch.full(remaining.shape[:1], point.rate_weight).double()
        agreed = torch.ones(len(remaining), dtype=torch.bool)
        beyond = 0
        for number in point.stages:
            stage = books.stage(number)
            if number == point.stages[0]:
                price = price / stage.importance(stage.encode(remaining.float())).double()
            (own, sent), (other, also) = (_spread(found, number) for found in (ours, theirs))
            score, scale = _scores(stage, remaining, price, own)
            other_score, other_scale = _scores(stage, remaining, price, other)
            apart = torch.where(sent & also, (score - other_score).abs(), 0)
            apart = torch.where(sent ^ also, torch.where(sent, score, other_score).abs(), apart)
            differs = agreed & ((sent ^ also) | (sent & also & (own != other).any(1)))
            beyond += int((differs & (apart > ROUNDING * (scale + other_scale))).sum())
            agreed &= ~differs
            remaining = remaining - stage.decode(own) * sent[:, None]
        total = sum(found.indices.size for found in ours.stages)
        lost = sum(_spread(ours, n)[1][~agreed].sum() for n in point.stages)
        return Agreement(total, int(lost) * books.config.num_groups, beyond)


def assert_equal_statistics(ours: Encoded, theirs: Encoded) -> None:
    assert (ours.statistics is None) == (theirs.statistics is None)
    if ours.statistics is not None and theirs.statistics is not None:
        assert theirs.statistics.dtype == ours.statistics.dtype
        np.testing.assert_allclose(theirs.statistics, ours.statistics, rtol=2e-3, atol=1e-4)


def _spread(encoded: Encoded, number: int) -> tuple[Tensor, Tensor]:
    """A stage's indices `[N, G]`, 0 where not sent, and where it sends any, `[N]`."""
    stage = encoded.stages[number]
    sent = np.ones(encoded.num_tokens, np.bool_) if stage.mask is None else stage.mask
    indices = np.zeros((encoded.num_tokens, stage.indices.shape[1]), np.int64)
    indices[sent] = stage.indices
    return torch.from_numpy(indices), torch.from_numpy(sent)


def _scores(
    stage: GroupedCodebook, latents: Tensor, price: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor]:
    """In float64, what sending these indices gains or costs, and the size of what is summed up."""
    entries = stage.decode(indices).double()
    bits = price * stage.length_bits(indices).double()
    square, product = entries.square().sum(1), 2 * (entries * latents).sum(1)
    bound = square + 2 * entries.norm(dim=1) * latents.norm(dim=1) + bits
    return square - product + bits, bound
