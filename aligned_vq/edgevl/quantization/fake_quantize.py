"""Fake quantization with straight-through gradients, as modules that torchao puts into graphs.

Both round in the forward pass; their gradient is 1 inside the range and 0 outside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchao.quantization.pt2e.fake_quantize import FakeQuantizeBase

from aligned_vq.edgevl.quantization.ranges import MODALITIES, UINT8_STEPS, RangeRecord, grid
from aligned_vq.images.modality import Modality
from aligned_vq.precision import INT8_WEIGHT_LIMIT


class StaticActivation(FakeQuantizeBase):
    """An activation on a grid of unsigned 8-bit integers that calibration fixed.

    Before calibration the activation passes unchanged. The arguments of the quantization
    specification are given by torchao.
    """

    scale: Tensor
    zero_point: Tensor
    extremes: Tensor
    calibrated: Tensor

    def __init__(self, **_specification: Any) -> None:
        super().__init__()
        self.dtype = torch.uint8
        self.qscheme = torch.per_tensor_affine
        self.quant_min, self.quant_max = 0, UINT8_STEPS
        self.is_dynamic = False
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("extremes", torch.full((len(MODALITIES), 2), torch.nan))
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.uint8))
        self._record: RangeRecord | None = None
        self._modality: Modality = "rgb"

    def forward(self, x: Tensor) -> Tensor:
        """`x`, rounded to the grid; or recorded and unchanged during calibration."""
        if self._record is not None:
            self._record.add(x.detach(), self._modality)
            return x
        if not self.calibrated:
            return x
        return torch.fake_quantize_per_tensor_affine(
            x, self.scale, self.zero_point, self.quant_min, self.quant_max
        )

    def calculate_qparams(self, **_options: Any) -> tuple[Tensor, Tensor]:
        """Scale and zero point, `[1]` each, for conversion."""
        return self.scale, self.zero_point

    def observe(self, modality: Modality) -> None:
        """From now on record activations, as those of images of this modality."""
        self._record = self._record or RangeRecord()
        self._modality = modality

    def freeze(self) -> None:
        """Fix the range from what was recorded, and drop the record."""
        if self._record is None:
            return
        scale, zero = grid(*self._record.best_range())
        self.scale.fill_(scale)
        self.zero_point.fill_(zero)
        self.extremes.copy_(self._record.extremes)
        self.calibrated.fill_(1)
        self.forget()

    def forget(self) -> None:
        """Drop what was recorded."""
        self._record = None


class ChannelWeight(FakeQuantizeBase):
    """A weight `[out, in]` on a symmetric signed 8-bit grid for each output channel.

    The grid follows the weight: its limit is the channel's largest magnitude in each pass.
    """

    def __init__(self, **_specification: Any) -> None:
        super().__init__()
        self.dtype = torch.int8
        self.qscheme = torch.per_channel_symmetric
        self.quant_min, self.quant_max = -INT8_WEIGHT_LIMIT, INT8_WEIGHT_LIMIT
        self.ch_axis = 0
        self.is_dynamic = False
        self._scale = torch.ones(1)

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight."""
        scale = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-12) / INT8_WEIGHT_LIMIT
        self._scale = scale
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, scale, zeros, self.ch_axis, self.quant_min, self.quant_max
        )

    def calculate_qparams(self, **_options: Any) -> tuple[Tensor, Tensor]:
        """Scales and zero points `[out]` of the last pass, for conversion."""
        return self._scale, torch.zeros_like(self._scale, dtype=torch.int32)
