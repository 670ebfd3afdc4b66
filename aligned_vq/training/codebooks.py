"""How codebooks learn beside gradients: usage, moving averages, revival of entries, importance.

Statistics are summed over all processes before they are applied, and random choices come from a
generator that is in the same state on every process. So every process holds the same codebooks at
every step.
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
"""Importance lies between one over this and this; its mean over tokens is about 1."""
PRIOR_TOKENS = 30.0
"""Pseudo-count of tokens of average sensitivity, added to the statistics of every entry."""
START_TOKENS = 4000.0
"""Weight of the usage counts from calibration, in tokens of one step."""
CANDIDATES = 256
"""Latents that each process offers as new values of a stage's dead entries."""


class LatentSensitivity(NamedTuple):
    """How the losses of a step depend on its quantized latents, both `[B, N, d]`."""

    gradient: Tensor
    """Of the loss by the quantized latents."""
    error: Tensor
    """Quantized latents minus latents."""


class CodebookState(nn.Module):
    """Moving averages behind one codebook, over the tokens of a step."""

    seen: Tensor
    sums: Tensor
    sensitivity: Tensor

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        seen = codebook.usage * (START_TOKENS / codebook.usage.sum())
        self.register_buffer("seen", seen)
        """Number of tokens that chose each entry, `[size]`."""
        self.register_buffer("sums", codebook.entries.detach() * seen[:, None])
        """Sum of their latents, `[size, dim]`."""
        # Equal gradients and errors, so importance starts at 1.
        self.register_buffer("sensitivity", torch.stack([seen, seen, seen]))
        """Sums over the tokens of each entry of the first stage, `[3, size]`: squared gradients and
        squared errors, both scaled to a mean of 1 in every step, and the number of tokens."""


class CodebookUpdater(nn.Module):
    """Updates the codebooks of a quantizer after every step.

    Args:
        quantizer: its codebooks are updated in place.
        config: how they learn.
        total: sums a tensor over all processes.
        gather: concatenates the tensors of all processes along the first dimension.
    """

    def __init__(
        self,
        quantizer: AlignedVQ,
        config: CodebookConfig,
        total: SumOverProcesses,
        gather: GatherOverProcesses,
    ) -> None:
        super().__init__()
        self._quantizer = [quantizer]  # in a list, so that it is not registered as a submodule
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
        sensitivity: LatentSensitivity | None,
        step: int,
        generator: torch.Generator,
    ) -> list[tuple[nn.Parameter, Tensor]]:
        """Add a step to the statistics and apply them; returns tables of entries and revived rows.

        Args:
            choices: of this process's images in the step, by residual stage.
            stages: residual stages that the step used, the first of which covered every token.
            sensitivity: of this process's images; None: importance stays as it is.
            step: its number within the training stage, from 0.
            generator: in the same state on every process.
        """
        quantizer = self._quantizer[0]
        groups = quantizer.config.num_groups
        due = self.config.revive_every and (step + 1) % self.config.revive_every == 0
        touched: list[tuple[nn.Parameter, Tensor]] = []
        for number in stages:
            choice = choices[number]
            covered = slice(None) if choice.mask is None else choice.mask
            inputs = choice.inputs[covered].reshape(-1, choice.inputs.shape[-1])  # [n, d]
            indices = choice.indices[covered].reshape(-1, groups)  # [n, G]
            parts = inputs.chunk(groups, dim=-1)
            for group, codebook in enumerate(quantizer.codebooks.stage(number).codebooks()):
                state = self.states[number * groups + group]
                assert isinstance(state, CodebookState)
                self._update_averages(codebook, state, indices[:, group], parts[group])
                # Importance belongs to entries of the first stage in use, which covers all tokens.
                if number == stages[0] and sensitivity is not None and self.config.sensitivity:
                    chosen = choice.indices[..., group]
                    self._update_importance(codebook, state, chosen, sensitivity)
                if due:
                    rows = self._revive(codebook, state, parts[group], generator)
                    if len(rows):
                        touched.append((codebook.entries, rows))
        return touched

    def _update_averages(
        self, codebook: Codebook, state: CodebookState, indices: Tensor, inputs: Tensor
    ) -> None:
        size = len(codebook.usage)
        counts = torch.bincount(indices, minlength=size).float()
        learns = self.config.update == "ema"
        sums = torch.zeros_like(state.sums)
        if learns:
            sums.index_add_(0, indices, inputs)
        # Counts and sums in one tensor need only one reduction over processes.
        packed = self._total(torch.cat([counts[:, None], sums], dim=1))
        decay = self.config.decay
        state.seen.mul_(decay).add_(packed[:, 0], alpha=1 - decay)
        # Smoothed, so that the code length of a rare entry stays affordable.
        codebook.usage.copy_(state.seen + 0.1 * state.seen.mean())
        if learns:
            state.sums.mul_(decay).add_(packed[:, 1:], alpha=1 - decay)
            # An entry without tokens has no mean and stays where it is.
            alive = state.seen > 1e-3
            codebook.entries[alive] = state.sums[alive] / state.seen[alive][:, None]

    def _update_importance(
        self,
        codebook: Codebook,
        state: CodebookState,
        indices: Tensor,
        sensitivity: LatentSensitivity,
    ) -> None:
        """Estimate the curvature of the losses per entry.

        Near a minimum the gradient is curvature times error, so their ratio does not depend on the
        size of the error.
        """
        flat = indices.reshape(-1)
        sums = torch.zeros_like(state.sensitivity)
        # Rows 0 and 1: squared norms of the gradients and errors of all tokens.
        for row, values in enumerate(sensitivity):
            sums[row].index_add_(0, flat, values.float().square().sum(-1).reshape(-1))
        sums[2] += torch.bincount(flat, minlength=sums.shape[1])
        sums = self._total(sums)
        # Scaled to a mean of 1: the scales of loss and error differ from step to step.
        means = sums[:2].sum(1, keepdim=True) / sums[2].sum()
        # No gradient or no error in this step leaves their ratio undefined.
        if not bool((means > 0).all()):
            return
        sums[:2] /= means
        state.sensitivity.mul_(self.config.decay).add_(sums, alpha=1 - self.config.decay)
        gradients, errors, tokens = state.sensitivity
        # Squared gradient over squared error is the squared curvature.
        importance = ((gradients + PRIOR_TOKENS) / (errors + PRIOR_TOKENS)).sqrt()
        # A mean of 1 over tokens, so that rate weights have the same scale at every step.
        importance = importance * tokens.sum() / (importance * tokens).sum()
        codebook.importance.copy_(importance.clamp(1 / SENSITIVITY_RANGE, SENSITIVITY_RANGE))

    def _revive(
        self, codebook: Codebook, state: CodebookState, inputs: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Move entries that are hardly ever used to latents of this step; returns their rows."""
        offered = torch.zeros(CANDIDATES, inputs.shape[1] + 1, device=inputs.device)
        # Evenly spaced rows, because latents of neighbouring tokens are similar.
        some = inputs[: CANDIDATES * (len(inputs) // CANDIDATES or 1)]
        some = some[:: max(1, len(some) // CANDIDATES)][:CANDIDATES]
        offered[: len(some), :-1] = some
        # Rows without this mark are padding: processes cover different numbers of tokens.
        offered[: len(some), -1] = 1
        candidates = self._gather(offered)
        candidates = candidates[candidates[:, -1] > 0, :-1]
        dead = state.seen < self.config.revive_below * state.seen.mean()
        count = min(int(dead.sum()), len(candidates))
        rows = dead.nonzero()[:count, 0]
        # On the CPU, where the generator gives every process the same permutation.
        chosen = torch.randperm(len(candidates), generator=generator)[:count]
        fresh = candidates[chosen.to(candidates.device)]
        codebook.entries[rows] = fresh
        # Half of the average usage to start from, or they would count as dead again.
        state.seen[rows] = 0.5 * state.seen.mean()
        state.sums[rows] = fresh * state.seen[rows][:, None]
        return rows

    def figures(self) -> dict[str, float]:
        """Perplexity and share of dead entries of every codebook, from the moving averages."""
        figures = {}
        for number, state in enumerate(self.states):
            assert isinstance(state, CodebookState)
            share = state.seen / state.seen.sum()
            perplexity = torch.exp2(-(share * (share + 1e-12).log2()).sum())
            dead = (state.seen < self.config.revive_below * state.seen.mean()).float().mean()
            figures[f"perplexity/{number}"] = perplexity.item()
            figures[f"dead/{number}"] = dead.item()
        return figures
