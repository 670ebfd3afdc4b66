"""What vLLM's API process does with an image: check it. Nothing unchecked reaches a worker, where
one exception would end the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ModalityDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.codec.manifest import SplitManifest
from cloud_server.decode.index_arrays import UNCOVERED, IndexLayout, NamedIndices
from cloud_server.vllm_plugin import BUNDLE


class IndexItems(ModalityDataItems[Sequence[Tensor], Tensor]):
    """Checked images of a prompt, each `[N, K]` int16."""

    def get_count(self) -> int:
        """How many."""
        return len(self.data)

    def get(self, index: int) -> Tensor:
        """One of them."""
        image: Tensor = self.data[index]
        return image

    def get_processor_data(self) -> Mapping[str, object]:
        """Nothing for the checkpoint's own processor: there are no pixels."""
        return {}

    def get_passthrough_data(self) -> Mapping[str, object]:
        """What the model gets, `[B, N, K]`."""
        return {"image_indices": torch.stack(list(self.data))}


class IndexParser(MultiModalDataParser):
    """Accepts indices and nothing else."""

    def __init__(self, layout: IndexLayout) -> None:
        super().__init__()
        self._layout = layout

    def _parse_image_data(self, data: Any) -> IndexItems | None:
        if data is None:
            return None
        one = isinstance(data, NamedIndices) or not isinstance(data, (list, tuple))
        return IndexItems([self._layout.checked(own) for own in ([data] if one else data)], "image")


class SplitLlavaInfo(BaseProcessingInfo):
    """What vLLM asks about the model's images."""

    @cached_property
    def manifest(self) -> SplitManifest:
        """Of the bundle that is served."""
        return read_manifest(getattr(self.get_hf_config(), BUNDLE))

    @cached_property
    def layout(self) -> IndexLayout:
        """Of its index arrays."""
        return IndexLayout.of(self.manifest)

    @property
    def placeholders(self) -> list[int]:
        """The tokens of a prompt that an image takes."""
        config = self.get_hf_config()
        return [config.image_token_index] * self.manifest.tower.num_selected_tokens

    def get_data_parser(self) -> MultiModalDataParser:
        """See `IndexParser`."""
        return IndexParser(self.layout)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """One image in a prompt, and no sound or film."""
        return {"image": 1}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Every image takes the same."""
        return {"image": len(self.placeholders)}


class SplitLlavaDummies(BaseDummyInputsBuilder[SplitLlavaInfo]):
    """Prompts about nothing, with which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Placeholders alone."""
        tokens = self.info.placeholders * mm_counts.get("image", 0)
        text: str = self.info.get_tokenizer().decode(tokens)
        return text

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Images of which nothing is known."""
        blank = torch.full(self.info.layout.shape, UNCOVERED, dtype=torch.int16)
        return {"image": [blank] * mm_counts.get("image", 0)}


class SplitLlavaProcessor(BaseMultiModalProcessor[SplitLlavaInfo]):
    """Finds the image's place in a prompt of token ids. The placeholders are all there already, as
    the service's prompt builder wrote them, so an image never changes a prompt's length."""

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"image_indices": MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        run = self.info.placeholders
        return [PromptReplacement(modality="image", target=run, replacement=run)]
