"""The quantizer as ONNX nodes, equivalent to `AlignedVQ.encode` for one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from aligned_vq.graph.builder import GraphBuilder
from aligned_vq.graph.terms import EVERYTHING
from aligned_vq.types import QuantizerConfig


class _Codebook(NamedTuple):
    """The value names of one group's codebook, of K entries of width w."""

    entries: str
    """`[K, w]`."""
    table: str
    """`[K, w + 1]`: the entries, and minus half of each one's code length in bits."""
    squares: str
    """`[K]`: squared norms of the entries."""
    importance: str
    """`[K]`."""


class _State(NamedTuple):
    """The values that one stage passes to the next."""

    remaining: str
    """`[N, d]`: the error remaining after the stages so far."""
    rate_weight: str
    """`[N, 1]`: the squared latent error that one bit must save, per token."""


class _Nearest(NamedTuple):
    """The nearest entries of all tokens, per group."""

    indices: list[str]
    """int64 `[N, 1]`."""
    costs: list[str]
    """`[N, 1]`: as `quantizer.codebook.Nearest.cost`."""


@dataclass(frozen=True)
class QuantizerWriter:
    """Adds a codec's edge half, named as in `edge.safetensors`, to a graph."""

    config: QuantizerConfig
    num_tokens: int

    def latents(self, graph: GraphBuilder, features: str) -> str:
        """Latents `[B, N, d]` of features `[B * N, D]`."""
        config = self.config
        tokens = graph.add("Reshape", features, graph.ints(-1, self.num_tokens, config.dim))
        centred = graph.add("Sub", tokens, graph.weight("codec.position_mean"))
        rows = graph.add("Reshape", centred, graph.ints(-1, config.dim))
        latents = graph.add("Gemm", rows, graph.weight("codec.project_down.weight"), transB=1)
        return graph.add("Reshape", latents, graph.ints(-1, self.num_tokens, config.codebook_dim))

    def stages(
        self, graph: GraphBuilder, latents: str, cover: str, rate_weight: str
    ) -> list[tuple[str, str]]:
        """Per stage: indices int64 `[N, G]` and covered tokens bool `[N]`, both empty if the stage
        is not in use.

        Args:
            graph: the graph.
            latents: of one image, `[1, N, d]`.
            cover: uint8 `[R]`: `NOTHING`, `BY_RATE` or `EVERYTHING`. The first stage in use, and at
                rate weight 0 every stage in use, must have `EVERYTHING`.
            rate_weight: float32 scalar.
        """
        rows = graph.ints(self.num_tokens, self.config.codebook_dim)
        token_weight = graph.add("Expand", rate_weight, graph.ints(self.num_tokens, 1))
        state = _State(graph.add("Reshape", latents, rows), token_weight)
        outputs = []
        for stage in range(self.config.num_quantizers):
            # A scalar index gives a scalar, as a condition must be.
            stage_cover = graph.add("Gather", cover, graph.constant(np.array(stage)))
            groups = range(self.config.num_groups)
            codebooks = [self._codebook(graph, stage, group) for group in groups]
            indices, covered, *next_state = graph.either(
                graph.add("Cast", stage_cover, to=TensorProto.BOOL),
                partial(self._used_stage, codebooks, stage_cover, state),
                partial(self._unused_stage, state),
            )
            state = _State(*next_state)
            outputs.append((indices, covered))
        return outputs

    def _codebook(self, graph: GraphBuilder, stage: int, group: int) -> _Codebook:
        name = f"codec.codebooks.stages.{stage}.groups.{group}"
        entries = graph.weight(f"{name}.entries")
        # As in `Codebook.length_bits`.
        usage = graph.add("Max", graph.weight(f"{name}.usage"), graph.floats(1e-3))
        probability = graph.add("Div", usage, graph.add("ReduceSum", usage))
        log_probability = graph.add("Log", probability)
        # Negative and half, because `_search` multiplies it by -2.
        minus_half_length = graph.add("Mul", log_probability, graph.floats(0.5 / math.log(2)))
        minus_half_length = graph.add("Unsqueeze", minus_half_length, graph.ints(1))
        return _Codebook(
            entries,
            graph.add("Concat", entries, minus_half_length, axis=1),
            graph.add("ReduceSumSquare", entries, graph.ints(1), keepdims=0),
            graph.weight(f"{name}.importance"),
        )

    def _unused_stage(self, state: _State, graph: GraphBuilder) -> Sequence[str]:
        no_indices = np.zeros((0, self.config.num_groups), np.int64)
        # The comparison gives an empty bool array.
        return graph.constant(no_indices), graph.constant(no_indices[:, 0] > 0), *state

    def _used_stage(
        self, codebooks: Sequence[_Codebook], cover: str, state: _State, graph: GraphBuilder
    ) -> Sequence[str]:
        all_covered = graph.add("Equal", cover, graph.constant(np.array(EVERYTHING, np.uint8)))
        # In the first stage only. At rate weight 0 later stages divide too, which changes nothing.
        (rate_weight,) = graph.either(
            all_covered,
            partial(_divide_by_importance, codebooks, state),
            lambda _: [state.rate_weight],
        )
        nearest = _search(graph, codebooks, state.remaining, rate_weight)
        # As in `ResidualCodebooks.encode`: `costs` lack |x|^2.
        worth_bits = graph.add("Less", graph.add("Sum", *nearest.costs), graph.floats(0.0))
        covered = graph.add("Or", worth_bits, all_covered)
        parts = [
            graph.add("GatherND", codebook.entries, indices)  # [N, w]
            for codebook, indices in zip(codebooks, nearest.indices, strict=True)
        ]
        entries = graph.add("Concat", *parts, axis=1)
        entries = graph.add("Where", covered, entries, graph.floats(0.0))
        return (
            graph.add("Concat", *nearest.indices, axis=1),
            graph.add("Squeeze", covered, graph.ints(1)),
            graph.add("Sub", state.remaining, entries),
            rate_weight,
        )


def _divide_by_importance(
    codebooks: Sequence[_Codebook], state: _State, graph: GraphBuilder
) -> Sequence[str]:
    """The rate weight over each token's importance, see `ResidualCodebooks.encode`."""
    # A zero of the shape `[N, 1]`.
    zero = graph.add("Mul", state.rate_weight, graph.floats(0.0))
    nearest = _search(graph, codebooks, state.remaining, zero)
    importance = [
        graph.add("Gather", codebook.importance, indices)
        for codebook, indices in zip(codebooks, nearest.indices, strict=True)
    ]
    return [graph.add("Div", state.rate_weight, graph.add("Mean", *importance))]


def _search(
    graph: GraphBuilder, codebooks: Sequence[_Codebook], remaining: str, rate_weight: str
) -> _Nearest:
    """`argmin(|c|^2 - 2 x.c + rate_weight * bits)`, the first of equals.

    Rate weight and code lengths are one more column of the matrix product.
    """
    count = len(codebooks)
    parts = graph.add_many("Split", count, remaining, axis=1, num_outputs=count)
    nearest = _Nearest([], [])
    for codebook, part in zip(codebooks, parts, strict=True):
        rows = graph.add("Concat", part, rate_weight, axis=1)
        scores = graph.add("Gemm", rows, codebook.table, codebook.squares, alpha=-2.0, transB=1)
        indices = graph.add("ArgMin", scores, axis=1)
        nearest.indices.append(indices)
        nearest.costs.append(graph.add("GatherElements", scores, indices, axis=1))
    return nearest
