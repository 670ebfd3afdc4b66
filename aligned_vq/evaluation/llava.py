"""A loaded LLaVA, and the interface of ways to send images to its language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from aligned_vq.images.preprocess import preprocess_batch
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.llava.packing import Packer
from aligned_vq.types import Encoded


class PathOutput(NamedTuple):
    """The features of B images and the costs of sending them; lists have an item per image."""

    states: Tensor
    """`[B, N', D]`: input of LLaVA's projector."""
    sent_bytes: list[int]
    """Bytes sent from edge to cloud."""
    fixed_bytes: list[int] | None
    """Bytes of the same indices in fixed coding; None if the path sends no indices."""
    encoded: list[Encoded] | None
    """The indices that the cloud unpacked; None if the path sends no indices."""
    edge_ms: list[float]
    """Time on the edge in milliseconds."""


FeaturePath = Callable[[Sequence[Image.Image], Tensor], PathOutput]
"""A way to send images: from images, and the same images prepared, float32 `[B, 3, H, W]`.

Paths that send images use the former, paths that send features the latter."""


class LoadedLlava:
    """A LLaVA with its processor and tokenizer.

    Args:
        checkpoint: of the model.
        model: transformers' `LlavaForConditionalGeneration`, in eval mode; paths run their halves
            of the tower on its device.
        processor: transformers' `LlavaProcessor` of the checkpoint.
    """

    def __init__(self, checkpoint: LlavaCheckpoint, model: Any, processor: Any) -> None:
        self.checkpoint = checkpoint
        self.model = model
        self.processor = processor
        self.device: torch.device = model.device
        self.tokenizer = processor.tokenizer
        self.packer = Packer(processor, checkpoint.tower.num_selected_tokens)
        self._settings = checkpoint.processor()

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> LoadedLlava:
        """The LLaVA of a checkpoint directory or hub id.

        Args:
            source: directory or hub id.
            device: on which the model runs.
            dtype: of the model's weights.

        Raises:
            ConfigError: the checkpoint is invalid.
        """
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        checkpoint = LlavaCheckpoint(source)
        directory = checkpoint.directory()
        model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=dtype)
        model = model.to(torch.device(device)).eval().requires_grad_(False)
        processor = AutoProcessor.from_pretrained(directory, use_fast=False)
        return LoadedLlava(checkpoint, model, processor)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Images prepared with the checkpoint's processor, float32 `[B, 3, H, W]` on `device`."""
        return torch.from_numpy(preprocess_batch(images, self._settings)).to(self.device)

    @torch.inference_mode()
    def tower_states(self, pixels: Tensor) -> Tensor:
        """The projector's input `[B, N', D]` from the whole tower, run by transformers."""
        tower = self.checkpoint.tower
        prepared = pixels.to(self.model.dtype)
        states = self.model.model.vision_tower(prepared, output_hidden_states=True).hidden_states
        selected = torch.cat([states[layer] for layer in tower.feature_layers], dim=-1)
        # Token 0 is the class token.
        return selected[:, 1:] if tower.select_strategy == "default" else selected

    def unsplit(self, images: Sequence[Image.Image], pixels: Tensor) -> PathOutput:
        """The `FeaturePath` of the unsplit model, which receives prepared 8-bit RGB images."""
        raw_bytes = pixels[0].numel()  # one per channel and pixel
        count = len(pixels)
        return PathOutput(self.tower_states(pixels), [raw_bytes] * count, None, None, [0.0] * count)
