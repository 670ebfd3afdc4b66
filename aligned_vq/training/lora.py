"""Low-rank adapters on frozen parts, and the changes of weights that they amount to."""

from __future__ import annotations

import warnings
from typing import Any

from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from aligned_vq.training.config import LoraConfig, LoraTarget
from aligned_vq.training.model import SplitModel

LAYERS: dict[LoraTarget, tuple[str, ...]] = {
    "suffix": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "projector": ("linear_1", "linear_2"),
    "language_model": (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ),
}


def add_adapters(model: SplitModel, config: LoraConfig) -> None:
    """Put adapters on the config's targets; in a target, only the adapters require gradients."""
    for target in config.targets:
        owner, name = _place(model, target)
        settings = PeftConfig(
            r=config.rank, lora_alpha=config.alpha, target_modules=list(LAYERS[target])
        )
        with warnings.catch_warnings():
            # peft reads a property of transformers by its deprecated name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is depr", FutureWarning)
            setattr(owner, name, get_peft_model(getattr(owner, name), settings))


def adapter_changes(model: SplitModel, target: LoraTarget) -> dict[str, Tensor]:
    """Additions of a target's adapters to its weights, by the name of the layer in the target."""
    owner, name = _place(model, target)
    adapted = getattr(owner, name)
    assert isinstance(adapted, PeftModel)
    layers: dict[str, Any] = dict(adapted.get_base_model().named_modules())
    return {
        path: layer.get_delta_weight("default").detach()
        for path, layer in layers.items()
        if hasattr(layer, "get_delta_weight")  # only layers with an adapter
    }


def adapter_parameters(model: SplitModel) -> dict[str, nn.Parameter]:
    """The adapters' parameters by name."""
    # With a leading dot, names that begin with `lora_` match too.
    return {name: p for name, p in model.named_parameters() if ".lora_" in f".{name}"}


def _place(model: SplitModel, target: LoraTarget) -> tuple[Any, str]:
    if target == "suffix":
        return model, "suffix"
    if target == "projector":
        return model.llava.model, "multi_modal_projector"
    return model.llava.model, "language_model"
