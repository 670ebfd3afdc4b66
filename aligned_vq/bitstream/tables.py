"""How often each index occurs, as integers: the entropy model that both ends hold.

Only integers are stored and hashed, and every probability is derived from them exactly, so two
machines with the same digest code the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from aligned_vq.errors import ConfigError
from aligned_vq.types import Encoded, QuantizerConfig, digest_of

Counts = NDArray[np.uint32]

MAX_COUNT = 1 << 24
_RELEARN = "learn the tables again with this quantizer"


@dataclass(frozen=True, eq=False)
class EntropyTables:
    """Per stage the uint32 counts `[G, codebook_size]`, every one 1 to 2**24.

    Raises:
        ConfigError: an array has another dtype or shape, or a count is out of range.
    """

    counts: tuple[Counts, ...]
    _models: dict[tuple[int, int], Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Holds every array to its dtype, shape and range."""
        for stage, counts in enumerate(self.counts):
            if counts.dtype != np.uint32 or counts.ndim != 2 or 0 in counts.shape:
                raise ConfigError(
                    f"counts of stage {stage} must be uint32 [groups, entries], "
                    f"got {counts.dtype} {counts.shape}; {_RELEARN}"
                )
            if not 1 <= int(counts.min()) <= int(counts.max()) <= MAX_COUNT:
                raise ConfigError(
                    f"counts of stage {stage} must be 1 to {MAX_COUNT}, "
                    f"got {int(counts.min())} to {int(counts.max())}; {_RELEARN}"
                )

    @classmethod
    def from_examples(cls, examples: Iterable[Encoded], config: QuantizerConfig) -> EntropyTables:
        """Tables learned from the indices of typical images; about 100 images are enough.

        An index seen c times counts `2 c + 1`, so one never seen stays codable. A stage that no
        example has is uniform.

        Raises:
            ConfigError: an example does not fit the config.
        """
        shapes = _shapes(config)
        seen = [np.zeros(shape, np.int64) for shape in shapes]
        for encoded in examples:
            if len(encoded.stages) > len(shapes):
                raise ConfigError(
                    f"expected examples of at most {len(shapes)} stages, "
                    f"got {len(encoded.stages)}; encode them with this quantizer"
                )
            for stage, total in zip(encoded.stages, seen, strict=False):
                _count(stage.indices, total)
        return cls(tuple(_smooth(total) for total in seen))

    def check(self, config: QuantizerConfig) -> None:
        """Raises ConfigError unless there is a table for every codebook of the config."""
        shapes = [counts.shape for counts in self.counts]
        if shapes != _shapes(config):
            raise ConfigError(
                f"expected entropy tables of shapes {_shapes(config)}, got {shapes}; {_RELEARN}"
            )

    def model(self, stage: int, group: int) -> Any:
        """The constriction model of one codebook, built once and kept."""
        key = (stage, group)
        if key not in self._models:
            # Unnormalised integers: their partial sums are exact in float64 on any machine.
            weights = self.counts[stage][group].astype(np.float64)
            self._models[key] = constriction.stream.model.Categorical(weights, perfect=False)
        return self._models[key]

    def digest(self) -> bytes:
        """16 bytes that name these tables."""
        shapes = repr([counts.shape for counts in self.counts]).encode()
        return digest_of(b"counts", shapes, *(c.astype("<u4").tobytes() for c in self.counts))

    def save(self, path: Path) -> None:
        """Writes a safetensors file with one tensor `stage_00`, `stage_01` ... per stage."""
        save_file({_name(s): np.ascontiguousarray(c) for s, c in enumerate(self.counts)}, path)

    @classmethod
    def load(cls, path: Path, config: QuantizerConfig) -> EntropyTables:
        """Tables from a file written by `save`.

        Raises:
            ConfigError: the file cannot be read, or is not for this config.
        """
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"expected entropy tables in {path}, got: {error}; install the bundle again"
            ) from error
        names = [_name(stage) for stage in range(config.num_quantizers)]
        if sorted(tensors) != names:
            raise ConfigError(
                f"expected tensors {names} in {path}, got {sorted(tensors)}; {_RELEARN}"
            )
        tables = cls(tuple(tensors[name] for name in names))
        tables.check(config)
        return tables


def _name(stage: int) -> str:
    return f"stage_{stage:02}"


def _shapes(config: QuantizerConfig) -> Sequence[tuple[int, int]]:
    return [(config.num_groups, size) for size in config.codebook_sizes]


def _count(indices: NDArray[np.int32], total: NDArray[np.int64]) -> None:
    groups, size = total.shape
    outside = indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < size
    if indices.shape[1] != groups or outside:
        raise ConfigError(
            f"expected example indices [n, {groups}] below {size}, got {indices.shape}"
            f"{' out of range' if outside else ''}; encode them with this quantizer"
        )
    for group in range(groups):
        total[group] += np.bincount(indices[:, group], minlength=size)


def _smooth(seen: NDArray[np.int64]) -> Counts:
    counts = 2 * seen + 1
    while int(counts.max()) > MAX_COUNT:
        counts = (counts + 1) // 2
    return counts.astype(np.uint32)
