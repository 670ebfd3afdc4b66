"""Types shared by all packages: frozen dataclasses that check their fields on construction.

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
MAX_TOKENS = 65_535  # two bytes in the file format
MAX_STAGES = 32  # bits of `masked_stages`


def digest_of(*parts: bytes) -> bytes:
    """The first 16 bytes of SHA-256 over length-prefixed parts."""
    state = hashlib.sha256()
    for part in parts:
        # Lengths are hashed too, so that other parts with the same concatenation differ.
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()[:DIGEST_BYTES]


@dataclass(frozen=True)
class SplitPoint:
    """The LayerNorm at which the vision tower is cut.

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
        """The split point written as `pre`, `ln1@3` or `ln2@0`; ConfigError for other text."""
        norm, _, block = text.partition("@")
        if norm not in NORMS or not (block.isdecimal() or (norm == "pre" and not block)):
            raise ConfigError(
                f"expected a split point such as 'pre', 'ln1@3' or 'ln2@0', got {text!r}"
            )
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
    """Geometry of the codebooks: one residual stage per item of `codebook_sizes`.

    A stage splits the latents into `num_groups` equal parts and quantizes each part with its
    codebook. `kind="identity"` passes features through unquantized.
    """

    dim: int
    """Feature width D."""
    codebook_dim: int = 32
    """Latent width d."""
    codebook_sizes: tuple[int, ...] = (4096,)
    """Entries of each codebook of a stage, one size per stage."""
    num_groups: int = 1
    kind: QuantizerKind = "aligned"
    refiner_blocks: int = 0
    """Transformer blocks that correct the decoded latents in the cloud; 0: no refiner."""
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
        # An index has at most 16 bits in fixed coding.
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
        """Width in bits of one index of a stage in fixed coding."""
        return max(1, math.ceil(math.log2(self.codebook_sizes[stage])))

    @property
    def bits_per_token(self) -> int:
        """Bits in fixed coding of a token that every stage covers."""
        return self.num_groups * sum(self.bits_per_index(s) for s in range(self.num_quantizers))

    def payload_bytes(self, num_tokens: int) -> int:
        """Bytes of a fixed-coding body in which every stage covers every token."""
        return math.ceil(num_tokens * self.bits_per_token / 8)


@dataclass(frozen=True)
class OperatingPoint:
    """A trade-off between payload bytes and error, selected by `quality`.

    The first of `stages` covers every token. A later stage covers a token if that lowers the
    token's importance-weighted squared latent error by more than `rate_weight` times the bits of
    its index. At `rate_weight` 0, every stage covers every token.
    """

    name: str
    stages: tuple[int, ...]
    rate_weight: float = 0.0
    """Squared latent error that one bit must save: the Lagrange multiplier of the rate."""
    max_bytes: int | None = None
    """Upper limit of a payload body; the encoder raises the rate weight until the body fits."""

    def __post_init__(self) -> None:
        ascending = list(self.stages) == sorted({s for s in self.stages if s >= 0})
        # `or` treats 0 like None, so 0 is excluded separately below.
        limits = 0 <= self.rate_weight < math.inf and (self.max_bytes or 1) >= 1
        if not (self.name and self.stages and ascending and limits and self.max_bytes != 0):
            raise ConfigError(
                "an operating point needs a name, strictly ascending stage numbers of 0 or more, "
                f"a rate_weight of 0 or more and max_bytes of 1 or more, got {self}"
            )


@dataclass(frozen=True, eq=False)
class StageIndices:
    """The indices of one residual stage: one per covered token and group.

    `indices` is int32 `[n, G]` in token order; `mask` `[N]` is true for the n covered tokens, None
    if all are covered.
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
    """An encoded image before packing: stages of indices, or the identity quantizer's features.

    `statistics` `[N, 2]` (mean and standard deviation per token) is set only for the `statistics`
    link: float16 with indices, float32 with raw features. `features` is float32 `[N, D]`.
    """

    num_tokens: int
    stages: tuple[StageIndices, ...] = ()
    statistics: NDArray[np.floating] | None = field(default=None, repr=False)
    features: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Payload:
    """An encoded image as it is sent from edge to cloud.

    Bit s of `masked_stages` is set if stage s has a mask. `crc32` covers the fixed coding of the
    indices, whichever coding the body uses.
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
        # One bit per stage that is present.
        if not 0 <= self.masked_stages < 1 << self.num_stages or not 0 <= self.crc32 < 1 << 32:
            raise ValueError(
                f"expected masked_stages of {self.num_stages} bits and a crc32 of 32, "
                f"got {self.masked_stages:#x} and {self.crc32:#x}"
            )

    def digest(self) -> bytes:
        """16 bytes that identify the image, so that follow-up questions need no payload."""
        numbers = (self.num_tokens, self.num_stages, self.masked_stages, self.crc32)
        header = f"{numbers} {self.coding}".encode()
        return digest_of(self.manifest_digest, header, self.body)
