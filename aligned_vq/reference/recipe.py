"""The whole recipe, one command: `aligned-vq reference-train --out DIR`.

An interrupted run goes on where it was: every stage keeps its state in the work directory. On two
CPU cores it takes about an hour and a half, on a GPU minutes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from aligned_vq.reference.blueprint import build_model, build_processor, build_tokenizer
from aligned_vq.reference.language_stages import (
    align_projector,
    cache_features,
    train_speaker,
    train_symbols,
)
from aligned_vq.reference.loop import Stage
from aligned_vq.reference.patches import NUM_PATCHES
from aligned_vq.reference.pool import ScenePool
from aligned_vq.reference.vision_stages import train_vision
from aligned_vq.training.packing import Packer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe; stages run in this order."""

    scenes: int = 6000
    windows: Stage = Stage("vision-windows", 4000, 48, 1e-3, bfloat16=True)
    whole: Stage = Stage("vision-whole", 500, 12, 3e-4, bfloat16=True)
    symbols: Stage = Stage("symbols", 2500, 32, 1.5e-3, bfloat16=True)
    projector: Stage = Stage("projector", 400, 24, 2e-3)
    few_patches: int = 160
    few: Stage = Stage("speaker-few", 1200, 20, 1e-3, bfloat16=True)
    every: Stage = Stage("speaker-all", 500, 10, 5e-4, bfloat16=True)
    relations: Stage = Stage("speaker-relations", 900, 20, 1e-3, bfloat16=True)
    polish: Stage = Stage("speaker-polish", 200, 10, 3e-4, bfloat16=True)

    def shortened(self, steps: int) -> Recipe:
        """The same recipe with tiny stages, to try it out."""

        def short(stage: Stage) -> Stage:
            return replace(stage, steps=steps, warmup_steps=1, batch_size=2)

        return replace(
            self,
            scenes=8,
            windows=short(self.windows),
            whole=short(self.whole),
            symbols=short(self.symbols),
            projector=short(self.projector),
            few=short(self.few),
            every=short(self.every),
            relations=short(self.relations),
            polish=short(self.polish),
        )


def train_reference(recipe: Recipe, workdir: Path, out: Path, device: str = "cpu") -> None:
    """Train from random weights and write a float16 checkpoint in Hugging Face format to `out`."""
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).to(device)
    packer = Packer(build_processor(tokenizer), NUM_PATCHES)
    pool = ScenePool(workdir, "train", recipe.scenes)
    tower = model.model.vision_tower
    dense = train_vision(tower, pool, recipe.windows, recipe.whole, workdir)
    tower.requires_grad_(False)
    reader = train_symbols(model, packer, recipe.symbols, workdir)
    features = cache_features(dense, pool, workdir)
    align_projector(model, reader, pool, features, recipe.projector, workdir)
    for stage, patches, emphasis in (
        (recipe.few, recipe.few_patches, ()),
        (recipe.every, NUM_PATCHES, ()),
        (recipe.relations, recipe.few_patches, ("relation",)),  # the kind that comes last
        (recipe.polish, NUM_PATCHES, ("relation",)),
    ):
        train_speaker(model, packer, pool, features, stage, patches, emphasis, workdir)
    model.half().save_pretrained(out)
    build_processor(tokenizer).save_pretrained(out)
    _log.info("wrote %s", out)
