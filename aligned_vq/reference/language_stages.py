"""The later stages: projector and language model learn to answer.

Symbols come first: 32 patches of a scene, each described by its true label instead of an image.
Thousands of such scenes a minute teach the language model to read attributes, count and compare.
Then it reads the frozen tower's features, at first without most background patches, later of all
576 patches, as when it is served. Conversations come last.
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
from aligned_vq.reference.stage import Stage, train_stage
from aligned_vq.reference.vision_stages import DenseTower, image_batch
from aligned_vq.training.loop import Loss

SYMBOL_PATCHES = 32
SYMBOL_NOISE = 0.1
QUESTIONS_PER_IMAGE = 10
MAX_TURNS = 8


@dataclass(frozen=True)
class LanguageStage(Stage):
    """A stage of `train_language_model`."""

    num_patches: int = NUM_PATCHES
    """Patches of an image that the language model reads; where not all, object patches first."""
    emphasis: tuple[str, ...] = ()
    """Kinds of which half of the short questions are; empty: all kinds alike."""
    questions: int = QUESTIONS_PER_IMAGE
    """Short questions about an image, each answered without the others."""
    conversations: int = 0
    """Conversations about an image, each of at least two turns."""


class SymbolReader(nn.Module):
    """The language model behind a linear layer that embeds true patch labels, not features."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.language_model = model.model.language_model
        self.lm_head = model.lm_head
        self.symbols = nn.Linear(TARGET_DIM, model.config.text_config.hidden_size)


class ProjectorAndLanguageModel(nn.Module):
    """What the later stages train, without the vision tower."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.projector = model.model.multi_modal_projector
        self.language_model = model.model.language_model
        self.lm_head = model.lm_head


class LanguageBatch(NamedTuple):
    """Questions about patches of B images."""

    inputs: Tensor
    """Symbols or features of P patches, `[B, P, ...]` float32."""
    patches: Tensor
    """Their positions in the image, `[B, P]` int64."""
    text: PackedText


def train_symbols(
    model: LlavaForConditionalGeneration, packer: Packer, stage: Stage, workdir: Path
) -> SymbolReader:
    """Train language model and a new symbol reader on true labels of 32 patches of a scene."""
    reader = SymbolReader(model).to(model.device)
    reader.train()

    def batch_of(step: int) -> LanguageBatch:
        # The first number of a seed differs between stages.
        rng = np.random.default_rng([3, step])
        scenes = [sample_scene(rng) for _ in range(stage.batch_size)]
        # Discs approximate the patches of objects, so that nothing is rendered.
        stacked = _stack([label_scene(scene, None) for scene in scenes])
        patches = torch.from_numpy(_few_patches(stacked, rng, SYMBOL_PATCHES, 20))
        vectors = patch_targets(stacked).vector()
        # [B, 576, TARGET_DIM] to [B, 32, TARGET_DIM].
        vectors = vectors.gather(1, patches[..., None].expand(-1, -1, TARGET_DIM))
        noise = torch.from_numpy(rng.normal(0, SYMBOL_NOISE, vectors.shape)).float()
        text = packer.pack([_questions(scene, rng) for scene in scenes])
        return LanguageBatch(vectors + noise, patches, text)

    def loss_of(batch: LanguageBatch) -> Loss:
        embeds = reader.symbols(batch.inputs.to(model.device))
        return _answer_loss(model, packer, embeds, batch)

    train_stage(stage, reader, batch_of, loss_of, workdir)
    return reader


def cache_features(tower: DenseTower, pool: ScenePool, workdir: Path) -> NDArray[np.float16]:
    """Selected features of the whole pool, `[count, 576, D]` float16, a memory map of a file."""
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
                    features = tower.features(image_batch(pool, indices).to(device))
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
    """Train the projector to map features to the embeddings of their patches' symbols."""
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
        inputs, vectors = (part.to(model.device) for part in batch)
        with torch.no_grad():
            targets = reader.symbols(vectors)
        return F.mse_loss(projector(inputs), targets) / targets.var(), {}

    train_stage(stage, projector, batch_of, loss_of, workdir)


def train_language_model(
    model: LlavaForConditionalGeneration,
    packer: Packer,
    pool: ScenePool,
    features: NDArray[np.float16],
    stage: LanguageStage,
    workdir: Path,
) -> None:
    """Train projector and language model on the tower's features of some or all patches."""
    module = ProjectorAndLanguageModel(model)
    module.train()
    seed = zlib.crc32(stage.name.encode())  # so that every stage draws other batches

    def batch_of(step: int) -> LanguageBatch:
        rng = np.random.default_rng([5, seed, step])
        indices = rng.integers(0, pool.count, stage.batch_size)
        if stage.num_patches == NUM_PATCHES:
            chosen = np.tile(np.arange(NUM_PATCHES), (stage.batch_size, 1))  # [B, 576]
        else:
            labels = pool.labels(indices)
            chosen = _few_patches(labels, rng, stage.num_patches, stage.num_patches)
        patches = torch.from_numpy(chosen)
        scenes = [pool.scene(int(index))[0] for index in indices]
        text = packer.pack_conversations([_conversations(scene, rng, stage) for scene in scenes])
        return LanguageBatch(_gather(features, indices, patches), patches, text)

    def loss_of(batch: LanguageBatch) -> Loss:
        embeds = model.model.multi_modal_projector(batch.inputs.to(model.device))
        return _answer_loss(model, packer, embeds, batch)

    train_stage(stage, module, batch_of, loss_of, workdir)


def _answer_loss(
    model: LlavaForConditionalGeneration, packer: Packer, embeds: Tensor, batch: LanguageBatch
) -> Loss:
    patches = batch.patches.to(model.device)
    return answer_loss(packed_logits(model, packer, embeds, batch.text, patches), batch.text)


def _conversations(
    scene: Scene, rng: np.random.Generator, stage: LanguageStage
) -> list[tuple[TextTurn, ...]]:
    """Conversations about one image: each question as one of a single turn, then longer ones."""
    single = _questions(scene, rng, stage.questions, stage.emphasis)
    longer = [
        learned_turns(
            conversation(scene, rng, int(rng.integers(2, MAX_TURNS + 1)), stage.emphasis),
            scene,
            rng,
        )
        for _ in range(stage.conversations)
    ]
    return [*((TextTurn(question.text, question.answer),) for question in single), *longer]


def _questions(
    scene: Scene,
    rng: np.random.Generator,
    count: int = QUESTIONS_PER_IMAGE,
    emphasis: Sequence[str] = (),
) -> list[SceneQuestion]:
    """`count` short questions, half of them of the kinds in `emphasis`, and a description."""
    special = count // 2 if emphasis else 0
    chosen = short_questions(scene, rng, special, emphasis) if special else []
    return [*chosen, *short_questions(scene, rng, count - special), describe(scene, rng)]


def _stack(labels: list[SceneLabels]) -> SceneLabels:
    return SceneLabels(*(np.stack(field) for field in zip(*labels, strict=True)))


def _few_patches(
    labels: SceneLabels, rng: np.random.Generator, count: int, max_owned: int
) -> NDArray[np.int64]:
    """`count` patches of each scene in reading order, `[B, count]`.

    Object centres are chosen first, then other object patches, then background. Where `max_owned`
    is below `count`, a random number of object patches up to `max_owned` is preferred.
    """
    chosen = np.empty((len(labels.owner), count), np.int64)
    for row, (owner, centre) in enumerate(zip(labels.owner, labels.centre, strict=True)):
        # A random order in which object centres, then preferred patches, come first.
        rank = rng.random(NUM_PATCHES)
        owned = rng.permutation(np.flatnonzero((owner >= 0) & ~centre))
        preferred = owned[: int(rng.integers(0, max_owned + 1))] if max_owned < count else owned
        rank[preferred] -= 1
        rank[centre] -= 2
        # In the order of the patches in a whole image.
        chosen[row] = np.sort(np.argsort(rank)[:count])
    return chosen


def _gather(features: NDArray[np.float16], indices: NDArray[np.int64], patches: Tensor) -> Tensor:
    rows = [
        features[int(index)][patch] for index, patch in zip(indices, patches.numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(rows)).float()
