"""What a modality's prefix minimises: the difference from the teacher behind the frozen codec.

other image -> prefix -> codec, frozen -> suffix -> hidden states -> language model -> answers
               (learns)                             compared                           compared
colour image -> prefix ------------------> suffix -> hidden states -> language model -> answers
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from aligned_vq.llava.packing import PackedText, label_weights
from aligned_vq.modality.config import ModalityRunConfig
from aligned_vq.modality.lessons import Lesson, Lessons, Taught, Teacher, compared
from aligned_vq.modality.rate import learnable_bits
from aligned_vq.training.loop import Loss
from aligned_vq.training.model import BitSpending, relative_error
from aligned_vq.training.rate_control import draw_points
from aligned_vq.types import OperatingPoint

OTHER_SHARE = 0.25
"""Share of the steps of a point with other stages than the default point, relative to one with
the same."""


class PrefixDistillation:
    """Squared error of hidden states and divergence of answers, at operating points drawn as in a
    codec's training; see `Objective`.

    Args:
        lessons: of the training part.
        teacher: with the frozen model around the codec.
        points: the bundle's, the default first; their rate weights are kept.
        config: of the run.
    """

    def __init__(
        self,
        lessons: Lessons,
        teacher: Teacher,
        points: Sequence[OperatingPoint],
        config: ModalityRunConfig,
    ) -> None:
        self._lessons = lessons
        self._teacher = teacher
        self._config = config
        self._stages = [point.stages for point in points]
        self._shares = np.array(
            [1.0 if p.stages == points[0].stages else OTHER_SHARE for p in points]
        )
        self._log_weights = [math.log(p.rate_weight) if p.rate_weight else None for p in points]

    def batch(self, step: int) -> Lesson:
        """See `Objective`: every view once before any of them comes again."""
        return self._lessons.lesson(self._indices(step))

    def loss(self, model: nn.Module, step: int, batch: Lesson) -> Loss:
        """See `Objective`."""
        config, split, device = self._config, self._teacher.model, self._teacher.device
        taught = self._taught(batch)
        rng = np.random.default_rng([config.seed, step, 1])
        stages, picked, weights = draw_points(
            self._stages, self._shares, self._log_weights, rng, len(batch.pixels)
        )
        spending = BitSpending(stages, None if weights is None else weights.to(device))
        features, residual = model(batch.pixels.to(device))
        coded, features_hat, residual_hat = split.code(features, residual, spending)
        assert coded is not None  # `FrozenParts` has checked the bundle
        hidden = split.suffix(features_hat, residual_hat)
        terms = {
            "hidden": relative_error(hidden, taught.hidden),
            "answers": divergence(split.logits(hidden, batch.text), taught.logits, batch.text),
        }
        is_default = torch.tensor([number == 0 for number in picked], device=device)
        metrics: dict[str, float] = {}
        if is_default.any():
            mean_bytes = config.rate_gain / 8 * float(coded.rate_bits[is_default].mean())
            metrics["bytes"] = mean_bytes
            limit = config.max_mean_bytes
            if limit is not None and mean_bytes > limit and spending.rate_weight is not None:
                assert split.quantizer is not None
                bits = learnable_bits(
                    split.quantizer.codebooks, coded, stages, spending.rate_weight
                )
                terms["rate"] = config.rate_gain / 8 * bits[is_default].mean() / limit - 1
        # A term has the name of its weight in the configuration.
        loss = torch.stack([getattr(config, name) * term for name, term in terms.items()]).sum()
        return loss, {name: float(term.detach()) for name, term in terms.items()} | metrics

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: batches depend on the step alone."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Nothing to put back."""

    def _indices(self, step: int) -> list[int]:
        config, count = self._config, len(self._lessons)
        first = step * config.batch_size
        indices = []
        for position in range(first, first + config.batch_size):
            epoch, place = divmod(position, count)
            order = np.random.default_rng([config.seed, 0, epoch]).permutation(count)
            indices.append(int(order[place]))
        return indices

    def _taught(self, batch: Lesson) -> Taught:
        if batch.taught is None:
            assert batch.rgb is not None
            return self._teacher(batch.rgb, batch.text)
        return Taught(*(tensor.to(self._teacher.device) for tensor in batch.taught))


def divergence(logits: Tensor, taught: Tensor, text: PackedText) -> Tensor:
    """Mean Kullback-Leibler divergence from the teacher's distributions, in nats: a scalar.

    The weight of a token is that in `answer_loss`.

    Args:
        logits: `[B, S, V]` of the text.
        taught: `[T, V]`: the teacher's logits of its compared tokens.
        text: whose labels mark these.
    """
    where = compared(text)
    weight = label_weights(text)[where].to(logits.device)
    own = functional.log_softmax(logits[where.to(logits.device)].float(), -1)
    target = functional.log_softmax(taught.float(), -1)
    of_token = functional.kl_div(own, target, reduction="none", log_target=True).sum(-1)
    return (of_token * weight).sum() / weight.sum()
