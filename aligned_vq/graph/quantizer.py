"""The quantizer as ONNX nodes: what `AlignedVQ.encode` computes for one image, stage by stage."""

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


class _Book(NamedTuple):
    """One group's codebook in one stage."""

    entries: str
    """`[size, w]`."""
    table: str
    """`[size, w + 1]`: entries, and beside each minus half its code length in bits."""
    squares: str
    """`[size]`: of the entries' lengths."""
    importance: str
    """`[size]`."""


class _State(NamedTuple):
    """What one stage hands to the next."""

    remaining: str
    """`[N, d]`: what the stages so far left over."""
    price: str
    """`[N, 1]`: the squared latent error that one bit must save, on each token."""


class _Nearest(NamedTuple):
    """Group by group, of all tokens."""

    indices: list[str]
    """int64 `[N, 1]`."""
    costs: list[str]
    """`[N, 1]`: squared distance less that from the origin, plus what the bits cost."""


@dataclass(frozen=True)
class QuantizerWriter:
    """Adds a codec's edge side, named as in `edge.safetensors`, to a graph."""

    config: QuantizerConfig
    num_tokens: int

    def latents(self, graph: GraphBuilder, features: str) -> str:
        """Latents `[B, N, d]` of features, rows `[B * N, D]`."""
        config = self.config
        tokens = graph.add("Reshape", features, graph.ints(-1, self.num_tokens, config.dim))
        centred = graph.add("Sub", tokens, graph.weight("codec.position_mean"))
        rows = graph.add("Reshape", centred, graph.ints(-1, config.dim))
        latents = graph.add("Gemm", rows, graph.weight("codec.project_down.weight"), transB=1)
        return graph.add("Reshape", latents, graph.ints(-1, self.num_tokens, config.codebook_dim))

    def stages(
        self, graph: GraphBuilder, latents: str, cover: str, rate_weight: str
    ) -> list[tuple[str, str]]:
        """Per stage: indices int64 `[N, G]` and covered tokens bool `[N]`; no rows where a stage
        covers nothing.

        Args:
            graph: what they are added to.
            latents: of one image, `[1, N, d]`.
            cover: uint8 `[R]`: `NOTHING`, `WORTHY` or `EVERYTHING`, the last for the first stage
                used, and at rate weight 0 for all that are used.
            rate_weight: float32 scalar.
        """
        rows = graph.ints(self.num_tokens, self.config.codebook_dim)
        price = graph.add("Expand", rate_weight, graph.ints(self.num_tokens, 1))
        state = _State(graph.add("Reshape", latents, rows), price)
        said = []
        for stage in range(self.config.num_quantizers):
            own = graph.add("Gather", cover, graph.constant(np.array(stage)))
            books = [self._book(graph, stage, group) for group in range(self.config.num_groups)]
            indices, covered, *rest = graph.either(
                graph.add("Cast", own, to=TensorProto.BOOL),
                partial(self._used, books, own, state),
                partial(self._left_out, state),
            )
            state = _State(*rest)
            said.append((indices, covered))
        return said

    def _book(self, graph: GraphBuilder, stage: int, group: int) -> _Book:
        name = f"codec.codebooks.stages.{stage}.groups.{group}"
        entries = graph.weight(f"{name}.entries")
        usage = graph.add("Max", graph.weight(f"{name}.usage"), graph.floats(1e-3))
        share = graph.add("Div", usage, graph.add("ReduceSum", usage))
        half_bits = graph.add("Mul", graph.add("Log", share), graph.floats(0.5 / math.log(2)))
        half_bits = graph.add("Unsqueeze", half_bits, graph.ints(1))
        return _Book(
            entries,
            graph.add("Concat", entries, half_bits, axis=1),
            graph.add("ReduceSumSquare", entries, graph.ints(1), keepdims=0),
            graph.weight(f"{name}.importance"),
        )

    def _left_out(self, state: _State, graph: GraphBuilder) -> Sequence[str]:
        nothing = np.zeros((0, self.config.num_groups), np.int64)
        return graph.constant(nothing), graph.constant(nothing[:, 0] > 0), *state

    def _used(
        self, books: Sequence[_Book], cover: str, state: _State, graph: GraphBuilder
    ) -> Sequence[str]:
        everything = graph.add("Equal", cover, graph.constant(np.array(EVERYTHING, np.uint8)))
        # What a token is worth is told by its nearest entry, whatever is sent in the end.
        (price,) = graph.either(everything, partial(_worth, books, state), lambda _: [state.price])
        found = _search(graph, books, state.remaining, price)
        saves = graph.add("Less", graph.add("Sum", *found.costs), graph.floats(0.0))
        covered = graph.add("Or", saves, everything)
        chosen = [
            graph.add("GatherND", book.entries, own)
            for book, own in zip(books, found.indices, strict=True)
        ]
        step = graph.add("Where", covered, graph.add("Concat", *chosen, axis=1), graph.floats(0.0))
        return (
            graph.add("Concat", *found.indices, axis=1),
            graph.add("Squeeze", covered, graph.ints(1)),
            graph.add("Sub", state.remaining, step),
            price,
        )


def _worth(books: Sequence[_Book], state: _State, graph: GraphBuilder) -> Sequence[str]:
    """The price, over what squared errors matter on tokens with the nearest entry's importance."""
    free = graph.add("Mul", state.price, graph.floats(0.0))
    found = _search(graph, books, state.remaining, free)
    importance = [
        graph.add("Gather", book.importance, own)
        for book, own in zip(books, found.indices, strict=True)
    ]
    return [graph.add("Div", state.price, graph.add("Mean", *importance))]


def _search(graph: GraphBuilder, books: Sequence[_Book], remaining: str, price: str) -> _Nearest:
    """`argmin(|c|^2 - 2 x.c + price * bits)`, the first of equals: price and bits are one more
    column of the matrix product."""
    parts = graph.add_many("Split", len(books), remaining, axis=1, num_outputs=len(books))
    found = _Nearest([], [])
    for book, part in zip(books, parts, strict=True):
        rows = graph.add("Concat", part, price, axis=1)
        scores = graph.add("Gemm", rows, book.table, book.squares, alpha=-2.0, transB=1)
        nearest = graph.add("ArgMin", scores, axis=1)
        found.indices.append(nearest)
        found.costs.append(graph.add("GatherElements", scores, nearest, axis=1))
    return found
