"""What the two stages of EdgeVL minimise: imitation of the teacher, then triplets."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aligned_vq.data.crops import cut, normalize_channels, random_crops
from aligned_vq.dual_encoder.checkpoint import DualEncoder
from aligned_vq.edgevl.config import ContrastConfig, DistillConfig, PairsConfig
from aligned_vq.edgevl.imitator import token_errors
from aligned_vq.edgevl.pool import PairArrays, StudentInput, embed
from aligned_vq.edgevl.triplets import Triplets, mine_triplets, triplet_loss
from aligned_vq.errors import TrainingError
from aligned_vq.training.loop import Loss

BatchT = TypeVar("BatchT")


class Share(NamedTuple):
    """Which part of every step this process computes."""

    rank: int = 0
    processes: int = 1

    def of(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's items."""
        return items[self.rank :: self.processes]


class StudentData(NamedTuple):
    """What both stages learn from."""

    pairs: PairArrays
    chosen: NDArray[np.int64]
    """Indices of the curated training pairs."""
    pseudo: Tensor
    """int64 `[N]`: the pseudo-label of every pair."""
    teacher: DualEncoder
    prepare: StudentInput
    config: PairsConfig
    seed: int
    share: Share


class Objective(Protocol[BatchT]):
    """What one stage minimises."""

    def batch(self, step: int) -> BatchT:
        """What the loss of a step needs and that depends on the step alone; made ahead of it."""

    def loss(self, model: nn.Module, step: int, batch: BatchT) -> Loss:
        """Loss and metrics of a step."""

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed stage needs beside model and optimiser."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""


class Views(NamedTuple):
    """Crops of some pairs, all `[B, 3, S, S]`; the teacher's have its own size and statistics."""

    rgb: Tensor
    other: Tensor
    teacher: Tensor


class Distillation:
    """Stage 1: mean absolute error between the student's embedding of either image and the
    teacher's of the colour image (EdgeVL, equation 1), and between their tokens if configured."""

    def __init__(self, data: StudentData, config: DistillConfig) -> None:
        self._data = data
        self._config = config

    def batch(self, step: int) -> Views:
        """See `Objective`."""
        rng = np.random.default_rng([self._data.seed, 1, step])
        drawn = rng.integers(0, len(self._data.chosen), self._config.batch_size)
        # Every process draws the whole step.
        crops = random_crops(len(drawn), self._data.config.smallest_crop, rng)
        mine = self._data.share.of(np.arange(len(drawn)))
        return views(self._data, self._data.chosen[drawn[mine]], crops[torch.from_numpy(mine)])

    def loss(self, model: nn.Module, step: int, batch: Views) -> Loss:
        """See `Objective`."""
        config = self._config
        embeddings, tokens = model(torch.cat([batch.rgb, batch.other]).to(_device_of(model)))
        wanted = self._data.teacher.image_features(batch.teacher)
        rgb, other = embeddings.float().chunk(2)
        loss, metrics = imitation(wanted.embeddings, (rgb, other), config)
        if tokens is None:
            return loss, metrics
        errors = token_errors(tokens, wanted.tokens.clone().repeat(2, 1, 1, 1)).chunk(2)
        loss = loss + config.tokens * (
            config.rgb * errors[0].mean() + config.other * errors[1].mean()
        )
        names = ("tokens_rgb", "tokens_other")
        return loss, metrics | {
            name: float(error.detach().mean()) for name, error in zip(names, errors, strict=True)
        }

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: batches depend on the step alone."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Nothing to put back."""


class Contrast:
    """Stage 2: semi-hard triplets within each modality (EdgeVL, equation 2).

    Triplets are mined every `mine_every` steps on whole colour images, with the student as it is
    then; the same triplets serve the other modality.
    """

    def __init__(self, data: StudentData, config: ContrastConfig, imitate: DistillConfig) -> None:
        self._data = data
        self._config = config
        self._imitate = imitate
        self._mined: Triplets | None = None

    def batch(self, step: int) -> None:
        """See `Objective`. Images are drawn in `loss`: they depend on the mined triplets."""

    def loss(self, model: nn.Module, step: int, batch: None) -> Loss:
        """See `Objective`."""
        config, data = self._config, self._data
        rng = np.random.default_rng([data.seed, 2, step])
        if not config.triplets:
            return self._imitation_alone(model, rng)
        if self._mined is None or step % config.mine_every == 0:
            self._mined = self._mine(model, rng)
        mined = self._mined
        drawn = rng.permutation(len(mined.anchors))[: config.anchors]
        mine = torch.from_numpy(data.share.of(drawn))
        if not len(mine):
            raise TrainingError(
                f"expected triplets for {data.share.processes} processes, got {len(drawn)}: keep "
                "more images, take a larger margin, or use fewer processes"
            )
        # Rows of (anchor, positive, negative), as positions among the chosen pairs.
        negatives = mined.negatives[mine]
        row, column = (negatives >= 0).nonzero(as_tuple=True)
        rows = torch.stack(
            [mined.anchors[mine][row], mined.positives[mine][row], negatives[row, column]], 1
        )
        needed, places = torch.unique(rows, return_inverse=True)
        crops = random_crops(len(needed), data.config.smallest_crop, rng)
        batch_views = views(data, data.chosen[needed.numpy()], crops)
        embeddings = student_embeddings(model, batch_views)
        total = embeddings[0].new_zeros(())
        metrics: dict[str, float] = {}
        for name, embedding in zip(("rgb", "other"), embeddings, strict=True):
            anchor, positive, negative = embedding[places].unbind(1)
            loss = triplet_loss(anchor, positive, negative, config.margin)
            metrics[f"triplets_{name}"] = float(loss.detach())
            total = total + config.triplets * loss
        if config.distill:
            wanted = data.teacher.image_embeddings(batch_views.teacher)
            imitated, parts = imitation(wanted, embeddings, self._imitate)
            total = total + config.distill * imitated
            metrics |= parts
        return total, metrics

    def tensors(self) -> dict[str, Tensor]:
        """The triplets in use."""
        return {} if self._mined is None else self._mined._asdict()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put the triplets back."""
        self._mined = Triplets(**tensors) if tensors else None

    def _imitation_alone(self, model: nn.Module, rng: np.random.Generator) -> Loss:
        """As many images as triplets have at most, and the loss of stage 1."""
        data, config = self._data, self._config
        drawn = rng.integers(0, len(data.chosen), config.anchors * (2 + config.negatives))
        mine = data.chosen[data.share.of(drawn)]
        seen = views(data, mine, random_crops(len(mine), data.config.smallest_crop, rng))
        wanted = data.teacher.image_embeddings(seen.teacher)
        loss, metrics = imitation(wanted, student_embeddings(model, seen), self._imitate)
        return config.distill * loss, metrics

    def _mine(self, model: nn.Module, rng: np.random.Generator) -> Triplets:
        data = self._data
        model.eval()
        embeddings = embed(model, data.pairs, data.prepare, "rgb", data.chosen)
        model.train()
        labels = data.pseudo[torch.from_numpy(data.chosen)]
        config = self._config
        return mine_triplets(embeddings, labels, config.margin, config.negatives, rng)


def views(data: StudentData, indices: NDArray[np.int64], crops: Tensor) -> Views:
    """The same crops of both images of some pairs, and of the colour images for the teacher."""
    return Views(
        data.prepare.rgb(data.pairs, indices, crops),
        data.prepare.other(data.pairs, indices, crops),
        teacher_pixels(data.teacher, data.pairs, indices, crops),
    )


def teacher_pixels(
    teacher: DualEncoder, pairs: PairArrays, indices: NDArray[np.int64], crops: Tensor
) -> Tensor:
    """Crops of colour images in the teacher's size and statistics, `[B, 3, S, S]`."""
    settings = teacher.preparation
    seen = cut(pairs.rgb[indices], crops, settings.output_size[0])
    return normalize_channels(seen, settings.image_mean, settings.image_std)


def student_embeddings(model: nn.Module, batch: Views) -> tuple[Tensor, Tensor]:
    """Embeddings `[B, D]` of both modalities, from one forward pass."""
    both = model(torch.cat([batch.rgb, batch.other]).to(_device_of(model))).float()
    rgb, other = both.chunk(2)
    return rgb, other


def imitation(wanted: Tensor, embeddings: tuple[Tensor, Tensor], config: DistillConfig) -> Loss:
    """Weighted mean absolute errors to the teacher's embeddings `[B, D]`, summed over their width.

    The published loss is the mean over the width, whose gradients are tiny for unit vectors; AdamW
    takes the same steps for both, but clipping needs the sum.
    """
    target = wanted.clone()  # an inference tensor has no gradient
    errors = [(embedding - target).abs().sum(-1).mean() for embedding in embeddings]
    loss = config.rgb * errors[0] + config.other * errors[1]
    names = ("imitate_rgb", "imitate_other")
    return loss, {name: float(error.detach()) for name, error in zip(names, errors, strict=True)}


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
