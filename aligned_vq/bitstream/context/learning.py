"""Learning of context tables from example images, for `ContextTables.from_examples`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aligned_vq.bitstream.context.rules import (
    FEATURES,
    Conditioning,
    ContextNumbers,
    Feature,
    StageRules,
    iter_contexts,
    stage_rules,
)
from aligned_vq.bitstream.context.stage_tables import EntryClasses, StageContexts
from aligned_vq.bitstream.counts import RELEARN, blend, smooth
from aligned_vq.errors import ConfigError
from aligned_vq.types import Encoded, QuantizerConfig, StageIndices

# 16 MiB of counts in one stage; the counts of more contexts would be too sparse to be learned.
MAX_CELLS = 1 << 22
# A stage that covers more than this fraction of the tokens is dense.
_DENSE_FRACTION = 0.5
_ENCODE_AGAIN = "encode them with this quantizer"

_MASK_FEATURES: dict[Conditioning, tuple[Feature, ...]] = {
    "static": (),
    "position": ("region",),
    "neighbours": ("class_token", "latest", "previous", "left", "upper"),
}
# Index features with "neighbours". No earlier stage covers most tokens of the first dense stage, so
# it depends on two neighbours; the other stages depend on the token's latest label and one.
_FIRST_DENSE_FEATURES: tuple[Feature, ...] = ("class_token", "left", "upper")
_OTHER_FEATURES: tuple[Feature, ...] = ("class_token", "latest", "left")


def learn_stages(
    examples: Sequence[Encoded],
    config: QuantizerConfig,
    class_maps: Sequence[EntryClasses],
    conditioning: Conditioning,
) -> tuple[StageContexts, ...]:
    """The context tables of every stage of a config.

    Raises:
        ConfigError: an example or a class map does not fit the config, or a stage needs more than
            MAX_CELLS counts.
    """
    _check_maps(class_maps, config)
    if conditioning not in _MASK_FEATURES:
        raise ConfigError(
            f"conditioning must be one of {', '.join(_MASK_FEATURES)}, got {conditioning!r}"
        )
    for encoded in examples:
        _check_example(encoded, config)
    features = _choose_features(examples, config.num_quantizers, conditioning)
    rules = stage_rules(features, [classes.class_of for classes in class_maps])
    counters = [
        _StageCounter(rule, classes) for rule, classes in zip(rules, class_maps, strict=True)
    ]
    for encoded in examples:
        for counter, stage, contexts in zip(
            counters, encoded.stages, iter_contexts(encoded, rules), strict=False
        ):
            counter.add(stage, contexts)
    return tuple(counter.tables(flags) for counter, flags in zip(counters, features, strict=True))


class _StageCounter:
    """Accumulates the occurrences of one stage's symbols in each context."""

    def __init__(self, rule: StageRules, classes: EntryClasses) -> None:
        groups, entries = classes.symbol_of.shape
        shape = (groups, rule.indices.num_contexts, classes.num_symbols)
        cells = max(groups * shape[1] * shape[2], 2 * rule.mask.num_contexts)
        if cells > MAX_CELLS:
            raise ConfigError(
                f"expected at most {MAX_CELLS} counts in a stage, got {cells}; use fewer classes"
            )
        self._classes = classes
        self._coarse = np.zeros(shape, np.int64)
        self._fine = np.zeros((groups, entries), np.int64)
        self._mask = np.zeros((rule.mask.num_contexts, 2), np.int64)
        self._empty = np.zeros(2, np.int64)

    def add(self, stage: StageIndices, contexts: ContextNumbers) -> None:
        for group, entries in enumerate(stage.indices.T):
            symbols = self._classes.symbol_of[group, entries]
            # `+=` on an index array would count repeated pairs once.
            np.add.at(self._coarse[group], (contexts.indices[:, group], symbols), 1)
            np.add.at(self._fine[group], entries, 1)
        if stage.mask is not None:
            self._empty[int(contexts.mask is None)] += 1
            if contexts.mask is not None:
                np.add.at(self._mask, (contexts.mask, stage.mask.astype(np.int64)), 1)

    def tables(self, features: NDArray[np.uint8]) -> StageContexts:
        return StageContexts(
            features=features,
            symbol_of=self._classes.symbol_of,
            class_of=self._classes.class_of,
            coarse=np.stack([blend(group) for group in self._coarse]),
            fine=smooth(self._fine),
            mask=blend(self._mask),
            empty=smooth(self._empty),
        )


def _choose_features(
    examples: Sequence[Encoded], num_stages: int, conditioning: Conditioning
) -> list[NDArray[np.uint8]]:
    """Per stage, flags `[2, F]` of the FEATURES in use: for indices, for the mask."""
    covered, tokens = np.zeros(num_stages), np.zeros(num_stages)
    for encoded in examples:
        for number, stage in enumerate(encoded.stages):
            covered[number] += len(stage.indices)
            tokens[number] += encoded.num_tokens
    # A stage without examples is not dense: 0 > 0 is false.
    dense = np.flatnonzero(covered > _DENSE_FRACTION * tokens)
    flags_by_stage = []
    for number in range(num_stages):
        index_features = _MASK_FEATURES[conditioning]
        if conditioning == "neighbours":
            is_first = dense.size > 0 and number == dense[0]
            index_features = _FIRST_DENSE_FEATURES if is_first else _OTHER_FEATURES
        flags = [
            [feature in features for feature in FEATURES]
            for features in (index_features, _MASK_FEATURES[conditioning])
        ]
        flags_by_stage.append(np.array(flags, np.uint8))
    return flags_by_stage


def _check_maps(class_maps: Sequence[EntryClasses], config: QuantizerConfig) -> None:
    expected = [(config.num_groups, size) for size in config.codebook_sizes]
    shapes = [classes.symbol_of.shape for classes in class_maps]
    if shapes != expected:
        raise ConfigError(f"expected class maps of shapes {expected}, got {shapes}; {RELEARN}")
    for classes in class_maps:
        classes.check()


def _check_example(encoded: Encoded, config: QuantizerConfig) -> None:
    if len(encoded.stages) > config.num_quantizers:
        raise ConfigError(
            f"expected examples of at most {config.num_quantizers} stages, "
            f"got {len(encoded.stages)}; {_ENCODE_AGAIN}"
        )
    for stage, size in zip(encoded.stages, config.codebook_sizes, strict=False):
        indices, tokens = stage.indices, encoded.num_tokens
        covered = (len(indices),) if stage.mask is None else stage.mask.shape
        outside = indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < size
        if indices.shape[1] != config.num_groups or covered != (tokens,) or outside:
            raise ConfigError(
                f"expected example indices [n, {config.num_groups}] below {size} of {tokens} "
                f"tokens, got {indices.shape}{' out of range' if outside else ''}; {_ENCODE_AGAIN}"
            )
