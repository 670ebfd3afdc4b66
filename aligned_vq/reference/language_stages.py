"""Stages three to five: the language model learns to answer.

First over symbols (a handful of patches described by their true labels, no pictures), where
thousands of scenes a minute teach it to read attributes, count and compare; then over the frozen
tower's features, with most background patches left out; then over all 576 patches, as it is served;
last in conversations.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from aligned_vq.data.scenes.conversations import conversation, learned_turns
from aligned_vq.data.scenes.patches import (
    NUM_PATCHES,
    TARGET_DIM,
    SceneLabels,
    label_scene,
    patch_targets,
)
from aligned_vq.data.scenes.pool import ScenePool
from aligned_vq.data.scenes.questions import SceneQuestion, describe, short_questions
from aligned_vq.data.scenes.scene import Scene, sample_scene
from aligned_vq.files.atomic_file import new_file
from aligned_vq.llava.packing import PackedText, Packer, TextTurn, answer_loss, packed_logits
from aligned_vq.reference.loop import Loss, Stage, optimise
from aligned_vq.reference.vision_stages import DenseTower, picture_batch

SYMBOL_PATCHES = 32
SYMBOL_NOISE = 0.1
QUESTIONS_PER_IMAGE = 10
MOST_TURNS = 8


@dataclass(frozen=True)
class SpeakerStage(Stage):
    """What a stage of `train_speaker` shows and asks."""

    num_patches: int = NUM_PATCHES
    """Of an image; fewer are its objects' first."""
    emphasis: tuple[str, ...] = ()
    """Half the short questions are of these kinds, if there are any."""
    questions: int = QUESTIONS_PER_IMAGE
    """Short ones about an image, each alone."""
    conversations: int = 0
    """About an image, of two turns or more."""


class SymbolReader(nn.Module):
    """The language model with a linear layer that reads true patch labels instead of features."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.language_model = model.model.language_model
        self.lm_head = model.lm_head
        self.symbols = nn.Linear(TARGET_DIM, model.config.text_config.hidden_size)


class Speaker(nn.Module):
    """What the last stages train: projector, language model and its head."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.projector = model.model.multi_modal_projector
        self.language_model = model.model.language_model
        self.lm_head = model.lm_head


class SpokenBatch(NamedTuple):
    """Pictures as symbols or features `[B, P, ...]`, which patches they are, and the questions."""

    inputs: Tensor
    patches: Tensor
    text: PackedText


def train_symbols(
    model: LlavaForConditionalGeneration, packer: Packer, stage: Stage, workdir: Path
) -> SymbolReader:
    """Stage three: answer from true labels of a few patches."""
    reader = SymbolReader(model).to(model.device)
    reader.train()

    def batch_of(step: int) -> SpokenBatch:
        rng = np.random.default_rng([3, step])
        scenes = [sample_scene(rng) for _ in range(stage.batch_size)]
        stacked = _stack([label_scene(scene, None) for scene in scenes])
        patches = torch.from_numpy(_few_patches(stacked, rng, SYMBOL_PATCHES, 20))
        vectors = patch_targets(stacked).vector()
        vectors = vectors.gather(1, patches[..., None].expand(-1, -1, TARGET_DIM))
        noise = torch.from_numpy(rng.normal(0, SYMBOL_NOISE, vectors.shape)).float()
        text = packer.pack([_questions(scene, rng) for scene in scenes])
        return SpokenBatch(vectors + noise, patches, text)

    def loss_of(batch: SpokenBatch) -> Loss:
        embeds = reader.symbols(batch.inputs.to(model.device))
        return _spoken_loss(model, packer, embeds, batch)

    optimise(stage, reader, batch_of, loss_of, workdir)
    return reader


def cache_features(tower: DenseTower, pool: ScenePool, workdir: Path) -> NDArray[np.float16]:
    """Selected features of the whole pool, `[count, 576, D]` float16, on disk."""
    path = workdir / f"features-{pool.split}-{pool.count}.npy"
    if not path.exists():
        width = tower.tower.config.hidden_size
        device = next(tower.parameters()).device
        with new_file(path) as part:
            cache = np.lib.format.open_memmap(
                part, mode="w+", dtype=np.float16, shape=(pool.count, NUM_PATCHES, width)
            )
            for start in tqdm(range(0, pool.count, 16), desc="features", unit="batch"):
                indices = np.arange(start, min(start + 16, pool.count))
                with torch.inference_mode():
                    features = tower.features(picture_batch(pool, indices).to(device))
                cache[indices] = features.half().cpu().numpy()
            cache.flush()
    loaded: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return loaded


def align_projector(
    model: LlavaForConditionalGeneration,
    reader: SymbolReader,
    pool: ScenePool,
    features: NDArray[np.float16],
    stage: Stage,
    workdir: Path,
) -> None:
    """The projector learns to say in embeddings what the symbols said."""
    projector = model.model.multi_modal_projector

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([4, step])
        indices = rng.integers(0, pool.count, stage.batch_size)
        labels = pool.labels(indices)
        patches = torch.from_numpy(_few_patches(labels, rng, 160, 110))
        vectors = patch_targets(labels).vector()
        vectors = vectors.gather(1, patches[..., None].expand(-1, -1, TARGET_DIM))
        return _gather(features, indices, patches), vectors

    def loss_of(batch: tuple[Tensor, Tensor]) -> Loss:
        given, vectors = (part.to(model.device) for part in batch)
        with torch.no_grad():
            wanted = reader.symbols(vectors)
        return F.mse_loss(projector(given), wanted) / wanted.var(), {}

    optimise(stage, projector, batch_of, loss_of, workdir)


def train_speaker(
    model: LlavaForConditionalGeneration,
    packer: Packer,
    pool: ScenePool,
    features: NDArray[np.float16],
    stage: SpeakerStage,
    workdir: Path,
) -> None:
    """Projector and language model over the tower's features of some or all patches."""
    speaker = Speaker(model)
    speaker.train()
    name = zlib.crc32(stage.name.encode())  # no stage draws what another one did

    def batch_of(step: int) -> SpokenBatch:
        rng = np.random.default_rng([5, name, step])
        indices = rng.integers(0, pool.count, stage.batch_size)
        if stage.num_patches == NUM_PATCHES:
            chosen = np.tile(np.arange(NUM_PATCHES), (stage.batch_size, 1))
        else:
            labels = pool.labels(indices)
            chosen = _few_patches(labels, rng, stage.num_patches, stage.num_patches)
        patches = torch.from_numpy(chosen)
        scenes = [pool.scene(int(index))[0] for index in indices]
        text = packer.pack_conversations([_lesson(scene, rng, stage) for scene in scenes])
        return SpokenBatch(_gather(features, indices, patches), patches, text)

    def loss_of(batch: SpokenBatch) -> Loss:
        embeds = model.model.multi_modal_projector(batch.inputs.to(model.device))
        return _spoken_loss(model, packer, embeds, batch)

    optimise(stage, speaker, batch_of, loss_of, workdir)


def _spoken_loss(
    model: LlavaForConditionalGeneration, packer: Packer, embeds: Tensor, batch: SpokenBatch
) -> Loss:
    patches = batch.patches.to(model.device)
    return answer_loss(packed_logits(model, packer, embeds, batch.text, patches), batch.text)


def _lesson(
    scene: Scene, rng: np.random.Generator, stage: SpeakerStage
) -> list[tuple[TextTurn, ...]]:
    """Questions alone, and as many conversations as the stage has."""
    alone = _questions(scene, rng, stage.questions, stage.emphasis)
    talks = [
        learned_turns(
            conversation(scene, rng, int(rng.integers(2, MOST_TURNS + 1)), stage.emphasis),
            scene,
            rng,
        )
        for _ in range(stage.conversations)
    ]
    return [*((TextTurn(question.text, question.answer),) for question in alone), *talks]


def _questions(
    scene: Scene,
    rng: np.random.Generator,
    count: int = QUESTIONS_PER_IMAGE,
    emphasis: Sequence[str] = (),
) -> list[SceneQuestion]:
    """Short ones and a description. Half the short ones are of the kinds in `emphasis`, if any."""
    special = count // 2 if emphasis else 0
    chosen = short_questions(scene, rng, special, emphasis) if special else []
    return [*chosen, *short_questions(scene, rng, count - special), describe(scene, rng)]


def _stack(labels: list[SceneLabels]) -> SceneLabels:
    return SceneLabels(*(np.stack(field) for field in zip(*labels, strict=True)))


def _few_patches(
    labels: SceneLabels, rng: np.random.Generator, count: int, most_owned: int
) -> NDArray[np.int64]:
    """`count` patches of each scene in reading order, chosen as centres, object patches, any."""
    chosen = np.empty((len(labels.owner), count), np.int64)
    for row, (owner, centre) in enumerate(zip(labels.owner, labels.centre, strict=True)):
        rank = rng.random(NUM_PATCHES)
        owned = rng.permutation(np.flatnonzero((owner >= 0) & ~centre))
        kept = owned[: int(rng.integers(0, most_owned + 1))] if most_owned < count else owned
        rank[kept] -= 1
        rank[centre] -= 2
        chosen[row] = np.sort(np.argsort(rank)[:count])
    return chosen


def _gather(features: NDArray[np.float16], indices: NDArray[np.int64], patches: Tensor) -> Tensor:
    rows = [
        features[int(index)][patch] for index, patch in zip(indices, patches.numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(rows)).float()
