"""A checkpoint with the dimensions of LLaVA-1.5's vision tower and random weights.

It contains the tensors of the vision tower in float16, under the names of released checkpoints, and
one tensor of the language model, with which a test checks that the edge never reads it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from aligned_vq.llava.tower_config import TowerConfig
from aligned_vq.split.vision import VisionPrefix, VisionSuffix
from aligned_vq.types import SplitPoint

LLAVA_CONFIG = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "image_token_index": 32000,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
    "text_config": {"model_type": "llama", "vocab_size": 32064},
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 336},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 336, "width": 336},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
LANGUAGE_TENSOR = "language_model.model.embed_tokens.weight"


def write_random_checkpoint(directory: Path, blocks: int = 24, seed: int = 0) -> Path:
    """Write the checkpoint; fewer than 24 `blocks` omit the last ones, to save time and disk space.

    Returns the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # A deep copy, as the number of blocks is changed.
    config = json.loads(json.dumps(LLAVA_CONFIG))
    config["vision_config"]["num_hidden_layers"] = blocks
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    tower = TowerConfig.from_llava(config)
    # Any cut will do: both halves together are the whole tower.
    split = SplitPoint(0, "ln1")
    # Without memory, as only names and shapes are needed.
    with torch.device("meta"):
        halves = (VisionPrefix(tower.vision, split), VisionSuffix(tower, split))
    shapes = {name: t.shape for half in halves for name, t in half.state_dict().items()}
    random = torch.Generator().manual_seed(seed)
    tensors = {
        f"vision_tower.vision_model.{name}": _random(name, shape, random)
        for name, shape in shapes.items()
    }
    tensors[LANGUAGE_TENSOR] = torch.zeros(8, 8, dtype=torch.float16)
    save_file(tensors, directory / "model.safetensors")
    return directory


def _random(name: str, shape: torch.Size, random: torch.Generator) -> Tensor:
    """Random float16 weights; those of LayerNorms are close to the identity."""
    # CLIP's checkpoints spell `pre_layrnorm` so.
    if "norm" in name or "layrnorm" in name:
        centre = 1.0 if name.endswith("weight") else 0.0
        return (centre + 0.1 * torch.randn(shape, generator=random)).half()
    # 0.02 is the usual standard deviation of a transformer's initial weights.
    return (0.02 * torch.randn(shape, generator=random)).half()
