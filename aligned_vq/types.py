"""The central types. Frozen dataclasses whose invariants hold from construction on.

This module imports no sibling but `errors`, and neither torch nor grpc.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aligned_vq.errors import ConfigError

Norm = Literal["pre", "ln1", "ln2"]
Coding = Literal["fixed", "range", "raw", "context"]
LinkKind = Literal["identity", "learned", "closed_form", "statistics", "dropped"]
QuantizerKind = Literal["aligned", "identity"]

NORMS: tuple[Norm, ...] = ("pre", "ln1", "ln2")
CODINGS: tuple[Coding, ...] = ("fixed", "range", "raw", "context")
LINK_KINDS: tuple[LinkKind, ...] = ("identity", "learned", "closed_form", "statistics", "dropped")

Indices = NDArray[np.int32]
Mask = NDArray[np.bool_]

DIGEST_BYTES = 16
MAX_TOKENS = 65_535
MAX_STAGES = 32


def digest_of(*parts: bytes) -> bytes:
    """The first 16 bytes of SHA-256 over length-prefixed parts."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()[:DIGEST_BYTES]


@dataclass(frozen=True)
class SplitPoint:
    """Where the vision tower is cut: a LayerNorm of a transformer block.

    `ln1` and `ln2` are the block's two norms; `pre` is CLIP's `pre_layrnorm` and only exists before
    block 0. Written `ln1@3`, `pre`.
    """

    block: int
    norm: Norm

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ConfigError(f"split norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.block < 0 or (self.norm == "pre" and self.block != 0):
            raise ConfigError(
                f"split block must be 0 or more (0 for norm 'pre'), got {self.block}@{self.norm}"
            )

    def __str__(self) -> str:
        return "pre" if self.norm == "pre" else f"{self.norm}@{self.block}"

    @classmethod
    def parse(cls, text: str) -> SplitPoint:
        """From `pre`, `ln1@3` or `ln2@0`; ConfigError for anything else."""
        norm, _, block = text.partition("@")
        if norm not in NORMS or not (block.isdecimal() or (norm == "pre" and not block)):
            raise ConfigError(f"a split point is written 'pre', 'ln1@3' or 'ln2@0', got {text!r}")
        return cls(int(block or 0), norm)


@dataclass(frozen=True)
class FeatureSpec:
    """Shape of the features at the cut: N tokens of width D."""

    num_tokens: int
    dim: int
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"

    def __post_init__(self) -> None:
        if not 0 < self.num_tokens <= MAX_TOKENS or self.dim <= 0:
            raise ConfigError(
                f"features must have 1 to {MAX_TOKENS} tokens and a positive width, "
                f"got {self.num_tokens} x {self.dim}"
            )

    @property
    def raw_bytes(self) -> int:
        """Bytes of the uncompressed features."""
        return self.num_tokens * self.dim * (4 if self.dtype == "float32" else 2)


@dataclass(frozen=True)
class QuantizerConfig:
    """Geometry of the codebooks: one residual stage per entry of `codebook_sizes`.

    Every stage has `num_groups` codebooks of that many entries, each over its share of the
    `codebook_dim` latent dimensions. A refiner of some transformer blocks (0: none) corrects what
    the cloud decodes. `kind="identity"` passes features through unquantized.
    """

    dim: int
    codebook_dim: int = 32
    codebook_sizes: tuple[int, ...] = (4096,)
    num_groups: int = 1
    kind: QuantizerKind = "aligned"
    refiner_blocks: int = 0
    refiner_width: int = 128

    def __post_init__(self) -> None:
        if self.kind == "identity":
            if self.codebook_sizes:
                raise ConfigError("the identity quantizer has no codebooks: give codebook_sizes ()")
            return
        if self.kind != "aligned":
            raise ConfigError(f"quantizer kind must be 'aligned' or 'identity', got {self.kind!r}")
        stages = len(self.codebook_sizes)
        if not 1 <= stages <= MAX_STAGES:
            raise ConfigError(f"give 1 to {MAX_STAGES} codebook sizes, got {stages}")
        if any(not 2 <= size <= 65_536 for size in self.codebook_sizes):
            raise ConfigError(f"codebook sizes must be 2 to 65536, got {self.codebook_sizes}")
        width, groups = self.codebook_dim, self.num_groups
        if not 0 < width <= self.dim or groups < 1:
            raise ConfigError(
                f"codebook_dim must be 1 to {self.dim} and num_groups positive, "
                f"got {width} and {groups}"
            )
        if self.refiner_blocks < 0 or self.refiner_width < 1:
            raise ConfigError(
                "refiner_blocks must be 0 or more and refiner_width positive, "
                f"got {self.refiner_blocks} and {self.refiner_width}"
            )
        if width % groups:
            raise ConfigError(f"codebook_dim {width} is not divisible by num_groups {groups}")

    @property
    def num_quantizers(self) -> int:
        """Residual stages R."""
        return len(self.codebook_sizes)

    @property
    def num_codebooks(self) -> int:
        """Codebooks K = G x R."""
        return self.num_groups * self.num_quantizers

    def bits_per_index(self, stage: int) -> int:
        """Bits of one fixed-width index of a stage."""
        return max(1, math.ceil(math.log2(self.codebook_sizes[stage])))

    @property
    def bits_per_token(self) -> int:
        """Fixed-width bits of a token that every stage covers."""
        return self.num_groups * sum(self.bits_per_index(s) for s in range(self.num_quantizers))

    def payload_bytes(self, num_tokens: int) -> int:
        """Bytes of a fixed-width body in which every stage covers every token."""
        return math.ceil(num_tokens * self.bits_per_token / 8)


@dataclass(frozen=True)
class OperatingPoint:
    """How bits are spent: the first of `stages` covers every token, a later one those whose squared
    latent error, weighted, it lowers by more than `rate_weight` times its bits (0: all)."""

    name: str
    stages: tuple[int, ...]
    rate_weight: float = 0.0
    """Squared latent error that one bit must save (Lagrange multiplier of the rate)."""
    max_bytes: int | None = None
    """Hard limit of one payload body: the encoder raises the rate weight until it is kept."""

    def __post_init__(self) -> None:
        ascending = list(self.stages) == sorted({s for s in self.stages if s >= 0})
        limits = 0 <= self.rate_weight < math.inf and (self.max_bytes or 1) >= 1
        if not (self.name and self.stages and ascending and limits and self.max_bytes != 0):
            raise ConfigError(
                "an operating point needs a name, stages that must ascend from 0 on, a rate_weight "
                f"of 0 or more and max_bytes of 1 or more, got {self}"
            )


@dataclass(frozen=True, eq=False)
class StageIndices:
    """What one residual stage says: an index per covered token and group.

    `indices` is `[n, G]` int32 in token order; `mask` `[N]` marks the n covered tokens, None: all.
    """

    indices: Indices = field(repr=False)
    mask: Mask | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.indices.ndim != 2 or self.indices.dtype != np.int32:
            raise ValueError(
                f"stage indices must be int32 [n, G], got {self.indices.dtype} {self.indices.shape}"
            )
        if self.mask is not None and int(self.mask.sum()) != len(self.indices):
            raise ValueError(
                f"mask covers {int(self.mask.sum())} tokens, got {len(self.indices)} indices"
            )


@dataclass(frozen=True, eq=False)
class Encoded:
    """An image as the codec sees it: stages of indices, or the identity quantizer's raw features.

    `statistics` `[N, 2]` (mean, standard deviation) is there only for the `statistics` link:
    float16 beside indices, float32 beside raw features. `features` is `[N, D]` float32.
    """

    num_tokens: int
    stages: tuple[StageIndices, ...] = ()
    statistics: NDArray[np.floating] | None = field(default=None, repr=False)
    features: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Payload:
    """The only bytes that cross the wire for an image.

    `masked_stages` has bit s set when stage s carries a mask. `crc32` is over the canonical
    fixed-width form of the indices, whatever the coding.
    """

    manifest_digest: bytes
    num_tokens: int
    num_stages: int
    masked_stages: int
    coding: Coding
    body: bytes = field(repr=False)
    crc32: int

    def __post_init__(self) -> None:
        if len(self.manifest_digest) != DIGEST_BYTES:
            raise ValueError(
                f"manifest digest must be {DIGEST_BYTES} bytes, got {len(self.manifest_digest)}"
            )
        if self.coding not in CODINGS:
            raise ValueError(f"coding must be one of {CODINGS}, got {self.coding!r}")
        if not 0 < self.num_tokens <= MAX_TOKENS or not 0 <= self.num_stages <= MAX_STAGES:
            raise ValueError(
                f"expected 1 to {MAX_TOKENS} tokens in 0 to {MAX_STAGES} stages, "
                f"got {self.num_tokens} tokens in {self.num_stages} stages"
            )
        if not 0 <= self.masked_stages < 1 << self.num_stages or not 0 <= self.crc32 < 1 << 32:
            raise ValueError(
                f"expected masked_stages of {self.num_stages} bits and a crc32 of 32, "
                f"got {self.masked_stages:#x} and {self.crc32:#x}"
            )

    def digest(self) -> bytes:
        """16 bytes that name the image, for follow-up questions."""
        numbers = (self.num_tokens, self.num_stages, self.masked_stages, self.crc32)
        head = f"{numbers} {self.coding}".encode()
        return digest_of(self.manifest_digest, head, self.body)
