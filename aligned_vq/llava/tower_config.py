"""Vision settings in a LLaVA checkpoint's `config.json`, read without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from aligned_vq.errors import ConfigError
from aligned_vq.files.typed_fields import check_declared
from aligned_vq.types import FeatureSpec, SplitPoint

SelectStrategy = Literal["default", "full"]
_COUNTS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
)
_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True)
class VisionConfig:
    """Geometry of a CLIP vision tower; defaults are those of transformers' `CLIPVisionConfig`."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            # Not `isinstance`: bool is a subclass of int.
            if type(value) is not int or value < 1:
                raise ConfigError(f"vision_config.{name} must be 1 or more, got {value!r}")
        if self.hidden_act not in _ACTIVATIONS:
            raise ConfigError(
                f"vision_config.hidden_act must be one of {', '.join(_ACTIVATIONS)}, "
                f"got {self.hidden_act!r}"
            )
        if not 0 < self.layer_norm_eps < 1:
            raise ConfigError(
                f"vision_config.layer_norm_eps must lie between 0 and 1, got {self.layer_norm_eps}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"vision_config.hidden_size {self.hidden_size} is not divisible by its "
                f"{self.num_attention_heads} attention heads"
            )

    @property
    def num_tokens(self) -> int:
        """Number of patches plus the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> VisionConfig:
        """The settings in a checkpoint's `vision_config`, whose other keys are ignored."""
        return cls(**{k: v for k, v in settings.items() if k in cls.__dataclass_fields__})


@dataclass(frozen=True)
class TowerConfig:
    """A vision tower and the hidden states of it that LLaVA uses."""

    vision: VisionConfig
    feature_layers: tuple[int, ...]
    """Numbers of hidden states, from 0 (embeddings) to `num_hidden_layers`; not negative."""
    select_strategy: SelectStrategy

    def __post_init__(self) -> None:
        check_declared(self)
        states = range(self.vision.num_hidden_layers + 1)
        if not self.feature_layers or any(layer not in states for layer in self.feature_layers):
            raise ConfigError(
                f"feature_layers must name hidden states 0 to {states[-1]}, one or more, "
                f"got {self.feature_layers}"
            )

    @classmethod
    def from_llava(cls, config: Mapping[str, Any]) -> TowerConfig:
        """The settings in LLaVA's `config.json`; ConfigError if one is not supported."""
        if not isinstance(config["vision_config"], Mapping):
            raise ConfigError(
                f"vision_config must be an object, got {config['vision_config']!r:.80}"
            )
        vision = VisionConfig.from_dict(config["vision_config"])
        # The defaults here are those of transformers' `LlavaConfig`.
        setting = config.get("vision_feature_layer", -2)
        layers = tuple(setting) if isinstance(setting, list) else (setting,)
        states = vision.num_hidden_layers + 1
        if any(not -states <= layer < states for layer in layers):
            raise ConfigError(
                f"vision_feature_layer must lie in -{states}..{states - 1}, got {setting}"
            )
        strategy = config.get("vision_feature_select_strategy", "default")
        if strategy not in ("default", "full"):
            raise ConfigError(
                f"vision_feature_select_strategy must be 'default' or 'full', got {strategy!r}"
            )
        non_negative = tuple(layer % states for layer in layers)  # -1 is the last state
        return cls(vision, non_negative, cast(SelectStrategy, strategy))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TowerConfig:
        """The settings in a result of `to_dict`."""
        return cls(
            VisionConfig(**settings["vision"]),
            tuple(settings["feature_layers"]),
            settings["select_strategy"],
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {
            "vision": asdict(self.vision),
            "feature_layers": list(self.feature_layers),
            "select_strategy": self.select_strategy,
        }

    @property
    def last_block(self) -> int:
        """Number of blocks that LLaVA needs; later blocks never run."""
        # Hidden state k is the input of block k, so k blocks compute it.
        return max(self.feature_layers)

    @property
    def num_selected_tokens(self) -> int:
        """Number of tokens that LLaVA's projector receives."""
        return self.vision.num_tokens - (self.select_strategy == "default")

    def features(self) -> FeatureSpec:
        """Shape of the features at any cut of this tower."""
        return FeatureSpec(self.vision.num_tokens, self.vision.hidden_size)

    def check_split(self, split: SplitPoint) -> None:
        """Raise ConfigError unless this tower can be cut at `split`."""
        if split.block >= self.last_block:
            raise ConfigError(
                f"split {split} lies behind the last block LLaVA uses: with hidden states "
                f"{list(self.feature_layers)} the block must be 0 to {self.last_block - 1}"
            )
        # At ln2, attention has been added to hidden state `block`, which is lost.
        first = split.block + (split.norm == "ln2")
        if min(self.feature_layers) < first:
            raise ConfigError(
                f"split {split} lies behind hidden state {min(self.feature_layers)}, which LLaVA "
                "uses too and which is not sent to the cloud: cut earlier"
            )
