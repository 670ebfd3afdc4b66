"""The whole recipe, one command: `python -m aligned_vq.reference.recipe --out DIR --work DIR`.

An interrupted run goes on where it was: every stage keeps its state in the work directory. On two
CPU cores it takes about an hour and a half, on a GPU minutes.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from aligned_vq.reference.blueprint import build_model, build_processor, build_tokenizer
from aligned_vq.reference.language_stages import (
    align_projector,
    cache_features,
    train_speaker,
    train_symbols,
)
from aligned_vq.reference.loop import Stage
from aligned_vq.reference.packing import Packer
from aligned_vq.reference.patches import NUM_PATCHES
from aligned_vq.reference.pool import ScenePool
from aligned_vq.reference.vision_stages import train_vision

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
    few: Stage = Stage("speaker-few", 900, 16, 6e-4, bfloat16=True)
    every: Stage = Stage("speaker-all", 300, 8, 2e-4)

    def shortened(self, steps: int) -> Recipe:
        """The same recipe with tiny stages, to try it out."""
        short = {
            name: replace(value, steps=steps, warmup_steps=1, batch_size=2)
            for name, value in vars(self).items()
            if isinstance(value, Stage)
        }
        return replace(self, scenes=8, **short)


def train_reference(recipe: Recipe, workdir: Path, out: Path, device: str = "cpu") -> None:
    """Train from random weights and write a checkpoint in Hugging Face format, float16, to `out`."""
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).to(device)
    packer = Packer(tokenizer)
    pool = ScenePool(workdir, "train", recipe.scenes)
    tower = model.model.vision_tower
    dense = train_vision(tower, pool, recipe.windows, recipe.whole, workdir)
    tower.requires_grad_(False)
    reader = train_symbols(model, packer, recipe.symbols, workdir)
    features = cache_features(dense, pool, workdir)
    align_projector(model, reader, pool, features, recipe.projector, workdir)
    for stage, patches in ((recipe.few, recipe.few_patches), (recipe.every, NUM_PATCHES)):
        train_speaker(model, packer, pool, features, stage, patches, workdir)
    model.half().save_pretrained(out)
    build_processor(tokenizer).save_pretrained(out)
    _log.info("wrote %s", out)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument("--work", type=Path, default=Path("work/reference"), help="resumable state")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    train_reference(Recipe(), options.work, options.out, options.device)


if __name__ == "__main__":
    main()
