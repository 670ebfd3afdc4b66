"""The context tables of one residual stage, and what coding with them needs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aligned_vq.bitstream.context.rules import FEATURES
from aligned_vq.bitstream.counts import RELEARN, Counts, Models, check_counts
from aligned_vq.errors import ConfigError

MAX_SYMBOLS = 64


class EntryClasses(NamedTuple):
    """How the entries of a stage's codebooks are alike.

    `symbol_of` uint16 `[G, K]` is what is coded first of an entry, 0 to 63; which entry of those
    with that symbol follows. With up to 64 entries, best make each its own symbol. `class_of` uint8
    `[G, K]` is what later symbols are conditioned on. Numbers that no entry has do no harm.
    """

    symbol_of: NDArray[np.uint16]
    class_of: NDArray[np.uint8]

    def check(self) -> None:
        """Raises ConfigError unless dtypes, shapes and range are as told."""
        symbols, classes = self
        if symbols.dtype != np.uint16 or classes.dtype != np.uint8:
            raise ConfigError(
                f"expected symbols uint16 and classes uint8, got {symbols.dtype} and "
                f"{classes.dtype}; {RELEARN}"
            )
        if symbols.ndim != 2 or 0 in symbols.shape or symbols.shape != classes.shape:
            raise ConfigError(
                f"expected symbols and classes [groups, entries], got {symbols.shape} and "
                f"{classes.shape}; {RELEARN}"
            )
        if self.num_symbols > MAX_SYMBOLS:
            raise ConfigError(
                f"expected symbols below {MAX_SYMBOLS}, got {self.num_symbols - 1}; {RELEARN}"
            )

    @property
    def num_symbols(self) -> int:
        """Symbols S, two at least because a model needs that many."""
        return max(2, int(self.symbol_of.max()) + 1)


class GroupCoder(NamedTuple):
    """One codebook's tables, arranged for coding.

    Entry `members[symbol_of[i]][rank_of[i]]` is i and says `said_of[i]`, 1 + its class, to the
    contexts around it. `fine` has a model for every symbol with more than one entry.
    """

    symbol_of: NDArray[np.uint16]
    rank_of: NDArray[np.int64]
    members: list[list[int]]
    said_of: list[int]
    coarse: Models
    fine: Models


@dataclass(frozen=True, eq=False)
class StageContexts:
    """The tables of one stage with G codebooks of K entries and S symbols.

    `features` uint8 `[2, F]` tells which of FEATURES are in use, for indices and for the mask.
    `symbol_of` and `class_of` are as in EntryClasses. The rest are uint32 counts of 1 to MAX_COUNT:
    `coarse` `[G, contexts, S]` of a symbol, `fine` `[G, K]` of an entry within its symbol, `mask`
    `[contexts, 2]` of a mask bit, `empty` `[2]` of a mask that covers something, or nothing.

    Raises:
        ConfigError: an array has another dtype or shape, or a number is out of range.
    """

    features: NDArray[np.uint8]
    symbol_of: NDArray[np.uint16]
    class_of: NDArray[np.uint8]
    coarse: Counts
    fine: Counts
    mask: Counts
    empty: Counts

    def __post_init__(self) -> None:
        """Holds every array to its dtype, shape and range."""
        features = self.features
        if features.dtype != np.uint8 or features.shape != (2, len(FEATURES)) or features.max() > 1:
            raise ConfigError(
                f"features must be uint8 [2, {len(FEATURES)}] of 0 and 1, "
                f"got {features.dtype} {features.shape}; {RELEARN}"
            )
        self.entry_classes.check()
        check_counts("coarse counts", self.coarse, ("groups", "contexts", "symbols"))
        check_counts("fine counts", self.fine, ("groups", "entries"))
        check_counts("mask counts", self.mask, ("contexts", "2"))
        check_counts("empty counts", self.empty, ("2",))

    @property
    def entry_classes(self) -> EntryClasses:
        """The symbols and classes of the entries."""
        return EntryClasses(self.symbol_of, self.class_of)

    @cached_property
    def groups(self) -> tuple[GroupCoder, ...]:
        """What coding an index needs, per group."""
        return tuple(self._group(group) for group in range(len(self.symbol_of)))

    @cached_property
    def mask_models(self) -> Models:
        """The model of a mask bit, by context."""
        return Models(self.mask)

    @cached_property
    def empty_model(self) -> Models:
        """Under 0, the model of whether a mask covers nothing."""
        return Models([self.empty])

    def check_shapes(self, contexts: int, mask_contexts: int) -> None:
        """Raises ConfigError unless the counts are for these numbers of contexts."""
        groups, entries = self.symbol_of.shape
        expected = {
            "coarse": (groups, contexts, self.entry_classes.num_symbols),
            "fine": (groups, entries),
            "mask": (mask_contexts, 2),
            "empty": (2,),
        }
        found = {name: getattr(self, name).shape for name in expected}
        if found != expected:
            raise ConfigError(f"expected counts of shapes {expected}, got {found}; {RELEARN}")

    def tensors(self) -> dict[str, NDArray[np.unsignedinteger]]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _group(self, group: int) -> GroupCoder:
        symbol_of = self.symbol_of[group]
        members = [np.flatnonzero(symbol_of == s) for s in range(self.entry_classes.num_symbols)]
        rank_of = np.empty(symbol_of.size, np.int64)
        for entries in members:
            rank_of[entries] = np.arange(entries.size)
        return GroupCoder(
            symbol_of,
            rank_of,
            [entries.tolist() for entries in members],
            [1 + entry_class for entry_class in self.class_of[group].tolist()],
            Models(self.coarse[group]),
            Models([self.fine[group][entries] for entries in members]),
        )
