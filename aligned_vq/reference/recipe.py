"""The whole recipe, one command: `aligned-vq reference-train --out DIR`.

An interrupted run goes on where it was: every stage keeps its state in the work directory. On two
CPU cores it takes about an hour and a half, on a GPU minutes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlavaForConditionalGeneration

from aligned_vq.checkpoints.digest import FILES
from aligned_vq.data.scenes.patches import NUM_PATCHES
from aligned_vq.data.scenes.pool import ScenePool
from aligned_vq.files.atomic_folder import check_replaceable, new_folder
from aligned_vq.llava.packing import Packer
from aligned_vq.reference.blueprint import build_model, build_processor, build_tokenizer
from aligned_vq.reference.language_stages import (
    LanguageStage,
    align_projector,
    cache_features,
    train_language_model,
    train_symbols,
)
from aligned_vq.reference.stage import Stage
from aligned_vq.reference.vision_stages import DenseTower, train_vision

_log = logging.getLogger(__name__)

FEW_PATCHES = 160


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe; stages run in this order."""

    scenes: int = 12_000
    windows: Stage = Stage("vision-windows", 4000, 48, 1e-3, bfloat16=True)
    whole: Stage = Stage("vision-whole", 500, 12, 3e-4, bfloat16=True)
    symbols: Stage = Stage("symbols", 2500, 32, 1.5e-3, bfloat16=True)
    projector: Stage = Stage("projector", 400, 24, 2e-3)
    few: LanguageStage = LanguageStage(
        "speaker-few", 1200, 20, 1e-3, bfloat16=True, num_patches=FEW_PATCHES
    )
    every: LanguageStage = LanguageStage("speaker-all", 500, 10, 5e-4, bfloat16=True)
    # The kind that comes last.
    relations: LanguageStage = LanguageStage(
        "speaker-relations",
        900,
        20,
        1e-3,
        bfloat16=True,
        num_patches=FEW_PATCHES,
        emphasis=("relation",),
    )
    polish: LanguageStage = LanguageStage(
        "speaker-polish", 200, 10, 3e-4, bfloat16=True, emphasis=("relation",)
    )
    conversations: LanguageStage = LanguageStage(
        "speaker-conversations",
        1300,
        16,
        1e-3,
        bfloat16=True,
        num_patches=FEW_PATCHES,
        emphasis=("relation",),
        questions=6,
        conversations=2,
    )
    whole_conversations: LanguageStage = LanguageStage(
        "speaker-whole-conversations",
        100,
        8,
        3e-4,
        bfloat16=True,
        emphasis=("relation",),
        questions=6,
        conversations=2,
    )

    def shortened(self, steps: int) -> Recipe:
        """The same recipe with tiny stages, to try it out."""
        stages: dict[str, Any] = {
            field.name: replace(stage, steps=steps, warmup_steps=1, batch_size=2)
            for field in fields(self)
            if isinstance(stage := getattr(self, field.name), Stage)
        }
        return replace(self, scenes=8, **stages)


def train_reference(
    recipe: Recipe, workdir: Path, out: Path, device: str = "cpu", start: Path | None = None
) -> None:
    """Train and write a float16 checkpoint in Hugging Face format to `out`.

    From random weights; from a reference checkpoint `start`, only the conversations, and the vision
    tower stays as it is there, so that bundles made for it stay valid.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    check_replaceable(out, FILES)  # before the hours of training
    workdir.mkdir(parents=True, exist_ok=True)
    if start is None:
        tokenizer = build_tokenizer()
        model = build_model(tokenizer).to(device)
    else:
        tokenizer = AutoTokenizer.from_pretrained(start)
        loaded = LlavaForConditionalGeneration.from_pretrained(start, dtype="auto")
        for part in (loaded.config.text_config, loaded.config.vision_config):
            part.dtype = None  # is said of the whole
        model = loaded.float().to(device)
    processor = build_processor(tokenizer)
    packer = Packer(processor, NUM_PATCHES)
    pool = ScenePool(workdir, "train", recipe.scenes)
    tower = model.model.vision_tower
    if start is None:
        dense = train_vision(tower, pool, recipe.windows, recipe.whole, workdir)
    else:
        dense = DenseTower(tower).to(device).eval()
    # The cached features must remain those of this tower.
    tower.requires_grad_(False)
    features = cache_features(dense, pool, workdir)
    if start is None:
        reader = train_symbols(model, packer, recipe.symbols, workdir)
        align_projector(model, reader, pool, features, recipe.projector, workdir)
        for stage in (recipe.few, recipe.every, recipe.relations, recipe.polish):
            train_language_model(model, packer, pool, features, stage, workdir)
    for stage in (recipe.conversations, recipe.whole_conversations):
        train_language_model(model, packer, pool, features, stage, workdir)
    with new_folder(out, FILES) as new:
        model.half().save_pretrained(new)
        processor.save_pretrained(new)
    _log.info("wrote %s", out)
