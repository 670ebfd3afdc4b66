"""What a training step computes: the split model around a codec, and its losses.

pixels -> prefix -> features, residual -> AlignedVQ -> link -> suffix -> projector -> language model
                                          (trained)            (frozen, or with LoRA)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligned_vq.llava.packing import PackedText, Packer, answer_loss, packed_logits
from aligned_vq.quantizer.aligned import AlignedVQ, QuantizedLatents
from aligned_vq.quantizer.residual import StageChoice
from aligned_vq.split.residual_link import ResidualLink
from aligned_vq.split.vision import VisionPrefix, VisionSuffix
from aligned_vq.training.config import CodebookConfig, StageConfig

SOFT_TOKENS = 512
"""Tokens on which the diversity and rate terms are estimated in a step."""


@dataclass(frozen=True)
class BitSpending:
    """How a step codes its images.

    Args:
        stages: residual stages in use, the first of which covers every token.
        rate_weight: loss per bit of each image, `[B]`; None: bits cost nothing.
    """

    stages: tuple[int, ...]
    rate_weight: Tensor | None = None


class StepOutput(NamedTuple):
    """What one forward pass gives."""

    loss: Tensor
    terms: dict[str, Tensor]
    """Every loss term before its weight, and accuracies: detached scalars."""
    choices: list[StageChoice]
    """By residual stage; empty for the identity quantizer."""
    rate_bits: Tensor
    """Estimated bits of each image, `[B]`."""


class AnswerModel(NamedTuple):
    """What turns hidden states of the vision tower into answers, for the task loss."""

    llava: Any
    """transformers' model, of which the projector and the language model are used."""
    packer: Packer


class SplitModel(nn.Module):
    """Codec and frozen LLaVA.

    `forward` computes a whole step, so that a wrapper for several processes can replace the model.

    Args:
        prefix: edge half, frozen.
        quantizer: None for the identity quantizer.
        link: the residual link.
        suffix: cloud half, frozen but for adapters.
        answering: frozen but for adapters; None without a task loss.
        codebooks: how gradients pass the quantizer.
    """

    def __init__(
        self,
        prefix: VisionPrefix,
        quantizer: AlignedVQ | None,
        link: ResidualLink,
        suffix: VisionSuffix,
        answering: AnswerModel | None,
        codebooks: CodebookConfig,
    ) -> None:
        super().__init__()
        self.prefix = prefix
        self.quantizer = quantizer
        self.link = link
        self.suffix = suffix
        self.llava: Any = None if answering is None else answering.llava
        self.packer = None if answering is None else answering.packer
        self.codebooks = codebooks
        self.latents_hat: Tensor | None = None
        """Quantized latents of the last step, `[B, N, d]`, which keep their gradient.

        An attribute, not an output: a wrapper for several processes returns copies of outputs,
        and copies get no gradient.
        """

    def forward(
        self, pixels: Tensor, text: PackedText | None, spending: BitSpending, stage: StageConfig
    ) -> StepOutput:
        """Loss and metrics of pixels `[B, 3, H, W]`; `text` is None where there are no pairs."""
        with torch.no_grad():
            features, residual = self.prefix(pixels)
        coded, features_hat, residual_hat = self.code(features, residual, spending)
        hidden_hat = self.suffix(features_hat, residual_hat)
        terms: dict[str, Tensor] = {}
        if coded is not None:
            terms["features"] = relative_error(features_hat, features)
            terms["residual"] = relative_error(residual_hat, residual)
            terms["commitment"] = coded.commitment
            # The reference needs a second pass through the suffix, so only if its term counts.
            if stage.hidden:
                with torch.no_grad():
                    hidden = self.suffix(features, residual)
                terms["hidden"] = relative_error(hidden_hat, hidden)
            if stage.diversity or stage.rate:
                terms["diversity"], terms["rate"] = self._soft_terms(coded, spending.stages[0])
        accuracies: dict[str, float] = {}
        if stage.task and text is not None:
            terms["task"], accuracies = answer_loss(self.logits(hidden_hat, text), text)
        # A term has the name of its weight in StageConfig.
        loss = torch.stack(
            [getattr(stage, name) * term.float() for name, term in terms.items()]
        ).sum()
        if coded is not None:
            loss = loss + coded.codebook * _codebook_weight(self.codebooks, stage)
        return StepOutput(
            loss,
            {name: term.detach() for name, term in terms.items()}
            | {name: torch.tensor(value) for name, value in accuracies.items()},
            [] if coded is None else coded.choices,
            torch.zeros(len(pixels)) if coded is None else coded.rate_bits,
        )

    def code(
        self, features: Tensor, residual: Tensor, spending: BitSpending
    ) -> tuple[QuantizedLatents | None, Tensor, Tensor]:
        """What the cloud decodes of features and residual stream `[B, N, D]`, and how."""
        if self.quantizer is None:
            return None, features, residual
        coded: QuantizedLatents = self.quantizer(
            features,
            spending.stages,
            # The number 0 lets every stage in use cover every token.
            0.0 if spending.rate_weight is None else spending.rate_weight,
            self.codebooks.estimator,
            self.codebooks.update == "gradient",
        )
        # float32, as in the exported codec.
        with torch.autocast(features.device.type, enabled=False):
            # Otherwise autograd discards the gradient of a tensor that is not a leaf.
            if coded.latents_hat.requires_grad:
                coded.latents_hat.retain_grad()
            self.latents_hat = coded.latents_hat
            latents_hat = self.quantizer.refine(coded.latents_hat)
            features_hat = self.quantizer.reconstruct(latents_hat)
            statistics = None
            if self.link.needs_statistics:
                from aligned_vq.split.residual_link import token_statistics

                eps = self.suffix.tower.vision.layer_norm_eps
                statistics = token_statistics(residual.float(), eps)
            residual_hat = self.link(features_hat, latents_hat, statistics)
        return coded, features_hat, residual_hat

    def logits(self, hidden: Tensor, text: PackedText) -> Tensor:
        """Next-token logits `[B, S, V]` of a text behind hidden states of the tower."""
        assert self.packer is not None
        embeds = self.llava.model.multi_modal_projector(hidden)
        return packed_logits(self.llava, self.packer, embeds, text)

    def _soft_terms(self, coded: QuantizedLatents, number: int) -> tuple[Tensor, Tensor]:
        """Two scalars about the first stage in use, under soft choices `softmax(-distance)`.

        Bits by which the entropy of their mean falls short of a uniform one, and the expected code
        length in bits per token.
        """
        assert self.quantizer is not None
        stage = self.quantizer.codebooks.stage(number)
        # Through the latents, so that they can move towards entries that cost less.
        latents = coded.latents.flatten(0, 1)
        latents = latents[:: max(1, len(latents) // SOFT_TOKENS)]
        shortfall, expected = [], []
        parts = latents.chunk(len(stage.groups), dim=-1)
        for codebook, part in zip(stage.codebooks(), parts, strict=True):
            distance = torch.cdist(part, codebook.entries.detach()).square()  # [M, K]
            # The mean squared distance to the nearest entry is the temperature, whatever the scale.
            nearest = distance.detach().min(1).values.mean().clamp(min=1e-6)
            share = F.softmax(-distance / nearest, dim=1)
            use = share.mean(0)
            # 1e-9 keeps the logarithm of an unused entry finite.
            entropy = -(use * (use + 1e-9).log2()).sum()
            shortfall.append(torch.log2(torch.tensor(float(len(use)))) - entropy)
            expected.append((share * codebook.length_bits()).sum(1).mean())
        return torch.stack(shortfall).mean(), torch.stack(expected).sum()


def _codebook_weight(codebooks: CodebookConfig, stage: StageConfig) -> float:
    """Weight of the entries' distance to their latents; moving averages need no such loss."""
    # The ratio in VQ-VAE (arXiv 1711.00937), whose commitment cost is 0.25.
    return 4 * stage.commitment if codebooks.update == "gradient" else 0.0


def relative_error(estimate: Tensor, target: Tensor) -> Tensor:
    """Squared error over the target's variance around its mean over batch and tokens."""
    target = target.float()
    variance = (target - target.mean((0, 1))).square().mean()  # around a mean [D]
    return (estimate.float() - target).square().mean() / variance
