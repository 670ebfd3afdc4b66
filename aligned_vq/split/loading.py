"""Loading of a checkpoint's vision prefix or suffix; only the needed tensors are read."""

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
    """The edge half of a checkpoint's tower; `dtype` None: as stored."""
    checkpoint.tower.check_split(split)
    # The names follow from the modules, which allocate no weights on the meta device.
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
    """The cloud half of a checkpoint's tower; `dtype` None: as stored."""
    return load_suffixes(checkpoint, [split], dtype, device)[0]


def load_suffixes(
    checkpoint: LlavaCheckpoint,
    splits: Sequence[SplitPoint],
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> list[VisionSuffix]:
    """The cloud halves of several cuts, which share the memory of their common tensors."""
    names_by_split = [suffix_names(checkpoint, split) for split in splits]
    # One read for all cuts: most of their tensors are the same.
    tensors = _read(checkpoint, sorted(set().union(*names_by_split)), dtype, device)
    return [
        build_suffix(checkpoint.tower, split, {name: tensors[name] for name in names})
        for split, names in zip(splits, names_by_split, strict=True)
    ]


def suffix_names(checkpoint: LlavaCheckpoint, split: SplitPoint) -> list[str]:
    """Names of the tower's tensors that are used behind the cut, as in the checkpoint."""
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
