"""The recipe of the reference dual encoder, with few rooms and steps."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from aligned_vq.dual_encoder.checkpoint import DualEncoder
from aligned_vq.images.preprocess import preprocess_batch
from aligned_vq.reference.dual_encoder import training
from aligned_vq.reference.dual_encoder.recipe import DualEncoderRecipe, train_dual_encoder

DEFAULT = DualEncoderRecipe()
RECIPE = replace(
    DEFAULT,
    rooms=12,
    part=replace(DEFAULT.part, steps=3, batch_size=4, warmup_steps=1),
    whole=replace(DEFAULT.whole, steps=2, batch_size=4, warmup_steps=1),
    last=replace(DEFAULT.last, steps=1, batch_size=4, warmup_steps=1),
)


def test_an_interrupted_recipe_ends_with_the_same_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_dual_encoder(RECIPE, tmp_path / "work", tmp_path / "whole")
    original = training.CaptionLearner.forward
    seen: list[int] = []

    def stopping(self: Any, batch: Any) -> Any:
        seen.append(batch.kept.shape[1])
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)  # noted, and obeyed after this step
        return original(self, batch)

    (tmp_path / "other").mkdir()
    (tmp_path / "work" / "teacher-train").rename(tmp_path / "other" / "teacher-train")
    with monkeypatch.context() as patch:
        patch.setattr(training.CaptionLearner, "forward", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_dual_encoder(RECIPE, tmp_path / "other", tmp_path / "parts")
        assert not (tmp_path / "parts").exists()
        train_dual_encoder(RECIPE, tmp_path / "other", tmp_path / "parts")
    # A share of 81 patches, then all of them.
    kept = round(81 * DEFAULT.part.kept_share)
    assert seen == [kept] * 3 + [81] * 3
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    encoder = DualEncoder(tmp_path / "whole")
    rooms = np.load(tmp_path / "other" / "teacher-train" / "rgb.npy")
    pixels = preprocess_batch([Image.fromarray(room) for room in rooms[:2]], encoder.processor())
    embedded = encoder.image_embeddings(torch.from_numpy(pixels))
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(2))


def test_tokens_of_a_caption_are_weighted_by_their_rarity() -> None:
    counts = torch.tensor([100.0, 10.0, 1.0])
    learner = training.CaptionLearner.__new__(training.CaptionLearner)
    torch.nn.Module.__init__(learner)
    learner.register_buffer("rarity", torch.log(counts.sum() / (counts + 1)))
    (weights,) = learner._words(torch.tensor([[0, 2, 2, 0]]))
    assert float(weights.sum()) == pytest.approx(1)
    assert weights[1] == 0
    assert weights[2] > 10 * weights[0]
