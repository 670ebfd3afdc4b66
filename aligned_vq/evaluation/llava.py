"""A LLaVA in one piece, and what a way of bringing images to its language model looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from aligned_vq.images.preprocess import preprocess_batch
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.llava.packing import Packer
from aligned_vq.types import Encoded


class PathOutput(NamedTuple):
    """What B images became and what that cost; one entry per image in every list."""

    states: Tensor
    """`[B, N', D]`: what LLaVA's projector reads."""
    sent_bytes: list[int]
    """Length of what really crossed from edge to cloud."""
    fixed_bytes: list[int] | None
    """Length of the same indices in fixed coding; None where there are no indices."""
    encoded: list[Encoded] | None
    """The indices as the cloud unpacked them; None where there are none."""
    edge_ms: list[float]
    """Milliseconds on the edge, image by image."""


FeaturePath = Callable[[Sequence[Image.Image], Tensor], PathOutput]
"""Pictures and the same pictures prepared `[B, 3, H, W]` float32, to what became of them.

A path that sends a picture starts from the picture, one that sends features from the pixels."""


class LoadedLlava:
    """A LLaVA with its processor and tokenizer.

    Args:
        source: checkpoint directory or hub id.
        device: where the model runs; paths that hold halves of the tower take it from here.
        dtype: of the model's weights.

    Raises:
        ConfigError: the checkpoint cannot be used.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        self.checkpoint = LlavaCheckpoint(source)
        self.device = torch.device(device)
        directory = self.checkpoint.directory()
        model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=dtype)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self._settings = self.checkpoint.processor()
        processor = AutoProcessor.from_pretrained(directory, use_fast=False)
        self.tokenizer = processor.tokenizer
        self.packer = Packer(processor, self.checkpoint.tower.num_selected_tokens)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Images prepared by the checkpoint's processor settings, `[B, 3, H, W]` float32 on
        `device`."""
        return torch.from_numpy(preprocess_batch(images, self._settings)).to(self.device)

    @torch.inference_mode()
    def tower_states(self, pixels: Tensor) -> Tensor:
        """What the whole tower gives the projector, `[B, N', D]`, as transformers runs it."""
        tower = self.checkpoint.tower
        prepared = pixels.to(self.model.dtype)
        states = self.model.model.vision_tower(prepared, output_hidden_states=True).hidden_states
        selected = torch.cat([states[layer] for layer in tower.feature_layers], dim=-1)
        return selected[:, 1:] if tower.select_strategy == "default" else selected

    def unsplit(self, pictures: Sequence[Image.Image], pixels: Tensor) -> PathOutput:
        """The `FeaturePath` of the model in one piece: the prepared picture as raw 8-bit RGB."""
        raw = pixels[0].numel()  # one byte per channel and pixel
        count = len(pixels)
        return PathOutput(self.tower_states(pixels), [raw] * count, None, None, [0.0] * count)
