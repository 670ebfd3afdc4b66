"""How codebooks learn beside gradients: use, moving averages, revival, and what errors are worth.

All statistics are summed over every process before they are applied, and all random choices come
from the step's own generator, so that every process holds the same codebooks at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.quantizer.codebook import Codebook
from aligned_vq.quantizer.residual import StageChoice
from aligned_vq.training.config import CodebookConfig

SumOverProcesses = Callable[[Tensor], Tensor]
GatherOverProcesses = Callable[[Tensor], Tensor]

SENSITIVITY_RANGE = 8.0
"""No token's error counts more than this many times, or less than one over it of, the average."""
PRIOR_TOKENS = 30.0
"""Tokens of average sensitivity that every entry is thought to have seen."""
START_TOKENS = 4000.0
"""Weight of what calibration saw, in tokens of one step."""
CANDIDATES = 256
"""Latents of a process from which dead entries of a stage are revived."""


class Felt(NamedTuple):
    """The quantized latents of a step: their error and what the losses feel, `[B, N, d]` each."""

    gradient: Tensor
    error: Tensor


class CodebookState(nn.Module):
    """Moving averages behind one codebook; their decay is the config's."""

    seen: Tensor
    sums: Tensor
    felt: Tensor

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        seen = codebook.usage * (START_TOKENS / codebook.usage.sum())
        self.register_buffer("seen", seen)
        """Tokens of a step that chose each entry, `[size]`."""
        self.register_buffer("sums", codebook.entries.detach() * seen[:, None])
        """Sum of what they were, `[size, dim]`."""
        self.register_buffer("felt", torch.stack([seen, seen, seen]))
        """By entry of the first stage, `[3, size]`: squared gradients and squared errors, both of a
        mean of 1 in every step, and tokens."""


class CodebookKeeper(nn.Module):
    """Updates the codebooks of a quantizer after every step.

    Args:
        quantizer: whose codebooks.
        config: how they learn.
        total: sums a tensor over all processes.
        gather: concatenates a tensor of all processes.
    """

    def __init__(
        self,
        quantizer: AlignedVQ,
        config: CodebookConfig,
        total: SumOverProcesses,
        gather: GatherOverProcesses,
    ) -> None:
        super().__init__()
        self._quantizer = [quantizer]  # in a list: its tensors are not this module's
        self.config = config
        self._total = total
        self._gather = gather
        self.states = nn.ModuleList(
            CodebookState(codebook)
            for number in range(quantizer.config.num_quantizers)
            for codebook in quantizer.codebooks.stage(number).codebooks()
        )

    @torch.no_grad()
    def update(
        self,
        choices: Sequence[StageChoice],
        stages: Sequence[int],
        felt: Felt | None,
        step: int,
        generator: torch.Generator,
    ) -> list[tuple[nn.Parameter, Tensor]]:
        """Take in what a step chose; returns entry tables with the rows that were revived.

        Args:
            choices: of the step, this process's images.
            stages: the stages the step used, the first of which covered every token.
            felt: what errors of this step did to the losses.
            step: counts from 0 within a training stage.
            generator: in the same state on every process.
        """
        quantizer = self._quantizer[0]
        groups = quantizer.config.num_groups
        due = self.config.revive_every and (step + 1) % self.config.revive_every == 0
        touched: list[tuple[nn.Parameter, Tensor]] = []
        for number in stages:
            choice = choices[number]
            covered = slice(None) if choice.mask is None else choice.mask
            inputs = choice.inputs[covered].reshape(-1, choice.inputs.shape[-1])
            indices = choice.indices[covered].reshape(-1, groups)
            parts = inputs.chunk(groups, dim=-1)
            for group, codebook in enumerate(quantizer.codebooks.stage(number).codebooks()):
                state = self.states[number * groups + group]
                assert isinstance(state, CodebookState)
                self._take(codebook, state, indices[:, group], parts[group])
                if number == stages[0] and felt is not None and self.config.sensitivity:
                    self._feel(codebook, state, choice.indices[..., group], felt)
                if due:
                    rows = self._revive(codebook, state, parts[group], generator)
                    if len(rows):
                        touched.append((codebook.entries, rows))
        return touched

    def _take(
        self, codebook: Codebook, state: CodebookState, indices: Tensor, inputs: Tensor
    ) -> None:
        size = len(codebook.usage)
        counts = torch.bincount(indices, minlength=size).float()
        learns = self.config.update == "ema"
        sums = torch.zeros_like(state.sums)
        if learns:
            sums.index_add_(0, indices, inputs)
        packed = self._total(torch.cat([counts[:, None], sums], dim=1))
        decay = self.config.decay
        state.seen.mul_(decay).add_(packed[:, 0], alpha=1 - decay)
        # Smoothed, so that a rare entry keeps a price that a token can pay.
        codebook.usage.copy_(state.seen + 0.1 * state.seen.mean())
        if learns:
            state.sums.mul_(decay).add_(packed[:, 1:], alpha=1 - decay)
            alive = state.seen > 1e-3
            codebook.entries[alive] = state.sums[alive] / state.seen[alive][:, None]

    def _feel(self, codebook: Codebook, state: CodebookState, indices: Tensor, felt: Felt) -> None:
        """Learn the curvature of the losses by entry. Around their minimum a gradient is curvature
        times error, so the ratio of the two says what an error costs, whatever its size."""
        flat = indices.reshape(-1)
        sums = torch.zeros_like(state.felt)
        for row, what in enumerate(felt):
            sums[row].index_add_(0, flat, what.float().square().sum(-1).reshape(-1))
        sums[2] += torch.bincount(flat, minlength=sums.shape[1])
        sums = self._total(sums)
        # Scales say nothing: they are the loss's and the rate's, and others in every step.
        means = sums[:2].sum(1, keepdim=True) / sums[2].sum()
        if not bool((means > 0).all()):
            return
        sums[:2] /= means
        state.felt.mul_(self.config.decay).add_(sums, alpha=1 - self.config.decay)
        gradients, errors, tokens = state.felt
        worth = ((gradients + PRIOR_TOKENS) / (errors + PRIOR_TOKENS)).sqrt()
        worth = worth * tokens.sum() / (worth * tokens).sum()
        codebook.importance.copy_(worth.clamp(1 / SENSITIVITY_RANGE, SENSITIVITY_RANGE))

    def _revive(
        self, codebook: Codebook, state: CodebookState, inputs: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Move entries hardly ever used to latents of this step; returns their rows."""
        own = torch.zeros(CANDIDATES, inputs.shape[1] + 1, device=inputs.device)
        some = inputs[: CANDIDATES * (len(inputs) // CANDIDATES or 1)]
        some = some[:: max(1, len(some) // CANDIDATES)][:CANDIDATES]
        own[: len(some), :-1] = some
        own[: len(some), -1] = 1  # the rest is padding: processes cover different numbers of tokens
        candidates = self._gather(own)
        candidates = candidates[candidates[:, -1] > 0, :-1]
        dead = state.seen < self.config.revive_below * state.seen.mean()
        count = min(int(dead.sum()), len(candidates))
        rows = dead.nonzero()[:count, 0]
        chosen = torch.randperm(len(candidates), generator=generator)[:count]
        fresh = candidates[chosen.to(candidates.device)]
        codebook.entries[rows] = fresh
        # Half as often used as the average for a while, or it would be dead at the next look.
        state.seen[rows] = 0.5 * state.seen.mean()
        state.sums[rows] = fresh * state.seen[rows][:, None]
        return rows

    def figures(self) -> dict[str, float]:
        """Perplexity and share of dead entries of every codebook, by recent use."""
        shown = {}
        for number, state in enumerate(self.states):
            assert isinstance(state, CodebookState)
            share = state.seen / state.seen.sum()
            perplexity = torch.exp2(-(share * (share + 1e-12).log2()).sum())
            dead = (state.seen < self.config.revive_below * state.seen.mean()).float().mean()
            shown[f"perplexity/{number}"] = perplexity.item()
            shown[f"dead/{number}"] = dead.item()
        return shown
