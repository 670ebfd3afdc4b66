"""The context tables of all stages.

An index is coded in two steps: a coarse symbol under its context (see `rules`), then the entry's
rank among those of the symbol, independent of the context. Tables stay small for large codebooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.bitstream.context.learning import learn_stages
from aligned_vq.bitstream.context.rules import Conditioning, StageRules, iter_contexts, stage_rules
from aligned_vq.bitstream.context.stage_tables import EntryClasses, StageContexts
from aligned_vq.bitstream.counts import RELEARN, ideal_bits
from aligned_vq.errors import ConfigError
from aligned_vq.types import Encoded, QuantizerConfig, digest_of

TENSOR_PREFIX = "context_"
_FIELDS = tuple(field.name for field in fields(StageContexts))


@dataclass(frozen=True, eq=False)
class ContextTables:
    """The context tables of every stage, in order.

    Raises:
        ConfigError: there is no stage, stages differ in their number of groups, or the shapes of
            counts do not match the contexts of a stage's features.
    """

    stages: tuple[StageContexts, ...]

    def __post_init__(self) -> None:
        """Check the shapes of all counts."""
        groups = {len(stage.symbol_of) for stage in self.stages}
        if len(groups) != 1:
            raise ConfigError(
                f"expected context tables of one number of groups, got {sorted(groups)}; {RELEARN}"
            )
        for stage, rule in zip(self.stages, self.rules, strict=True):
            stage.check_shapes(rule.indices.num_contexts, rule.mask.num_contexts)

    @cached_property
    def rules(self) -> list[StageRules]:
        """The context rules of every stage."""
        return stage_rules(
            [stage.features for stage in self.stages], [stage.class_of for stage in self.stages]
        )

    @classmethod
    def from_examples(
        cls,
        examples: Iterable[Encoded],
        config: QuantizerConfig,
        class_maps: Sequence[EntryClasses],
        conditioning: Conditioning = "neighbours",
    ) -> ContextTables:
        """Tables learned from the indices of typical images, at least some hundreds.

        Args:
            examples: encoded images; stages may be masked or missing.
            config: geometry of the codebooks.
            class_maps: per stage, the symbols and classes of entries.
            conditioning: "static" is a single context; "position" distinguishes class token, border
                and interior; "neighbours" conditions on decoded neighbours and earlier stages.

        Raises:
            ConfigError: an example or a map does not fit the config, or there are too many classes.
        """
        return cls(learn_stages(list(examples), config, class_maps, conditioning))

    def check(self, config: QuantizerConfig) -> None:
        """Raise ConfigError unless there is a table for every codebook of the config."""
        expected = [(config.num_groups, size) for size in config.codebook_sizes]
        shapes = [stage.symbol_of.shape for stage in self.stages]
        if shapes != expected:
            raise ConfigError(
                f"expected context tables of shapes {expected}, got {shapes}; {RELEARN}"
            )

    def code_bits(self, encoded: Encoded) -> float:
        """Bits of the indices and masks of an encoded image under an ideal entropy coder.

        A body is at most two words of the range coder longer, plus statistics.
        """
        bits = 0.0
        contexts_by_stage = iter_contexts(encoded, self.rules)
        for tables, stage, contexts in zip(
            self.stages, encoded.stages, contexts_by_stage, strict=False
        ):
            if stage.mask is not None:
                empty = tables.empty[[int(contexts.mask is None)]]  # [1]
                bits += ideal_bits(empty, tables.empty.sum())
            if stage.mask is not None and contexts.mask is not None:
                rows = tables.mask[contexts.mask]  # [N, 2]
                bits += ideal_bits(_column(rows, stage.mask), rows.sum(axis=1))
            for group, entries in enumerate(stage.indices.T):
                symbol_of, fine = tables.symbol_of[group], tables.fine[group]
                symbols = symbol_of[entries]
                rows = tables.coarse[group][contexts.indices[:, group]]  # [n, S]
                totals = np.bincount(symbol_of, weights=fine)  # [S]
                bits += ideal_bits(_column(rows, symbols), rows.sum(axis=1))
                bits += ideal_bits(fine[entries], totals[symbols])
        return bits

    def digest(self) -> bytes:
        """16 bytes that identify these tables."""
        tensors = self.tensors()
        # Without the character for byte order, which differs between machines.
        header = repr([(name, array.dtype.str[1:], array.shape) for name, array in tensors.items()])
        little_endian = (a.astype(a.dtype.newbyteorder("<")).tobytes() for a in tensors.values())
        return digest_of(b"contexts", header.encode(), *little_endian)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All arrays, named `context_00_coarse` and so on."""
        return {
            # safetensors stores an array's memory as it is.
            _name(number, name): np.ascontiguousarray(getattr(stage, name))
            for number, stage in enumerate(self.stages)
            for name in _FIELDS
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], num_stages: int) -> ContextTables:
        """The tables whose `tensors` these are.

        Raises:
            ConfigError: an array is missing, unknown or invalid.
        """
        expected = {_name(number, name) for number in range(num_stages) for name in _FIELDS}
        if differing := sorted(expected ^ set(tensors)):  # missing or unknown
            raise ConfigError(
                f"expected {len(expected)} context tensors for {num_stages} stages, "
                f"got missing or unknown ones: {', '.join(differing)}; {RELEARN}"
            )
        return cls(
            tuple(
                StageContexts(**{name: tensors[_name(number, name)] for name in _FIELDS})
                for number in range(num_stages)
            )
        )


def _name(stage: int, field: str) -> str:
    return f"{TENSOR_PREFIX}{stage:02}_{field}"


def _column(rows: NDArray[np.uint32], symbols: NDArray[Any]) -> NDArray[np.uint32]:
    """The count `[n]` of each row's symbol: rows `[n, S]`, symbols `[n]`."""
    counts: NDArray[np.uint32] = rows[np.arange(len(rows)), symbols.astype(np.int64)]
    return counts
