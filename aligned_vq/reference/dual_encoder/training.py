"""Trains the reference dual encoder on colour images of rooms and their captions.

Three losses: CLIP's contrastive loss between images and captions; the prediction of a caption's
tokens from its image (SuperClass, arXiv 2411.03313); and the furniture under each patch, which the
renderer knows, because a small tower learns shapes from captions alone only in many hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from aligned_vq.data.crops import cut, cut_classes, normalize_channels, random_crops
from aligned_vq.data.rooms.examples import furniture_names
from aligned_vq.data.rooms.pool import RoomPool
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.reference.dual_encoder.blueprint import IMAGE_SIDE_PX, PATCH_PX, VISION_WIDTH
from aligned_vq.reference.stage import Stage, train_stage
from aligned_vq.training.loop import Loss

MAX_LOGIT_SCALE = 100.0
"""As CLIP's."""
SMALLEST_CROP = 0.55
"""Of the image's area."""
GRID = IMAGE_SIDE_PX // PATCH_PX
WALL_WEIGHT = 0.25
"""Of places that show no furniture, which are most."""


@dataclass(frozen=True)
class CaptionStage(Stage):
    """A stage on captions.

    A share of each image's patches, chosen at random, is enough at first and costs as much less
    (FLIP, CVPR 2023); the last stage sees whole images.
    """

    number: int = 0
    """Of the stage: each draws batches of its own."""
    kept_share: float = 1.0


class CaptionBatch(NamedTuple):
    """Some rooms as the loss needs them."""

    pixels: Tensor
    """`[B, 3, S, S]`."""
    ids: Tensor
    """int64 `[B, L]`, tokens of the captions."""
    kept: Tensor
    """int64 `[B, K]`, numbers of the patches that the tower sees."""
    shown: Tensor
    """int64 `[B, K, 4]`, furniture at four places of each of them."""


class CaptionLearner(nn.Module):
    """A dual encoder, and heads that predict words of captions, and furniture under patches.

    Args:
        model: the dual encoder.
        ids: token ids of all captions, `[N, L]`.
    """

    rarity: Tensor

    def __init__(self, model: CLIPModel, ids: NDArray[np.int64]) -> None:
        super().__init__()
        self.model = model
        size = model.config.text_config.vocab_size
        counts = torch.from_numpy(np.bincount(ids.ravel(), minlength=size)).float()
        self.from_image = nn.Linear(VISION_WIDTH, size)
        self.from_patches = nn.Linear(VISION_WIDTH, len(furniture_names()))
        # Inverse document frequency: words that most captions have say little.
        self.register_buffer("rarity", torch.log(counts.sum() / (counts + 1)), persistent=False)

    def forward(self, batch: CaptionBatch) -> Loss:
        """The loss of a batch, and its parts."""
        patches, pooled = self._tower(batch)
        images = F.normalize(self.model.visual_projection(pooled), dim=-1)
        # The same caption often occurs twice in a batch.
        captions, which = torch.unique(batch.ids, dim=0, return_inverse=True)
        texts = self.model.text_model(input_ids=captions).pooler_output
        texts = F.normalize(self.model.text_projection(texts), dim=-1)
        scale = self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        logits = scale * images.float() @ texts.float().T
        contrastive = F.cross_entropy(logits, which) + _to_images(logits, which)
        words = self._words(batch.ids)
        predicted = _multi_label(self.from_image(pooled).float(), words)
        furniture = _furniture_loss(self.from_patches(patches).float(), batch.shown)
        loss = contrastive / 2 + predicted + 2 * furniture
        accuracy = (logits.argmax(1) == which).float().mean()
        return loss, {
            "contrastive": float(contrastive.detach()),
            "words": float(predicted.detach()),
            "furniture": float(furniture.detach()),
            "retrieval": float(accuracy),
        }

    def _tower(self, batch: CaptionBatch) -> tuple[Tensor, Tensor]:
        """Hidden states `[B, K, W]` of the kept patches, and the pooled state `[B, W]`."""
        tower = self.model.vision_model
        tokens = tower.embeddings(batch.pixels)
        # The class token comes first and is always kept.
        rows = F.pad(batch.kept + 1, (1, 0))
        tokens = tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[-1]))
        hidden = tower.encoder(inputs_embeds=tower.pre_layrnorm(tokens)).last_hidden_state
        return hidden[:, 1:], tower.post_layernorm(hidden[:, 0])

    def _words(self, ids: Tensor) -> Tensor:
        """Weights `[B, V]` of the tokens in each caption, which sum to 1."""
        present = torch.zeros(len(ids), len(self.rarity), device=ids.device)
        weights = present.scatter(1, ids, 1.0) * self.rarity
        return weights / weights.sum(1, keepdim=True)


def _to_images(logits: Tensor, which: Tensor) -> Tensor:
    """Contrastive loss from captions to images; a caption of several images may find any."""
    mine = torch.arange(logits.shape[1], device=logits.device)[None] == which[:, None]
    log_share = logits.log_softmax(0).masked_fill(~mine, 0).sum(0) / mine.sum(0)
    return -log_share.mean()


def _multi_label(logits: Tensor, words: Tensor) -> Tensor:
    return -(words * logits.log_softmax(-1)).sum(-1).mean()


def _furniture_loss(logits: Tensor, shown: Tensor) -> Tensor:
    """Cross-entropy of patches `[B, P, C]` at their four places, walls with less weight."""
    places = shown.shape[-1]
    flat = logits.repeat_interleave(places, 1).flatten(0, 1)
    losses = F.cross_entropy(flat, shown.flatten(), reduction="none")
    weights = torch.where(shown.flatten() > 0, 1.0, WALL_WEIGHT)
    return (weights * losses).sum() / weights.sum()


def train_on_captions(
    learner: CaptionLearner,
    pool: RoomPool,
    ids: NDArray[np.int64],
    stage: CaptionStage,
    workdir: Path,
) -> None:
    """Train a dual encoder and its heads in place.

    Args:
        learner: on the device to train on.
        pool: the rooms.
        ids: token ids of their captions, padded, `[N, L]`.
        stage: how long and how fast.
        workdir: keeps the state of an interrupted stage.
    """
    device = learner.model.logit_scale.device
    # On a CPU, torch's fused attention takes twice as long as plain products for so few tokens.
    learner.model.set_attn_implementation("eager")

    def batch_of(step: int) -> CaptionBatch:
        rng = np.random.default_rng([3, stage.number, step])
        chosen = np.sort(rng.integers(0, len(pool), stage.batch_size))
        crops = random_crops(len(chosen), SMALLEST_CROP, rng)
        # Two by two places in each patch.
        places = cut_classes(pool.shown[chosen], crops, 2 * GRID)
        shown = places.reshape(-1, GRID, 2, GRID, 2).transpose(2, 3).reshape(len(chosen), -1, 4)
        number = round(stage.kept_share * GRID * GRID)
        order = rng.permuted(np.tile(np.arange(GRID * GRID), (len(chosen), 1)), axis=1)
        kept = torch.from_numpy(np.sort(order[:, :number]))
        shown = shown.gather(1, kept[..., None].expand(-1, -1, 4))
        pixels = lit_views(pool.rgb[chosen], crops, rng)
        return CaptionBatch(pixels, torch.from_numpy(ids[chosen]), kept, shown)

    def loss_of(batch: CaptionBatch) -> Loss:
        outcome: Loss = learner(CaptionBatch(*(field.to(device) for field in batch)))
        return outcome

    learner.train()
    train_stage(stage, learner, batch_of, loss_of, workdir)
    learner.eval()


def lit_views(images: NDArray[np.uint8], crops: Tensor, rng: np.random.Generator) -> Tensor:
    """Crops of uint8 images `[B, H, W, 3]` in other light, normalised: `[B, 3, S, S]`."""
    count = len(images)
    pixels = cut(images, crops, IMAGE_SIDE_PX)
    gain = rng.uniform(0.75, 1.3, (count, 1, 1, 1)) * rng.uniform(0.93, 1.07, (count, 3, 1, 1))
    lit = (pixels * torch.from_numpy(gain.astype(np.float32))).clamp(0, 1)
    clip = ProcessorSettings()  # the defaults are CLIP's
    return normalize_channels(lit, clip.image_mean, clip.image_std)


def caption_ids(tokenizer: object, captions: list[str]) -> NDArray[np.int64]:
    """Token ids `[N, L]` of captions, padded to the longest."""
    encoded = tokenizer(captions, padding="longest", return_tensors="np")  # type: ignore[operator]
    ids: NDArray[np.int64] = encoded["input_ids"].astype(np.int64)
    return ids
