"""Shared fixtures: small models with random weights, so that the suite runs offline on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(2)


def random_llava(
    *,
    width: int = 32,
    blocks: int = 4,
    feature_layer: int | list[int] = -2,
    select_strategy: str = "default",
    seed: int = 0,
) -> LlavaForConditionalGeneration:
    """A LLaVA of 56 px, 17 vision tokens, with random weights and uneven LayerNorm affines."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=blocks,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=128,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
        ),
        image_token_id=4,
        image_seq_length=16,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=select_strategy,
    )
    model = LlavaForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.model.vision_tower.named_parameters():
            if "norm" in name or "layrnorm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def llava_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random LLaVA with its image processor's settings."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("llava")
    random_llava().save_pretrained(folder)
    side = {"height": 56, "width": 56}
    CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=side).save_pretrained(folder)
    return folder
