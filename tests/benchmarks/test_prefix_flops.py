"""The formula of an edge's operations against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aligned_vq.llava.tower_config import VisionConfig
from aligned_vq.split.vision import VisionPrefix
from aligned_vq.types import SplitPoint
from benchmarks.real_size.prefix_flops import prefix_flops

REAL = VisionConfig(1024, 4096, 24, 16, image_size=336, patch_size=14)
SMALL = VisionConfig(32, 48, 4, 2, image_size=56, patch_size=14)


@pytest.mark.parametrize("cut", ["pre", "ln1@0", "ln2@0", "ln1@1", "ln2@1", "ln2@3"])
@pytest.mark.parametrize("vision", [SMALL, REAL], ids=["small", "real"])
def test_the_formula_counts_what_torch_counts(vision: VisionConfig, cut: str) -> None:
    split = SplitPoint.parse(cut)
    with torch.device("meta"):  # shapes are enough to count
        prefix = VisionPrefix(vision, split)
        pixels = torch.zeros(1, 3, vision.image_size, vision.image_size)
    with (
        torch.inference_mode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        prefix(pixels)
    assert prefix_flops(vision, split) == counter.get_total_flops()


def test_known_figures() -> None:
    assert prefix_flops(REAL, SplitPoint.parse("pre")) == pytest.approx(0.69e9, rel=0.01)
    block = prefix_flops(REAL, SplitPoint.parse("ln1@1")) - prefix_flops(
        REAL, SplitPoint.parse("ln1@0")
    )
    assert block == pytest.approx(15.9e9, rel=0.01)
