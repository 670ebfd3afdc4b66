"""How often each index occurs beside what: the context model that both ends hold.

An index is coded in two steps, a coarse symbol under the counts of its context and then the entry
among those of the symbol, so that large codebooks need no large tables. `context_rules` tells what
makes a context.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.bitstream.context.learning import learn_stages
from aligned_vq.bitstream.context.rules import Conditioning, StageRules, stage_rules, walk
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
        ConfigError: there is no stage, the stages differ in groups, or counts are not for the
            contexts that a stage's features make.
    """

    stages: tuple[StageContexts, ...]

    def __post_init__(self) -> None:
        """Holds the counts of every stage to the contexts its features make."""
        groups = {len(stage.symbol_of) for stage in self.stages}
        if len(groups) != 1:
            raise ConfigError(
                f"expected context tables of one number of groups, got {sorted(groups)}; {RELEARN}"
            )
        for stage, rule in zip(self.stages, self.rules, strict=True):
            stage.check_shapes(rule.indices.num_contexts, rule.mask.num_contexts)

    @cached_property
    def rules(self) -> list[StageRules]:
        """What makes a context, per stage."""
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
        """Tables learned from the indices of typical images, some hundreds of them.

        Args:
            examples: images as the codec encodes them; masks and missing stages included.
            config: geometry of the codebooks.
            class_maps: per stage, which entries are alike.
            conditioning: "static" has one context, "position" tells class token, border and inside
                apart, "neighbours" conditions on what was already said around and of the token.

        Raises:
            ConfigError: an example or a map does not fit the config, or there are too many classes.
        """
        return cls(learn_stages(list(examples), config, class_maps, conditioning))

    def check(self, config: QuantizerConfig) -> None:
        """Raises ConfigError unless there is a table for every codebook of the config."""
        expected = [(config.num_groups, size) for size in config.codebook_sizes]
        found = [stage.symbol_of.shape for stage in self.stages]
        if found != expected:
            raise ConfigError(
                f"expected context tables of shapes {expected}, got {found}; {RELEARN}"
            )

    def code_bits(self, encoded: Encoded) -> float:
        """Bits of the indices and masks of an `Encoded`, were the coder ideal.

        A body is up to two words of the range coder longer, and has the statistics besides.
        """
        bits = 0.0
        walked = walk(encoded, self.rules)
        for tables, stage, at in zip(self.stages, encoded.stages, walked, strict=False):
            if stage.mask is not None:
                empty = tables.empty[[int(at.mask is None)]]
                bits += ideal_bits(empty, tables.empty.sum())
            if stage.mask is not None and at.mask is not None:
                rows = tables.mask[at.mask]
                bits += ideal_bits(_picked(rows, stage.mask), rows.sum(axis=1))
            for group, entries in enumerate(stage.indices.T):
                symbol_of, fine = tables.symbol_of[group], tables.fine[group]
                symbols = symbol_of[entries]
                rows = tables.coarse[group][at.indices[:, group]]
                totals = np.bincount(symbol_of, weights=fine)
                bits += ideal_bits(_picked(rows, symbols), rows.sum(axis=1))
                bits += ideal_bits(fine[entries], totals[symbols])
        return bits

    def digest(self) -> bytes:
        """16 bytes that name these tables."""
        tensors = self.tensors()
        heads = repr([(name, array.dtype.str[1:], array.shape) for name, array in tensors.items()])
        little_endian = (a.astype(a.dtype.newbyteorder("<")).tobytes() for a in tensors.values())
        return digest_of(b"contexts", heads.encode(), *little_endian)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All arrays, named `context_00_coarse` and so on."""
        return {
            _name(number, name): np.ascontiguousarray(getattr(stage, name))
            for number, stage in enumerate(self.stages)
            for name in _FIELDS
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], num_stages: int) -> ContextTables:
        """The tables that `tensors` came from.

        Raises:
            ConfigError: an array is missing, unknown, or not what it must be.
        """
        expected = {_name(number, name) for number in range(num_stages) for name in _FIELDS}
        if differing := sorted(expected ^ set(tensors)):
            raise ConfigError(
                f"expected {len(expected)} context tensors for {num_stages} stages, "
                f"got others or too few: {', '.join(differing)}; {RELEARN}"
            )
        return cls(
            tuple(
                StageContexts(**{name: tensors[_name(number, name)] for name in _FIELDS})
                for number in range(num_stages)
            )
        )


def _name(stage: int, field: str) -> str:
    return f"{TENSOR_PREFIX}{stage:02}_{field}"


def _picked(rows: NDArray[np.uint32], symbols: NDArray[Any]) -> NDArray[np.uint32]:
    """The entry `[n]` of every row `[n, S]` that its symbol names."""
    picked: NDArray[np.uint32] = rows[np.arange(len(rows)), symbols.astype(np.int64)]
    return picked
