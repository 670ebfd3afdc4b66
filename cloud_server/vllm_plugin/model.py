"""The model in vLLM's workers: codebook lookup, residual link, vision suffix, projector and
language model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.activation import get_act_fn
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from aligned_vq.codec.bundle import open_cloud_bundle
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.split.loading import load_suffix
from aligned_vq.split.vision import VisionSuffix
from cloud_server.decode.index_arrays import IndexLayout
from cloud_server.model import check_vision_weights
from cloud_server.vllm_plugin import BUNDLE
from cloud_server.vllm_plugin.processing import (
    SplitLlavaDummies,
    SplitLlavaInfo,
    SplitLlavaProcessor,
)


class Projector(nn.Module):
    """LLaVA's two layers between vision tower and language model; not sharded."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        layers = config.vision_feature_layer
        # Several feature layers are concatenated along the width.
        input_width = config.vision_config.hidden_size * (
            len(layers) if isinstance(layers, list) else 1
        )
        width, bias = config.text_config.hidden_size, config.multimodal_projector_bias
        self.linear_1 = nn.Linear(input_width, width, bias=bias)
        self.act = get_act_fn(config.projector_hidden_act)
        self.linear_2 = nn.Linear(width, width, bias=bias)

    def forward(self, selected: Tensor) -> Tensor:
        """Image embeddings `[B, N', H]` of the vision tower's selected hidden states."""
        embeds: Tensor = self.linear_2(self.act(self.linear_1(selected)))
        return embeds


@MULTIMODAL_REGISTRY.register_processor(
    SplitLlavaProcessor, info=SplitLlavaInfo, dummy_inputs=SplitLlavaDummies
)
class SplitLlavaForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsPP):
    """LLaVA behind the cut. The prefix of its vision tower, which runs on the edge, is not loaded.

    Composed of vLLM's parts instead of derived from its LLaVA, whose module requires torchvision
    and would create the whole vision tower.

    Raises:
        ConfigError: the bundle is unusable, or its payloads hold more than indices.
        ManifestMismatch: the bundle was made for other vision weights.
    """

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.language_model.": "language_model.model.",
            "model.multi_modal_projector.": "multi_modal_projector.",
            "lm_head.": "language_model.lm_head.",
            "model.vision_tower.": None,  # the suffix loads its weights itself
            "vision_tower.": None,
        }
    )

    vision_suffix: VisionSuffix
    multi_modal_projector: Projector
    language_model: Any

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """None, as prompts are token ids that contain the placeholders."""
        return None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        model, config = vllm_config.model_config, vllm_config.model_config.hf_config
        self.configure_mm_token_handling(config.text_config.vocab_size, [config.image_token_index])
        device = vllm_config.device_config.device
        checkpoint = LlavaCheckpoint(model.model, model.revision)
        with _torch_defaults():
            bundle = open_cloud_bundle(getattr(config, BUNDLE), device)
            check_vision_weights(bundle.manifest, checkpoint)
            suffix = load_suffix(checkpoint, bundle.manifest.split, model.dtype, device)
        self._layout = IndexLayout.of(bundle.manifest)
        self._codec = bundle.codec
        with self._mark_tower_model(vllm_config, "image"):
            self.vision_suffix = suffix
            self.multi_modal_projector = Projector(config)
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **kwargs: object) -> Tensor | list[Tensor]:
        """Image embeddings `[B, N', H]` of `image_indices`, int16 `[B, N, K]`.

        Indices out of range, which the API process refuses, are clamped: an exception would end the
        engine.
        """
        images = kwargs.get("image_indices")
        if not isinstance(images, (Tensor, list)) or not len(images):
            return []
        batch = images if isinstance(images, Tensor) else torch.stack(images)
        dtype = self.multi_modal_projector.linear_1.weight.dtype
        features, residual = self._codec.rebuild(*self._layout.stages(batch))  # [B, N, D] each
        selected = self.vision_suffix(features.to(dtype), residual.to(dtype))
        embeds: Tensor = self.multi_modal_projector(selected)
        return embeds

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Any:
        """Hidden states of the language model."""
        if intermediate_tensors is not None:
            # Later stages of a pipeline continue from hidden states; embeddings enter at the first.
            inputs_embeds = None
        return self.language_model.model(
            input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds
        )

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits `[..., V]`."""
        logits: Tensor | None = self.language_model.compute_logits(hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load projector and language model; returns the names of all loaded parameters, including
        those of the suffix, which `__init__` loads."""
        loader = AutoWeightsLoader(self)
        loaded: set[str] = loader.load_weights(weights, mapper=self.hf_to_vllm_mapper)
        # vLLM refuses a model with parameters that are not among these names.
        return loaded | {f"vision_suffix.{name}" for name in self.vision_suffix.state_dict()}


@contextmanager
def _torch_defaults() -> Iterator[None]:
    """Restore torch's defaults: vLLM creates models under its own default dtype and device, but the
    codec is always float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)
