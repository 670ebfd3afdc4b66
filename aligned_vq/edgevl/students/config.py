"""Dimensions of the students, and presets by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from transformers import CLIPVisionConfig

from aligned_vq.errors import ConfigError

Architecture = Literal["vit", "swin", "dat", "clip"]


@dataclass(frozen=True)
class StudentConfig:
    """Dimensions of a student; the tuples have one entry per stage; ViT and CLIP have one.

    Args:
        architecture: vit, swin or dat; or clip, the vision tower of a CLIP.
        image_size: height and width of the input in pixels.
        patch_size: height and width of a patch in pixels.
        embedding_width: D, that of the teacher's embeddings.
        widths: C, channels of each token.
        depths: number of blocks.
        heads: number of attention heads.
        window: side of an attention window in tokens; ViT and CLIP have none.
        drop_path: probability with which the last block's residual branches are left out for an
            image in training; it grows linearly from 0 at the first block. ViT and CLIP have none.
        offset_groups: DAT only: groups of channels that share sampling offsets; 0: the stage uses
            windows and shifted windows only.
        activation: CLIP only: of the perceptrons, as transformers names it.

    Raises:
        ConfigError: the architecture is unknown, or the dimensions do not fit each other.
    """

    architecture: Architecture
    image_size: int
    patch_size: int
    embedding_width: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 0
    drop_path: float = 0.0
    offset_groups: tuple[int, ...] = ()
    activation: str = "gelu"

    def __post_init__(self) -> None:
        """Check that the dimensions fit each other."""
        _check_architecture(self.architecture, get_args(Architecture))
        self._check_positive()
        stages = len(self.widths)
        if not stages or not stages == len(self.depths) == len(self.heads):
            raise ConfigError(
                "expected widths, depths and heads of equal length, one entry per stage, got "
                f"{len(self.widths)}, {len(self.depths)} and {len(self.heads)} entries"
            )
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"expected an image_size that is a multiple of the patch_size {self.patch_size}, "
                f"got {self.image_size}"
            )
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise ConfigError(
                    f"expected widths that are multiples of heads, got {width} of {heads}"
                )
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path must be at least 0 and less than 1, got {self.drop_path}")
        if self.architecture in ("vit", "clip"):
            self._check_vit()
        else:
            self._check_hierarchy()
        if self.architecture == "dat":
            self._check_offset_groups()
        elif self.offset_groups:
            raise ConfigError(
                f"offset_groups are for dat only, remove them for {self.architecture}"
            )

    @property
    def grids(self) -> tuple[int, ...]:
        """Tokens along each side of the image, by stage."""
        first = self.image_size // self.patch_size
        return tuple(first >> stage for stage in range(len(self.widths)))

    def _check_positive(self) -> None:
        sizes = {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "embedding_width": self.embedding_width,
        }
        for name in ("widths", "depths", "heads"):
            sizes |= {f"{name}[{i}]": value for i, value in enumerate(getattr(self, name))}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"{name} must be 1 or more, got {value}")

    def _check_vit(self) -> None:
        if len(self.widths) != 1:
            raise ConfigError(
                f"a {self.architecture} has one stage, got widths for {len(self.widths)}"
            )
        if self.drop_path or self.window:
            raise ConfigError(
                f"a {self.architecture} has no drop_path and no window, set both to 0, got "
                f"{self.drop_path} and {self.window}"
            )

    def _check_hierarchy(self) -> None:
        """Every stage halves the grid, and windows tile it."""
        if self.window < 1:
            raise ConfigError(
                f"window must be 1 or more for {self.architecture}, got {self.window}"
            )
        first, steps = self.image_size // self.patch_size, len(self.widths) - 1
        if first % (1 << steps):
            raise ConfigError(
                f"{first} tokens along a side cannot be halved {steps} times; change image_size, "
                "patch_size or the number of stages"
            )
        for grid in self.grids:
            if grid > self.window and grid % self.window:
                raise ConfigError(
                    f"windows of {self.window} do not tile {grid} tokens along a side; change "
                    "image_size, patch_size or window"
                )
        doubled = tuple(self.widths[0] << stage for stage in range(len(self.widths)))
        if self.architecture == "swin" and self.widths != doubled:
            raise ConfigError(
                f"a swin doubles its width at each stage, expected {doubled}, got {self.widths}"
            )

    def _check_offset_groups(self) -> None:
        if len(self.offset_groups) != len(self.widths):
            raise ConfigError(
                f"expected offset_groups for {len(self.widths)} stages, got {self.offset_groups}"
            )
        for heads, groups in zip(self.heads, self.offset_groups, strict=True):
            # Every head must belong to one group only.
            if groups < 0 or (groups and heads % groups):
                raise ConfigError(
                    f"expected offset_groups that divide heads, got {groups} of {heads}"
                )


def _check_architecture(name: str, known: Sequence[str]) -> None:
    """Raise ConfigError if there is no architecture of this name."""
    if name not in known:
        raise ConfigError(f"unknown architecture {name!r}; choose one of {', '.join(known)}")


# The students of EdgeVL's table, for 224 px images and a teacher of width 1024. `vit`: the paper
# calls it ViT-S, the released code builds ViT-B/16. `swin`: Swin-T with the depths 2/2/6/2 of
# Liu et al. (27.5 M parameters); the released code has 18 blocks in the third stage. `dat`: the
# dimensions of DAT++ tiny, but with windows in place of neighbourhood attention; see `dat.py`.
_PUBLISHED = {
    "vit": StudentConfig("vit", 224, 16, 1024, (768,), (12,), (12,)),
    "swin": StudentConfig(
        "swin", 224, 4, 1024, (96, 192, 384, 768), (2, 2, 6, 2), (3, 6, 12, 24), 7, 0.3
    ),
    "dat": StudentConfig(
        "dat", 224, 4, 1024, (64, 128, 256, 512), (2, 4, 18, 2), (2, 4, 8, 16), 7, 0.2, (0, 0, 4, 8)
    ),
}
# For 112 px images and a teacher of width 128: 2.7 to 2.9 M parameters, quick to train on a
# CPU. Few, wide tokens: with many narrow ones, the parts that stay in float take most of the time.
_REFERENCE = {
    "vit": StudentConfig("vit", 112, 16, 128, (192,), (6,), (3,)),
    "swin": StudentConfig("swin", 112, 8, 128, (144, 288), (2, 2), (3, 6), 7, 0.1),
    "dat": StudentConfig("dat", 112, 8, 128, (144, 288), (2, 2), (3, 6), 7, 0.1, (0, 3)),
}
PRESETS = {"published": _PUBLISHED, "reference": _REFERENCE}
ARCHITECTURES = tuple(_PUBLISHED)
"""With presets."""


def preset(name: str, architecture: str) -> StudentConfig:
    """The dimensions of a student by name.

    Args:
        name: published, the dimensions of EdgeVL; or reference, for the reference rooms.
        architecture: vit, swin or dat.

    Raises:
        ConfigError: there is no such preset or architecture.
    """
    _check_architecture(architecture, ARCHITECTURES)
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name][architecture]


def clip_config(checkpoint: Mapping[str, Any], embedding_width: int) -> StudentConfig:
    """The dimensions of a CLIP's vision tower.

    Args:
        checkpoint: config.json of the CLIP.
        embedding_width: D.

    Raises:
        ConfigError: the checkpoint is none of a CLIP, or a dimension cannot be that of a student.
    """
    if checkpoint.get("model_type") != "clip":
        raise ConfigError(
            "expected a CLIP as the teacher of a student that starts as its vision tower, got a "
            f"model of type {checkpoint.get('model_type')!r}; choose another student"
        )
    # What a checkpoint leaves out has the default of transformers.
    vision = CLIPVisionConfig(**checkpoint.get("vision_config") or {})
    if vision.intermediate_size != 4 * vision.hidden_size:
        raise ConfigError(
            f"expected perceptrons of width {4 * vision.hidden_size} in the teacher's vision "
            f"tower, 4 times its tokens, got {vision.intermediate_size}; choose another student"
        )
    return StudentConfig(
        "clip",
        vision.image_size,
        vision.patch_size,
        embedding_width,
        (vision.hidden_size,),
        (vision.num_hidden_layers,),
        (vision.num_attention_heads,),
        activation=vision.hidden_act,
    )
