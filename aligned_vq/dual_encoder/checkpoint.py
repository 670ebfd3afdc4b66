"""CLIP, SigLIP and SigLIP 2 in Hugging Face format, as frozen encoders of images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from aligned_vq.checkpoints.lazy import LazyCheckpoint
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.processor import ProcessorSettings

EXAMPLE = "openai/clip-vit-base-patch16"
_TEXTS_AT_ONCE = 256


class _Family(NamedTuple):
    """Names of transformers' classes for the two halves, and where their embeddings are."""

    image_model: str
    text_model: str
    image_output: str
    text_output: str


_FAMILIES = {
    "clip": _Family(
        "CLIPVisionModelWithProjection",
        "CLIPTextModelWithProjection",
        "image_embeds",
        "text_embeds",
    ),
    "siglip": _Family("SiglipVisionModel", "SiglipTextModel", "pooler_output", "pooler_output"),
    "siglip2": _Family("Siglip2VisionModel", "Siglip2TextModel", "pooler_output", "pooler_output"),
}


class ImageFeatures(NamedTuple):
    """What the image half gives."""

    embeddings: Tensor
    """Unit vectors `[B, D]`."""
    tokens: Tensor
    """Hidden states of the patches, `[B, W, rows, columns]`."""


class DualEncoder(LazyCheckpoint):
    """A frozen dual encoder; each half is read when it is first used.

    Args:
        source: a directory in Hugging Face format, or a hub id such as `EXAMPLE`.
        revision: of the hub repository; ignored for a directory.
        device: where both halves run.

    Raises:
        ConfigError: the source does not exist, or is no CLIP, SigLIP or SigLIP 2.
    """

    def __init__(
        self, source: str | Path, revision: str | None = None, device: str = "cpu"
    ) -> None:
        self._device = torch.device(device)
        super().__init__(source, revision, EXAMPLE)

    def _check_config(self) -> None:
        kind = self.config.get("model_type") if isinstance(self.config, dict) else None
        if kind not in _FAMILIES:
            raise ConfigError(
                f"{self.source} holds a model of type {kind!r}; expected one of "
                f"{', '.join(_FAMILIES)}, as in {EXAMPLE}"
            )
        self._family = _FAMILIES[kind]
        # What a checkpoint leaves out has the default of transformers.
        config = AutoConfig.for_model(**self.config)
        self._patch_size = int(config.vision_config.patch_size)
        self._token_width = int(config.vision_config.hidden_size)
        self._context_tokens = int(config.text_config.max_position_embeddings)

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by before a softmax, as it was trained."""
        return float(self.tensor("logit_scale").float().exp())

    @cached_property
    def preparation(self) -> ProcessorSettings:
        """The image processor's settings, read once."""
        return self.processor()

    @cached_property
    def width(self) -> int:
        """Length of an embedding."""
        return int(self.text_embeddings(["a"]).shape[1])

    @property
    def token_width(self) -> int:
        """W, width of the image half's tokens."""
        return self._token_width

    @torch.inference_mode()
    def image_embeddings(self, pixels: Tensor) -> Tensor:
        """Unit vectors `[B, D]` float32 of images.

        Args:
            pixels: `[B, 3, H, W]` float32, prepared with the settings of `processor()`.
        """
        return self.image_features(pixels).embeddings

    @torch.inference_mode()
    def image_features(self, pixels: Tensor) -> ImageFeatures:
        """Embeddings and tokens of images, float32; see `image_embeddings`."""
        output = self.image_model(**self._image_inputs(pixels.to(self._device)))
        embeddings = getattr(output, self._family.image_output).float()
        rows, columns = (side // self._patch_size for side in pixels.shape[2:])
        # CLIP has a class token before the patches.
        patches = output.last_hidden_state[:, -rows * columns :].float()
        tokens = patches.transpose(1, 2).unflatten(2, (rows, columns))
        return ImageFeatures(nn.functional.normalize(embeddings, dim=-1), tokens)

    @torch.inference_mode()
    def text_embeddings(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors `[T, D]` float32 of texts.

        Raises:
            InvalidInput: a text has more tokens than the model's context.
        """
        parts = [
            self._embed_texts(texts[first : first + _TEXTS_AT_ONCE])
            for first in range(0, len(texts), _TEXTS_AT_ONCE)
        ]
        return torch.cat(parts)

    def token_ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids int64 `[T, L]`, padded to the context of the text model.

        What looks like a special token is read as plain text.

        Raises:
            InvalidInput: a text has more tokens than the context.
        """
        context = self.context_tokens
        encoded = self.tokenizer(list(texts), split_special_tokens=True)["input_ids"]
        for text, ids in zip(texts, encoded, strict=True):
            if len(ids) > context:
                raise InvalidInput(
                    f"expected texts of at most {context} tokens, got {len(ids)} in {text[:60]!r}: "
                    "shorten it"
                )
        padded: Tensor = self.tokenizer.pad(
            {"input_ids": encoded}, padding="max_length", max_length=context, return_tensors="pt"
        )["input_ids"]
        return padded

    @property
    def context_tokens(self) -> int:
        """The longest text that the text model reads, special tokens included."""
        return self._context_tokens

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the checkpoint."""
        return AutoTokenizer.from_pretrained(self.directory())

    @property
    def text_output(self) -> str:
        """Where the embeddings are in the output of `text_model`; not of length 1 yet."""
        return self._family.text_output

    @cached_property
    def text_model(self) -> nn.Module:
        """The text half, for export."""
        return self._load(self._family.text_model)

    @cached_property
    def image_model(self) -> Any:
        """The image half, whose weights a student may start from."""
        return self._load(self._family.image_model)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        ids = self.token_ids(texts).to(self._device)
        output = getattr(self.text_model(input_ids=ids), self._family.text_output)
        return nn.functional.normalize(output.float(), dim=-1)

    def _image_inputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """The arguments of the image half, which takes patches instead of pixels in SigLIP 2."""
        if self.config["model_type"] != "siglip2":
            return {"pixel_values": pixels}
        size, (count, channels, height, width) = self._patch_size, pixels.shape
        rows, columns = height // size, width // size
        patches = pixels.reshape(count, channels, rows, size, columns, size)
        patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, -1)
        grid = torch.tensor([[rows, columns]], device=pixels.device).expand(count, 2)
        every = torch.ones(count, rows * columns, dtype=torch.int32, device=pixels.device)
        return {"pixel_values": patches, "spatial_shapes": grid, "pixel_attention_mask": every}

    def _load(self, name: str) -> nn.Module:
        """One half of the model, frozen."""
        model, report = getattr(transformers, name).from_pretrained(
            self.directory(), dtype=torch.float32, output_loading_info=True
        )
        # The tensors of the other half are unexpected, and rightly so.
        if report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise ConfigError(
                f"{self.source}: expected every tensor of {name}, found none of {missing}; fetch "
                "it again"
            )
        frozen: nn.Module = model.eval().requires_grad_(False).to(self._device)
        return frozen
