"""The foundation: split + identity quantizer + `statistics` link equals the unsplit tower."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from aligned_vq.llava.tower_config import TowerConfig, VisionConfig
from aligned_vq.split.residual_link import (
    ClosedFormLink,
    build_link,
    link_norm_names,
    token_statistics,
)
from aligned_vq.split.vision import (
    VisionPrefix,
    VisionSuffix,
    build_prefix,
    build_suffix,
    tensor_names,
)
from aligned_vq.types import LinkKind, SplitPoint
from tests.conftest import random_llava

SPLITS = [SplitPoint(0, "pre"), *(SplitPoint(b, n) for b in (0, 1, 2) for n in ("ln1", "ln2"))]

WIDE_SPLITS = [
    SplitPoint(0, "pre"),
    *(SplitPoint(b, n) for b in (0, 1, 11, 22) for n in ("ln1", "ln2")),
]


def through_the_split(
    tower: TowerConfig,
    tensors: dict[str, torch.Tensor],
    split: SplitPoint,
    kind: LinkKind,
    pixels: torch.Tensor,
) -> torch.Tensor:
    with torch.device("meta"):
        prefix, suffix = VisionPrefix(tower.vision, split), VisionSuffix(tower, split)
    before = build_prefix(tower.vision, split, {n: tensors[n] for n in tensor_names(prefix)})
    after = build_suffix(tower, split, {n: tensors[n] for n in tensor_names(suffix)})
    link = build_link(
        kind, split, tower.features(), None, {n: tensors[n] for n in link_norm_names(split)}
    )
    with torch.inference_mode():
        features, residual = before(pixels)
        statistics = token_statistics(residual, tower.vision.layer_norm_eps)
        selected: torch.Tensor = after(features, link(features, None, statistics))
        return selected


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_split_equals_unsplit(split: SplitPoint, strategy: str) -> None:
    model = random_llava(select_strategy=strategy)
    tower = TowerConfig.from_llava(model.config.to_dict())
    pixels = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    expected = states[-2][:, 1:] if strategy == "default" else states[-2]
    kind: LinkKind = "identity" if split.norm == "pre" else "statistics"
    got = through_the_split(tower, model.model.vision_tower.state_dict(), split, kind, pixels)
    assert (got - expected).abs().max() <= 1e-4


def test_several_feature_layers_are_concatenated() -> None:
    model = random_llava(feature_layer=[2, -1])
    tower = TowerConfig.from_llava(model.config.to_dict())
    pixels = torch.randn(1, 3, 56, 56)
    with torch.inference_mode():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    expected = torch.cat([states[2][:, 1:], states[-1][:, 1:]], -1)
    tensors = model.model.vision_tower.state_dict()
    for split in (SplitPoint(1, "ln1"), SplitPoint(2, "ln1")):
        got = through_the_split(tower, tensors, split, "statistics", pixels)
        assert (got - expected).abs().max() <= 1e-4


def test_blocks_behind_the_selected_layer_are_never_built() -> None:
    tower = TowerConfig.from_llava(random_llava().config.to_dict())
    suffix = VisionSuffix(tower, SplitPoint(1, "ln1"))
    assert sorted(suffix.encoder.layers) == ["1", "2"]
    assert not any("layers.3" in name for name in tensor_names(suffix))


@pytest.fixture(scope="module", params=[112, pytest.param(336, marks=pytest.mark.long)])
def wide_states(request: pytest.FixtureRequest) -> tuple[CLIPVisionModel, Tensor, list[Tensor]]:
    """ViT-L/14 with random weights and norms as uneven as trained ones, an image, and its states.

    The image is `[1, 3, side, side]`, the states those before each block and after the last one.
    """
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=request.param,
        patch_size=14,
    )
    tower = CLIPVisionModel(config).eval()
    pixels = torch.randn(1, 3, request.param, request.param)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "norm" in name or "layrnorm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        states = [tower.pre_layrnorm(tower.embeddings(pixels))]
        for layer in tower.encoder.layers:
            states.append(layer(states[-1], None))
    return tower, pixels, states


@pytest.mark.parametrize("split", WIDE_SPLITS, ids=str)
def test_exact_at_the_width_of_vit_l_14(
    split: SplitPoint, wide_states: tuple[CLIPVisionModel, Tensor, list[Tensor]]
) -> None:
    tower, pixels, states = wide_states
    vision = VisionConfig.from_dict(tower.config.to_dict())
    # Later blocks are the same computation whatever the cut: two behind it suffice to see an error.
    last = min(split.block + 2, 23)
    kind: LinkKind = "identity" if split.norm == "pre" else "statistics"
    cut = TowerConfig(vision, (last,), "default")
    got = through_the_split(cut, tower.state_dict(), split, kind, pixels)
    assert (got - states[last][:, 1:]).abs().max() <= 1e-4


@pytest.mark.parametrize("width", [32, 256])
def test_closed_form_link_rebuilds_the_residual(width: int) -> None:
    model = random_llava(width=width)
    tensors = model.model.vision_tower.state_dict()
    split = SplitPoint(0, "ln1")
    vision = TowerConfig.from_llava(model.config.to_dict()).vision
    with torch.device("meta"):
        names = tensor_names(VisionPrefix(vision, split))
    prefix = build_prefix(vision, split, {n: tensors[n] for n in names})
    norms = {n: tensors[n] for n in link_norm_names(split)}
    link = build_link(
        "closed_form", split, TowerConfig.from_llava(model.config.to_dict()).features(), None, norms
    )
    assert isinstance(link, ClosedFormLink)
    with torch.inference_mode():
        features, residual = prefix(torch.randn(4, 3, 56, 56))
        rebuilt = link(features, None, None)
    assert (rebuilt - residual).norm() / residual.norm() <= 1e-2
