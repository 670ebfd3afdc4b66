"""Writes a bundle of LLaVA-1.5's real size: `python -m benchmarks.real_size.bundle DIR [ln1@1]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from aligned_vq.calibration.codec import CodecPlan, CutFeatures, calibrate_codec, export_bundle
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.types import SplitPoint
from benchmarks.real_size.checkpoint import write_random_checkpoint

_IMAGES = 8  # 4,616 tokens: enough to calibrate 4,096 entries


def main(out: Path, split: SplitPoint) -> None:
    """Calibrate a codec on noise: its values are meaningless, its sizes and costs realistic."""
    with tempfile.TemporaryDirectory() as folder:
        # A cut has to lie inside the tower; the remaining blocks of 24 would only cost time.
        checkpoint = LlavaCheckpoint(write_random_checkpoint(Path(folder), split.block + 3))
        features = checkpoint.tower.features()
        shape = (_IMAGES, features.num_tokens, features.dim)
        noise = torch.Generator().manual_seed(0)
        examples = CutFeatures(*(torch.randn(shape, generator=noise) for _ in range(2)))
        export_bundle(checkpoint, calibrate_codec(checkpoint, CodecPlan(split), examples), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), SplitPoint.parse(sys.argv[2] if len(sys.argv) > 2 else "ln1@1"))
