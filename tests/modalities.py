"""Prefixes for other cameras, without training, and what such cameras see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aligned_vq.codec.bundle import open_edge_bundle
from aligned_vq.images.depth import RangeSettings
from aligned_vq.split.vision import VisionPrefix

ROOM = RangeSettings(fixed=(0.5, 5.0))


def changed_prefix(bundle: Path, seed: int = 0) -> VisionPrefix:
    """The bundle's own prefix with slightly changed weights."""
    prefix = open_edge_bundle(bundle).prefix
    generator = torch.Generator().manual_seed(seed)
    for parameter in prefix.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data + 0.05 * parameter.data.std(correction=0) * noise
    return prefix


def depth_png(path: Path, side: int = 64) -> Path:
    """A wall at 4 m with a box before it, in millimetres of 16 bits, and a column of holes."""
    values = np.full((side, side), 4000, np.uint16)
    values[side // 4 : side // 2, side // 4 : side // 2] = 1203
    values[:, -2:] = 0
    Image.fromarray(values).save(path)
    return path
