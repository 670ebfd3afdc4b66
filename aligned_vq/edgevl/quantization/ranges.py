"""Static ranges of activations: what calibration images used, and the range that loses least."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from aligned_vq.images.modality import Modality

MODALITIES: tuple[Modality, ...] = get_args(Modality)
UINT8_STEPS = 255
_BATCH_SAMPLES = 4096
_MOST_SAMPLES = 65536
_SHARES = torch.linspace(1.0, 0.3, 36)
"""Shares of the full range that are tried."""


class RangeRecord:
    """What one activation was during calibration: extremes by modality, and a sample of values."""

    def __init__(self) -> None:
        self.extremes = torch.full((len(MODALITIES), 2), torch.nan)
        """Smallest and largest value by modality `[4, 2]`; NaN: not seen."""
        self._samples = torch.zeros(0)
        # Every value draws a key, and those below a limit are kept: each batch in equal shares.
        self._keys = torch.zeros(0)
        self._largest_key = 1.0
        self._generator = torch.Generator().manual_seed(0)

    def add(self, x: Tensor, modality: Modality) -> None:
        """Record the activation of one batch."""
        row = self.extremes[MODALITIES.index(modality)]
        low, high = (extreme.cpu() for extreme in x.aminmax())
        # fmin and fmax ignore the NaN of a modality not seen before.
        row.copy_(torch.stack([torch.fmin(row[0], low), torch.fmax(row[1], high)]))
        # At random places: a stride could always meet the same channels.
        places = torch.randint(x.numel(), (_BATCH_SAMPLES,), generator=self._generator)
        self._samples = torch.cat([self._samples, x.flatten()[places.to(x.device)].cpu().float()])
        keys = torch.rand(_BATCH_SAMPLES, generator=self._generator)
        self._keys = torch.cat([self._keys, keys])
        if len(self._keys) > _MOST_SAMPLES:
            self._largest_key = float(self._keys.median())
        kept = self._keys <= self._largest_key
        self._samples, self._keys = self._samples[kept], self._keys[kept]

    def best_range(self) -> tuple[float, float]:
        """The range, around 0, whose 8-bit grid has the least squared error on the sample.

        A narrower range than the extremes has finer steps and clips a few values.
        """
        seen = self.extremes[~self.extremes[:, 0].isnan()]
        low = min(float(seen[:, 0].min()), 0.0)
        high = max(float(seen[:, 1].max()), 0.0)
        values = self._samples
        errors = []
        for share in _SHARES:
            scale, zero = grid(low * float(share), high * float(share))
            rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, UINT8_STEPS)
            errors.append(float((rounded - values).square().mean()))
        share = float(_SHARES[min(range(len(errors)), key=errors.__getitem__)])
        return low * share, high * share


def grid(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of unsigned 8-bit integers over a range that contains 0."""
    scale = max(high - low, 1e-8) / UINT8_STEPS  # the bound is for activations that are always 0
    return scale, min(max(round(-low / scale), 0), UINT8_STEPS)
