"""The whole recipe of the reference dual encoder: `aligned-vq reference-dual-encoder --out DIR`.

An interrupted run goes on where it was. On two CPU cores it takes less than an hour.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from aligned_vq.checkpoints.digest import FILES
from aligned_vq.data.rooms.examples import RoomSet, all_labels
from aligned_vq.data.rooms.kinds import room_kinds
from aligned_vq.data.rooms.pool import RoomPool
from aligned_vq.files.atomic_folder import check_replaceable, new_folder
from aligned_vq.reference.dual_encoder.blueprint import (
    build_dual_encoder,
    build_image_processor,
    build_tokenizer,
)
from aligned_vq.reference.dual_encoder.training import (
    CaptionLearner,
    CaptionStage,
    caption_ids,
    train_on_captions,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DualEncoderRecipe:
    """Every number of the recipe."""

    rooms: int = 16_200
    part: CaptionStage = CaptionStage(
        "captions-part", 4000, 48, 1e-3, warmup_steps=150, bfloat16=True, kept_share=0.4
    )
    whole: CaptionStage = CaptionStage(
        "captions-whole", 1200, 48, 7e-4, warmup_steps=50, bfloat16=True, number=1
    )
    last: CaptionStage = CaptionStage(
        "captions-last", 900, 48, 4e-4, warmup_steps=50, bfloat16=True, number=2
    )


def train_dual_encoder(
    recipe: DualEncoderRecipe, workdir: Path, out: Path, device: str = "cpu"
) -> None:
    """Train from random weights and write a float16 checkpoint in Hugging Face format to `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    check_replaceable(out, FILES)  # before the training
    workdir.mkdir(parents=True, exist_ok=True)
    # ScanNet's kinds twice: they are asked about most.
    labels = (*all_labels(), *room_kinds().scannet)
    pool = RoomPool(workdir / "teacher-train", RoomSet("train", labels), recipe.rooms)
    tokenizer = build_tokenizer(pool.captions)
    model = build_dual_encoder(tokenizer)
    ids = caption_ids(tokenizer, pool.captions)
    # One for all stages: new heads would unlearn what the tower knows.
    learner = CaptionLearner(model, ids).to(device)
    for stage in (recipe.part, recipe.whole, recipe.last):
        train_on_captions(learner, pool, ids, stage, workdir)
    with new_folder(out, FILES) as new:
        model.half().save_pretrained(new)
        tokenizer.save_pretrained(new)
        build_image_processor().save_pretrained(new)
    _log.info("wrote %s", out)
