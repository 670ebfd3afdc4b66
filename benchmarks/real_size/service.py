"""Files for a service of LLaVA-1.5's dimensions: random weights, realistic sizes and costs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aligned_vq.calibration.codec import (
    CodecPlan,
    calibrate_codec,
    export_bundle,
    features_at,
    pixel_batches,
)
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.split.loading import load_prefix
from aligned_vq.types import SplitPoint
from benchmarks.real_size.training import LANGUAGE_WIDTH, write_checkpoint

SPLIT = SplitPoint(1, "ln1")
_QUESTIONS = 80
"""Questions of the evaluation whose images are enough to calibrate 4,096 entries."""


@contextmanager
def real_dimensions(layers: int, width: int = LANGUAGE_WIDTH) -> Iterator[tuple[Path, Path]]:
    """Directories of a bundle and of a checkpoint with ViT-L/14-336, cut at ln1@1; temporary.

    Args:
        layers: number of layers of the language model.
        width: width of the language model.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = LlavaCheckpoint(write_checkpoint(Path(folder) / "llava", layers, width=width))
        pixels = pixel_batches(checkpoint, (image.image for image in exam_images(_QUESTIONS)))
        features = features_at(load_prefix(checkpoint, SPLIT), pixels)
        codec = calibrate_codec(checkpoint, CodecPlan(SPLIT), features)
        bundle = Path(folder) / "bundle"
        export_bundle(checkpoint, codec, bundle)
        yield bundle, Path(folder) / "llava"
