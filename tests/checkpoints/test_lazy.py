"""Checkpoints of any model are opened lazily, whatever their tensors are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from aligned_vq.checkpoints.lazy import LazyCheckpoint, tensors_digest
from aligned_vq.errors import ConfigError

EXAMPLE = "openai/clip-vit-base-patch32"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dual encoder as transformers saves it."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config={**small, "num_attention_heads": 2, "vocab_size": 50},
        vision_config={**small, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        projection_dim=8,
    )
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_a_dual_encoder_is_read_tensor_by_tensor(clip: Path) -> None:
    checkpoint = LazyCheckpoint(clip, None, EXAMPLE)
    model = CLIPModel.from_pretrained(clip)
    assert checkpoint.config["model_type"] == "clip"
    assert checkpoint.tensor_names == set(model.state_dict()) - {
        name for name in model.state_dict() if name.endswith("position_ids")
    }
    assert not checkpoint.opened
    read = checkpoint.tensor("visual_projection.weight")
    assert torch.equal(read, model.visual_projection.weight)
    assert checkpoint.opened == {"visual_projection.weight"}


def test_the_first_known_prefix_names_a_tensor(clip: Path) -> None:
    checkpoint = LazyCheckpoint(clip, None, EXAMPLE)
    prefixes = ("absent.", "vision_model.", "text_model.")
    stored = checkpoint.stored_name("encoder.layers.0.mlp.fc1.weight", prefixes)
    assert stored == "vision_model.encoder.layers.0.mlp.fc1.weight"
    assert checkpoint.stored_name("absent", prefixes) is None


def test_a_missing_tensor_is_named(clip: Path) -> None:
    with pytest.raises(ConfigError, match=r"'head\.weight'"):
        LazyCheckpoint(clip, None, EXAMPLE).tensor("head.weight")


def test_the_digest_of_tensors_depends_on_names_shapes_dtypes_and_bytes() -> None:
    base = {"a": torch.arange(4.0), "b": torch.zeros(2)}
    assert tensors_digest(base) == tensors_digest(dict(reversed(base.items())))
    others = (
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].reshape(2, 2), "b": base["b"]},
        {"a": base["a"].to(torch.float64), "b": base["b"]},
        {"a": base["a"] + 1, "b": base["b"]},
    )
    assert len({tensors_digest(one) for one in (base, *others)}) == 5


def test_an_address_that_is_none_names_an_example(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        LazyCheckpoint(tmp_path, None, EXAMPLE)
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert LazyCheckpoint(tmp_path, None, EXAMPLE).tensor_names == {"w"}
