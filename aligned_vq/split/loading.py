"""A checkpoint's tower in its two halves, of which only the asked one's tensors are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.split.vision import (
    VisionPrefix,
    VisionSuffix,
    build_prefix,
    build_suffix,
    tensor_names,
)
from aligned_vq.types import SplitPoint


def load_prefix(
    checkpoint: LlavaCheckpoint, split: SplitPoint, dtype: torch.dtype | None = torch.float32
) -> VisionPrefix:
    """The edge half of a checkpoint's tower; dtype None keeps the stored one."""
    checkpoint.tower.check_split(split)
    with torch.device("meta"):
        names = tensor_names(VisionPrefix(checkpoint.tower.vision, split))
    tensors = _read(checkpoint, names, dtype, "cpu")
    return build_prefix(checkpoint.tower.vision, split, tensors)


def load_suffix(
    checkpoint: LlavaCheckpoint,
    split: SplitPoint,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> VisionSuffix:
    """The cloud half of a checkpoint's tower; dtype None keeps the stored one."""
    return load_suffixes(checkpoint, [split], dtype, device)[0]


def load_suffixes(
    checkpoint: LlavaCheckpoint,
    splits: Sequence[SplitPoint],
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> list[VisionSuffix]:
    """The cloud halves of several cuts; what they have in common is in memory once."""
    names = [suffix_names(checkpoint, split) for split in splits]
    tensors = _read(checkpoint, sorted(set().union(*names)), dtype, device)
    return [
        build_suffix(checkpoint.tower, split, {name: tensors[name] for name in own})
        for split, own in zip(splits, names, strict=True)
    ]


def suffix_names(checkpoint: LlavaCheckpoint, split: SplitPoint) -> list[str]:
    """The checkpoint tensors that run behind the cut."""
    with torch.device("meta"):
        return tensor_names(VisionSuffix(checkpoint.tower, split))


def _read(
    checkpoint: LlavaCheckpoint,
    names: Iterable[str],
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> dict[str, Tensor]:
    tensors = checkpoint.vision_tensors(names)
    return {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
