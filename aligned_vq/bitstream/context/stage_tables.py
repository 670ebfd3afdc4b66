"""The context tables of one residual stage, and models made from them."""

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
    """The coarse symbol and the class of every entry of a stage's codebooks.

    Similar entries share a symbol and a class; numbers may be unused.
    """

    symbol_of: NDArray[np.uint16]
    """`[G, K]`, 0 to 63: coded first, followed by the entry's rank among those of its symbol. A
    codebook of up to 64 entries is coded best with a distinct symbol for each."""
    class_of: NDArray[np.uint8]
    """`[G, K]`: what the contexts of later symbols depend on."""

    def check(self) -> None:
        """Raise ConfigError unless dtypes, shapes and ranges are as documented."""
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
        """Number of symbols S, at least 2, because a model needs two."""
        return max(2, int(self.symbol_of.max()) + 1)


class GroupCoder(NamedTuple):
    """One codebook's tables, arranged for coding; `members[symbol_of[i]][rank_of[i]]` is i."""

    symbol_of: NDArray[np.uint16]
    rank_of: NDArray[np.int64]
    """Rank of every entry among those of its symbol, `[K]`."""
    members: list[list[int]]
    """The entries of every symbol."""
    label_of: list[int]
    """1 + class of every entry: its label in the contexts of neighbours."""
    coarse: Models
    """Models of the symbol, by context."""
    fine: Models
    """Models of the rank, by symbol; only for symbols of two or more entries."""


@dataclass(frozen=True, eq=False)
class StageContexts:
    """The tables of one stage with G codebooks of K entries and S symbols.

    Counts are 1 to MAX_COUNT. `symbol_of` and `class_of` are those of EntryClasses.

    Raises:
        ConfigError: an array has a wrong dtype or shape, or a value is out of range.
    """

    features: NDArray[np.uint8]
    """Flags `[2, F]` of the FEATURES in use: for indices, for the mask."""
    symbol_of: NDArray[np.uint16]
    class_of: NDArray[np.uint8]
    coarse: Counts
    """`[G, contexts, S]`, of symbols."""
    fine: Counts
    """`[G, K]`, of entries."""
    mask: Counts
    """`[contexts, 2]`, of mask bits."""
    empty: Counts
    """`[2]`, of masks that cover a token, and of empty masks."""

    def __post_init__(self) -> None:
        """Check every array's dtype, shape and range."""
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
        """The entries' symbols and classes."""
        return EntryClasses(self.symbol_of, self.class_of)

    @cached_property
    def groups(self) -> tuple[GroupCoder, ...]:
        """The tables of each group's codebook."""
        return tuple(self._group_coder(group) for group in range(len(self.symbol_of)))

    @cached_property
    def mask_models(self) -> Models:
        """Models of a mask bit, by context."""
        return Models(self.mask)

    @cached_property
    def empty_model(self) -> Models:
        """Under key 0, the model of whether a mask is empty."""
        return Models([self.empty])

    def check_shapes(self, contexts: int, mask_contexts: int) -> None:
        """Raise ConfigError unless the counts are for these numbers of contexts."""
        groups, entries = self.symbol_of.shape
        expected = {
            "coarse": (groups, contexts, self.entry_classes.num_symbols),
            "fine": (groups, entries),
            "mask": (mask_contexts, 2),
            "empty": (2,),
        }
        shapes = {name: getattr(self, name).shape for name in expected}
        if shapes != expected:
            raise ConfigError(f"expected counts of shapes {expected}, got {shapes}; {RELEARN}")

    def tensors(self) -> dict[str, NDArray[np.unsignedinteger]]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _group_coder(self, group: int) -> GroupCoder:
        symbol_of = self.symbol_of[group]
        # In ascending order, so that encoder and decoder derive the same ranks.
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
            # Models are created on use, so symbols of fewer than two entries get none.
            Models([self.fine[group][entries] for entries in members]),
        )
