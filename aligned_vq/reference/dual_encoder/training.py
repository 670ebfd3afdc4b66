"""Trains the reference dual encoder on colour images of rooms and their captions.

Two losses: CLIP's contrastive loss between images and captions, and the prediction of a caption's
tokens from its image (SuperClass, arXiv 2411.03313), with which a small tower trained from scratch
learns several times as fast. No label is used but through captions.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from aligned_vq.data.crops import cut, normalize_channels, random_crops
from aligned_vq.data.rooms.pool import RoomPool
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.reference.dual_encoder.blueprint import IMAGE_SIDE_PX, VISION_WIDTH
from aligned_vq.reference.stage import Stage, train_stage
from aligned_vq.training.loop import Loss

MAX_LOGIT_SCALE = 100.0
"""As CLIP's."""
SMALLEST_CROP = 0.55
"""Of the image's area."""


class CaptionBatch(NamedTuple):
    """Images `[B, 3, H, W]` and the token ids `[B, L]` of their captions."""

    pixels: Tensor
    ids: Tensor


class CaptionLearner(nn.Module):
    """A dual encoder, and the heads that predict captions from images.

    Args:
        model: the dual encoder.
        counts: how often each token occurs in all captions, `[V]`.
    """

    rarity: Tensor

    def __init__(self, model: CLIPModel, counts: Tensor) -> None:
        super().__init__()
        self.model = model
        self.from_image = nn.Linear(VISION_WIDTH, len(counts))
        self.from_patches = nn.Linear(VISION_WIDTH, len(counts))
        # Inverse document frequency: words that most captions have say little.
        self.register_buffer("rarity", torch.log(counts.sum() / (counts + 1)), persistent=False)

    def forward(self, batch: CaptionBatch) -> Loss:
        """The loss of a batch, and its parts."""
        tower = self.model.vision_model(pixel_values=batch.pixels)
        images = F.normalize(self.model.visual_projection(tower.pooler_output), dim=-1)
        # The same caption often occurs twice in a batch.
        captions, which = torch.unique(batch.ids, dim=0, return_inverse=True)
        texts = self.model.text_model(input_ids=captions).pooler_output
        texts = F.normalize(self.model.text_projection(texts), dim=-1)
        scale = self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        logits = scale * images.float() @ texts.float().T
        contrastive = F.cross_entropy(logits, which) + _to_images(logits, which)
        words = self._words(batch.ids)
        patches = self.from_patches(tower.last_hidden_state[:, 1:]).float()
        # A smooth maximum over patches: a word needs to be seen in one place only.
        somewhere = torch.logsumexp(patches, 1)
        predicted = _multi_label(self.from_image(tower.pooler_output).float(), words)
        found = _multi_label(somewhere, words)
        loss = contrastive / 2 + predicted + 0.5 * found
        accuracy = (logits.argmax(1) == which).float().mean()
        return loss, {
            "contrastive": float(contrastive.detach()),
            "words": float(predicted.detach()),
            "retrieval": float(accuracy),
        }

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


def train_on_captions(
    model: CLIPModel, pool: RoomPool, ids: NDArray[np.int64], stage: Stage, workdir: Path
) -> None:
    """Train a dual encoder in place.

    Args:
        model: on the device to train on.
        pool: colour images.
        ids: token ids of their captions, padded, `[N, L]`.
        stage: how long and how fast.
        workdir: keeps the state of an interrupted stage.
    """
    device = model.logit_scale.device
    counts = torch.from_numpy(
        np.bincount(ids.ravel(), minlength=model.config.text_config.vocab_size)
    )
    learner = CaptionLearner(model, counts.float()).to(device)

    def batch_of(step: int) -> CaptionBatch:
        rng = np.random.default_rng([3, step])
        chosen = np.sort(rng.integers(0, len(pool), stage.batch_size))
        return CaptionBatch(random_views(pool.rgb[chosen], rng), torch.from_numpy(ids[chosen]))

    def loss_of(batch: CaptionBatch) -> Loss:
        pixels, tokens = batch
        outcome: Loss = learner(CaptionBatch(pixels.to(device), tokens.to(device)))
        return outcome

    learner.train()
    train_stage(stage, learner, batch_of, loss_of, workdir)
    learner.eval()


def random_views(images: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Random crops of uint8 images `[B, H, W, 3]` in other light, normalised: `[B, 3, S, S]`."""
    count = len(images)
    pixels = cut(images, random_crops(count, SMALLEST_CROP, rng), IMAGE_SIDE_PX)
    gain = rng.uniform(0.75, 1.3, (count, 1, 1, 1)) * rng.uniform(0.93, 1.07, (count, 3, 1, 1))
    lit = (pixels * torch.from_numpy(gain.astype(np.float32))).clamp(0, 1)
    clip = ProcessorSettings()  # the defaults are CLIP's
    return normalize_channels(lit, clip.image_mean, clip.image_std)


def caption_ids(tokenizer: object, captions: list[str]) -> NDArray[np.int64]:
    """Token ids `[N, L]` of captions, padded to the longest."""
    encoded = tokenizer(captions, padding="longest", return_tensors="np")  # type: ignore[operator]
    ids: NDArray[np.int64] = encoded["input_ids"].astype(np.int64)
    return ids
