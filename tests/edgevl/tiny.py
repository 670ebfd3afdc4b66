"""Students so small that a pass takes milliseconds."""

from __future__ import annotations

import torch
from torch import Tensor

from aligned_vq.edgevl.quantization.student import QuantizedStudent
from aligned_vq.edgevl.students.build import build_student
from aligned_vq.edgevl.students.config import StudentConfig

SIDE = 32
WIDTH = 24
CONFIGS = {
    "vit": StudentConfig("vit", SIDE, 8, WIDTH, (32,), (1,), (2,)),
    "swin": StudentConfig("swin", SIDE, 4, WIDTH, (16, 32), (2, 1), (2, 4), 4, 0.4),
    "dat": StudentConfig("dat", SIDE, 4, WIDTH, (16, 32), (1, 2), (2, 4), 4, 0.4, (0, 2)),
    "clip": StudentConfig("clip", SIDE, 8, WIDTH, (32,), (1,), (2,), activation="quick_gelu"),
}


def images(count: int, seed: int) -> Tensor:
    """Normalised pixels `[count, 3, 32, 32]`: smooth, as those of cameras."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=SIDE, mode="bilinear")


def calibrated(architecture: str) -> QuantizedStudent:
    """A quantized student in eval mode, calibrated on colour and on depth of one channel."""
    student = QuantizedStudent(build_student(CONFIGS[architecture], 0)).eval()
    depth = images(8, 2)[:, :1].expand(-1, 3, -1, -1)
    student.calibrate([{"rgb": images(8, 1), "depth": depth}])
    return student
