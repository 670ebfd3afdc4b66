"""The entropy tables of a bundle: static counts for range coding, and optional context tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from aligned_vq.bitstream.context.stage_tables import EntryClasses
from aligned_vq.bitstream.context.tables import TENSOR_PREFIX, ContextTables
from aligned_vq.bitstream.counts import RELEARN, Counts, categorical, check_counts, smooth
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import new_file
from aligned_vq.types import Encoded, QuantizerConfig, digest_of


@dataclass(frozen=True, eq=False)
class EntropyTables:
    """Counts of every index: uint32 `[G, codebook_size]` per stage, each 1 to 2**24.

    `contexts` are the tables of context coding; None: without context coding.

    Raises:
        ConfigError: an array has a wrong dtype or shape, or a count is out of range.
    """

    counts: tuple[Counts, ...]
    contexts: ContextTables | None = None
    _models: dict[tuple[int, int], Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check every array's dtype, shape and range."""
        for stage, counts in enumerate(self.counts):
            check_counts(f"counts of stage {stage}", counts, ("groups", "entries"))

    @classmethod
    def from_examples(
        cls,
        examples: Iterable[Encoded],
        config: QuantizerConfig,
        class_maps: Sequence[EntryClasses] | None = None,
    ) -> EntropyTables:
        """Tables learned from the indices of typical images; about 100 images are enough.

        Args:
            examples: encoded images; a stage that none of them has gets uniform counts.
            config: geometry of the codebooks.
            class_maps: per stage, the classes of similar entries; None: no context tables.

        Raises:
            ConfigError: an example does not fit the config.
        """
        shapes = _shapes(config)
        occurrences = [np.zeros(shape, np.int64) for shape in shapes]
        images = list(examples)  # iterated twice for context tables
        for encoded in images:
            if len(encoded.stages) > len(shapes):
                raise ConfigError(
                    f"expected examples of at most {len(shapes)} stages, "
                    f"got {len(encoded.stages)}; encode them with this quantizer"
                )
            for stage, total in zip(encoded.stages, occurrences, strict=False):
                _count(stage.indices, total)
        contexts = None
        if class_maps is not None:
            contexts = ContextTables.from_examples(images, config, class_maps)
        return cls(tuple(smooth(total) for total in occurrences), contexts)

    def check(self, config: QuantizerConfig) -> None:
        """Raise ConfigError unless there is a table for every codebook of the config."""
        shapes = [counts.shape for counts in self.counts]
        if shapes != _shapes(config):
            raise ConfigError(
                f"expected entropy tables of shapes {_shapes(config)}, got {shapes}; {RELEARN}"
            )
        if self.contexts is not None:
            self.contexts.check(config)

    def model(self, stage: int, group: int) -> Any:
        """The entropy model of one codebook, created on first use and cached."""
        key = (stage, group)
        if key not in self._models:
            self._models[key] = categorical(self.counts[stage][group])
        return self._models[key]

    def digest(self) -> bytes:
        """16 bytes that identify these tables."""
        shapes = repr([counts.shape for counts in self.counts]).encode()
        # A fixed byte order gives the same digest on any machine.
        counts = digest_of(b"counts", shapes, *(c.astype("<u4").tobytes() for c in self.counts))
        if self.contexts is None:
            return counts
        return digest_of(b"counts and contexts", counts, self.contexts.digest())

    def save(self, path: Path) -> None:
        """Write a safetensors file with a tensor `stage_00` per stage and the context tables."""
        tensors = {_name(s): np.ascontiguousarray(c) for s, c in enumerate(self.counts)}
        if self.contexts is not None:
            tensors |= self.contexts.tensors()
        with new_file(path) as temporary:
            save_file(tensors, temporary)

    @classmethod
    def load(cls, path: Path, config: QuantizerConfig) -> EntropyTables:
        """The tables in a file written by `save`.

        Raises:
            ConfigError: the file cannot be read or is not for this config.
        """
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"expected entropy tables in {path}, got: {error}; install the bundle again"
            ) from error
        context_tensors = {n: array for n, array in tensors.items() if n.startswith(TENSOR_PREFIX)}
        names = [_name(stage) for stage in range(config.num_quantizers)]
        if sorted(tensors.keys() - context_tensors.keys()) != names:
            raise ConfigError(
                f"expected tensors {names} in {path}, got {sorted(tensors)}; {RELEARN}"
            )
        contexts = None
        if context_tensors:
            contexts = ContextTables.from_tensors(context_tensors, config.num_quantizers)
        tables = cls(tuple(tensors[name] for name in names), contexts)
        tables.check(config)
        return tables


def _name(stage: int) -> str:
    return f"stage_{stage:02}"


def _shapes(config: QuantizerConfig) -> Sequence[tuple[int, int]]:
    return [(config.num_groups, size) for size in config.codebook_sizes]


def _count(indices: NDArray[np.int32], total: NDArray[np.int64]) -> None:
    """Add the occurrences of indices `[n, G]` to `total` `[G, size]`."""
    groups, size = total.shape
    outside = indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < size
    if indices.shape[1] != groups or outside:
        raise ConfigError(
            f"expected example indices [n, {groups}] below {size}, got {indices.shape}"
            f"{' out of range' if outside else ''}; encode them with this quantizer"
        )
    for group in range(groups):
        # `total[group][indices] += 1` would count repeated indices once.
        total[group] += np.bincount(indices[:, group], minlength=size)
