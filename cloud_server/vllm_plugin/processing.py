"""Image checks in vLLM's API process. Nothing unchecked may reach a worker, where one exception
would end the engine."""

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
    """The checked images of a prompt, each `[N, K]` int16."""

    def get_count(self) -> int:
        """The number of images."""
        return len(self.data)

    def get(self, index: int) -> Tensor:
        """One image."""
        image: Tensor = self.data[index]
        return image

    def get_processor_data(self) -> Mapping[str, object]:
        """Nothing: the checkpoint's image processor has no pixels to process."""
        return {}

    def get_passthrough_data(self) -> Mapping[str, object]:
        """The model's input, `[B, N, K]`."""
        return {"image_indices": torch.stack(list(self.data))}


class IndexParser(MultiModalDataParser):
    """Accepts index arrays only."""

    def __init__(self, layout: IndexLayout) -> None:
        super().__init__()
        self._layout = layout

    def _parse_image_data(self, data: Any) -> IndexItems | None:
        if data is None:
            return None
        # `NamedIndices` is a tuple itself.
        single = isinstance(data, NamedIndices) or not isinstance(data, (list, tuple))
        return IndexItems(
            [self._layout.checked(image) for image in ([data] if single else data)], "image"
        )


class SplitLlavaInfo(BaseProcessingInfo):
    """Describes the model's image input to vLLM."""

    @cached_property
    def manifest(self) -> SplitManifest:
        """The manifest of the served bundle."""
        return read_manifest(getattr(self.get_hf_config(), BUNDLE))

    @cached_property
    def layout(self) -> IndexLayout:
        """The layout of its index arrays."""
        return IndexLayout.of(self.manifest)

    @property
    def placeholders(self) -> list[int]:
        """The placeholder tokens of an image."""
        config = self.get_hf_config()
        return [config.image_token_index] * self.manifest.tower.num_selected_tokens

    def get_data_parser(self) -> MultiModalDataParser:
        """See `IndexParser`."""
        return IndexParser(self.layout)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """One image per prompt, and no audio or video."""
        return {"image": 1}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """The number of placeholders, which is the same for every image."""
        return {"image": len(self.placeholders)}


class SplitLlavaDummies(BaseDummyInputsBuilder[SplitLlavaInfo]):
    """Blank inputs, with which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """A prompt of placeholders only."""
        tokens = self.info.placeholders * mm_counts.get("image", 0)
        text: str = self.info.get_tokenizer().decode(tokens)
        return text

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Images without any covered token."""
        blank = torch.full(self.info.layout.shape, UNCOVERED, dtype=torch.int16)
        return {"image": [blank] * mm_counts.get("image", 0)}


class SplitLlavaProcessor(BaseMultiModalProcessor[SplitLlavaInfo]):
    """Locates the image in a prompt of token ids. The service's prompt builder has already inserted
    all placeholders, so an image never changes the length of a prompt."""

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"image_indices": MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        placeholders = self.info.placeholders
        # Replaced by themselves: vLLM only has to locate them.
        return [PromptReplacement(modality="image", target=placeholders, replacement=placeholders)]
