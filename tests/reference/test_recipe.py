"""The recipe runs, resumes, and writes a checkpoint that everything else can open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoProcessor, LlavaForConditionalGeneration

from aligned_vq.data.scenes.patches import NUM_PATCHES
from aligned_vq.data.scenes.questions import SceneQuestion
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.llava.packing import Packer, right_answers
from aligned_vq.reference.blueprint import build_processor, build_tokenizer
from aligned_vq.reference.recipe import Recipe, train_reference
from aligned_vq.reference.stage import Stage, train_stage
from aligned_vq.training.loop import Loss


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    train_reference(Recipe().shortened(2), folder / "work", folder / "out")
    return folder


def test_the_recipe_writes_a_checkpoint_with_the_geometry_of_llava_15(tiny_run: Path) -> None:
    checkpoint = LlavaCheckpoint(tiny_run / "out")
    assert checkpoint.tower.vision.num_tokens == 577
    assert checkpoint.tower.vision.patch_size == 14
    assert checkpoint.processor().output_size == (336, 336)
    assert checkpoint.tower.feature_layers == (checkpoint.tower.vision.num_hidden_layers - 1,)
    model = LlavaForConditionalGeneration.from_pretrained(tiny_run / "out", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tiny_run / "out", use_fast=False)
    content = [{"type": "image"}, {"type": "text", "text": "What colour is the star?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert prompt == "USER: <image>\nWhat colour is the star? ASSISTANT:"
    picture = np.zeros((336, 336, 3), np.uint8)
    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 576


def test_a_second_run_finds_everything_done(tiny_run: Path) -> None:
    before = (tiny_run / "out" / "model.safetensors").read_bytes()
    train_reference(Recipe().shortened(2), tiny_run / "work", tiny_run / "again")
    assert (tiny_run / "again" / "model.safetensors").read_bytes() == before


def test_going_on_from_a_checkpoint_changes_the_language_model_alone(
    tiny_run: Path, tmp_path: Path
) -> None:
    train_reference(
        Recipe().shortened(2), tmp_path / "work", tmp_path / "out", start=tiny_run / "out"
    )
    before, after = (load_file(own / "out" / "model.safetensors") for own in (tiny_run, tmp_path))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if "vision_tower" in name]
    settings = ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja")
    for name in settings:
        assert (tmp_path / "out" / name).read_bytes() == (tiny_run / "out" / name).read_bytes()


LINE = Stage("line", 12, 8, 1e-2, warmup_steps=2, save_every_steps=4)


def train_line(folder: Path, stop_at: int | None = None) -> torch.Tensor:
    """The weights of a linear model after the stage `LINE`, interrupted before a step."""
    torch.manual_seed(0)
    module = nn.Linear(4, 1)

    def batch_of(step: int) -> tuple[int, torch.Tensor]:
        return step, torch.randn(8, 4, generator=torch.Generator().manual_seed(step))

    def loss_of(batch: tuple[int, torch.Tensor]) -> Loss:
        step, x = batch
        if step == stop_at:
            raise KeyboardInterrupt
        return (module(x) - x.sum(1, keepdim=True)).square().mean(), {}

    folder.mkdir(exist_ok=True)
    train_stage(LINE, module, batch_of, loss_of, folder)
    return module.weight.detach().clone()


def test_an_interrupted_stage_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    whole = train_line(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_line(tmp_path / "broken", stop_at=9)
    assert torch.equal(train_line(tmp_path / "broken"), whole)


def test_a_state_that_also_holds_a_scheduler_goes_on(tmp_path: Path) -> None:
    """Earlier versions saved torch's scheduler beside the optimiser, and its rates within it."""
    whole = train_line(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_line(tmp_path / "old", stop_at=9)
    path = tmp_path / "old" / "line.pt"
    state = torch.load(path, weights_only=True)
    state["schedule"] = {"last_epoch": 8}
    for group in state["optimiser"]["param_groups"]:
        group |= {"initial_lr": 1e-2, "lr": 0.5}
    torch.save(state, path)
    assert torch.equal(train_line(tmp_path / "old"), whole)


def test_right_answers_are_those_greedy_decoding_gives() -> None:
    tokenizer = build_tokenizer(corpus_scenes=100)
    packer = Packer(build_processor(tokenizer), NUM_PATCHES)
    text = packer.pack(
        [[SceneQuestion("count", "How many?", "3"), SceneQuestion("count", "And?", "2")]]
    )
    logits = nn.functional.one_hot(text.labels.clamp(min=0), len(tokenizer)).float()
    assert right_answers(logits, text) == [[True, True]]
    wrong = int((text.labels[0] >= 0).nonzero()[-1])  # the end of the second answer
    logits[0, wrong] = 0
    logits[0, wrong, 9] = 1
    assert right_answers(logits, text) == [[True, False]]
