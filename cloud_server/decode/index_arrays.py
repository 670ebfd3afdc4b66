"""Images as codebook indices, for engines that rebuild them themselves.

    payload -> IndexReader -> int16 [N, K] -> engine -> lookup, vision suffix, language model

K has one column per residual stage and group, stages first; -1 marks a token that a stage does not
cover. Nothing here runs a model, so a front tier needs the bundle and no accelerator.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligned_vq.answers import Timings
from aligned_vq.codec.feature_codec import CloudCodec
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import AlignedVQError, ConfigError
from aligned_vq.stopwatch import Stopwatch
from aligned_vq.types import Encoded, Payload
from cloud_server.decode.image_decoder import EngineImage

UNCOVERED = -1
MAX_ENTRIES = 2**15
"""Largest codebook whose indices fit int16."""
_MEDIA_TYPE = "application/vnd.aligned-vq.indices"
_URL = re.compile(rf"data:{re.escape(_MEDIA_TYPE)};manifest=([0-9a-f]{{32}});base64,(.*)", re.S)


class NamedIndices(NamedTuple):
    """An index array as little-endian int16 bytes, and the manifest it was made with."""

    manifest_digest: bytes
    content: bytes


@dataclass(frozen=True)
class IndexLayout:
    """The shape and ranges of a bundle's index arrays: N tokens, and the codebook size behind each
    of the K columns.

    Raises:
        ConfigError: payloads of the bundle hold more than indices, or its codebooks are too large.
    """

    manifest_digest: bytes
    num_tokens: int
    num_groups: int
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, manifest: SplitManifest) -> IndexLayout:
        """The layout for a bundle's manifest."""
        quantizer = manifest.quantizer
        if quantizer.kind == "identity" or manifest.link == "statistics":
            raise ConfigError(
                "expected a bundle that sends codebook indices alone for this engine, got one with "
                f"quantizer {quantizer.kind!r} and link {manifest.link!r}; serve it with engine "
                "'transformers', or export with codebooks and link 'learned'"
            )
        if max(quantizer.codebook_sizes) > MAX_ENTRIES:
            raise ConfigError(
                f"expected codebooks of at most {MAX_ENTRIES} entries for this engine, got "
                f"{quantizer.codebook_sizes}; serve the bundle with engine 'transformers'"
            )
        # Stages first: column = stage * num_groups + group.
        sizes = [size for size in quantizer.codebook_sizes for _ in range(quantizer.num_groups)]
        tokens = manifest.features.num_tokens
        return cls(manifest.digest(), tokens, quantizer.num_groups, tuple(sizes))

    @property
    def shape(self) -> tuple[int, int]:
        """`(N, K)`."""
        return self.num_tokens, len(self.sizes)

    def array(self, encoded: Encoded) -> NDArray[np.int16]:
        """Unpacked indices as an array `[N, K]`."""
        array = np.full(self.shape, UNCOVERED, np.int16)
        for position, stage in enumerate(encoded.stages):
            # Without a mask a stage covers all tokens.
            covered = slice(None) if stage.mask is None else stage.mask
            columns = slice(position * self.num_groups, (position + 1) * self.num_groups)
            array[covered, columns] = stage.indices  # [n, G]
        return array

    def checked(self, image: Any) -> Tensor:
        """The indices `[N, K]` int16 of an untrusted image.

        Args:
            image: a tensor or an array `[N, K]` or `[1, N, K]`, or `NamedIndices`.

        Raises:
            ValueError: it is something else (pixels, embeddings), or an index is out of range.
        """
        if isinstance(image, NamedIndices):
            image = self._from_bytes(image)
        if isinstance(image, Tensor):
            # Images arrive on the CPU; None fails the next check.
            image = image.numpy() if image.device.type == "cpu" else None
        if not isinstance(image, np.ndarray) or image.dtype != np.int16:
            got = getattr(image, "dtype", type(image).__name__)
            raise ValueError(f"expected {self._expected}, got {got}; send a payload to the service")
        if image.shape not in (self.shape, (1, *self.shape)):
            raise ValueError(
                f"expected {self._expected}, got shape {image.shape}; give front tier and engine "
                "the same bundle"
            )
        image = image.reshape(self.shape)
        if (image < UNCOVERED).any() or (image >= np.array(self.sizes)).any():
            raise ValueError(
                f"expected indices from {UNCOVERED} up to below the codebook sizes {self.sizes}, "
                f"got {image.min(0).tolist()} to {image.max(0).tolist()}; send a payload to the "
                "service"
            )
        covered = image.reshape(self.num_tokens, -1, self.num_groups) != UNCOVERED  # [N, stages, G]
        # A stage covers a token with all of its groups; the first group's column is used as the
        # mask.
        if (covered != covered[..., :1]).any():
            raise ValueError(
                "expected a stage to cover all groups of a token or none, got some of them; send "
                "a payload to the service"
            )
        # A copy, as the array may be a read-only view of the message's bytes.
        return torch.from_numpy(image.copy())

    def stages(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Indices `[B, N, G]` int64 and masks `[B, N]` of every stage, from `[B, N, K]`.

        Never fails: an index out of range is clamped, as an exception would end a vLLM worker.
        """
        last = torch.tensor(self.sizes, device=images.device) - 1  # [K]
        clamped = torch.minimum(images.long().clamp(min=0), last)
        num_stages = len(self.sizes) // self.num_groups
        # The first group stands for all of them, see `checked`.
        masks = [stage[..., 0] >= 0 for stage in images.chunk(num_stages, dim=-1)]
        return list(clamped.chunk(num_stages, dim=-1)), masks

    def url(self, image: Tensor) -> str:
        """Indices `[N, K]` as a data URL, for an engine behind HTTP."""
        # Little-endian on every machine, as another one may read the URL.
        content = np.ascontiguousarray(image.numpy(), "<i2").tobytes()
        digest = self.manifest_digest.hex()
        encoded = base64.b64encode(content).decode()
        return f"data:{_MEDIA_TYPE};manifest={digest};base64,{encoded}"

    def _from_bytes(self, image: NamedIndices) -> NDArray[np.int16]:
        if image.manifest_digest != self.manifest_digest:
            raise ValueError(
                f"expected indices of manifest {self.manifest_digest.hex()}, got those of "
                f"{image.manifest_digest.hex()}; give front tier and engine the same bundle"
            )
        tokens, columns = self.shape
        if len(image.content) != 2 * tokens * columns:
            raise ValueError(
                f"expected {self._expected}, {2 * tokens * columns} bytes, got "
                f"{len(image.content)}; send a payload to the service"
            )
        # To native byte order, which torch requires.
        return np.frombuffer(image.content, "<i2").astype(np.int16).reshape(self.shape)

    @property
    def _expected(self) -> str:
        return f"codebook indices int16 [{self.num_tokens}, {len(self.sizes)}]"


def indices_from_url(url: str) -> NamedIndices:
    """The indices in a data URL that `IndexLayout.url` wrote; not checked against a layout.

    Raises:
        ValueError: it is another URL; no image is fetched or decoded here.
    """
    match = _URL.fullmatch(url)
    try:
        if match is not None:
            content = base64.b64decode(match[2], validate=True)
            return NamedIndices(bytes.fromhex(match[1]), content)
    except binascii.Error:
        pass
    prefix = url.partition(",")[0][:60]
    raise ValueError(
        f"expected codebook indices as a data URL of type {_MEDIA_TYPE}, got {prefix!r}; images "
        "are not accepted here: send a payload to the service"
    )


class IndexReader:
    """Unpacks payloads for an engine that takes indices; interchangeable with `ImageDecoder`."""

    def __init__(self, codec: CloudCodec, layout: IndexLayout) -> None:
        self._codec = codec
        self._layout = layout

    def decode_many(self, payloads: Sequence[Payload]) -> list[EngineImage | Exception]:
        """Indices `[N, K]` int16, or a ManifestMismatch or CorruptPayload, for each payload.

        An invalid payload does not affect the others.
        """
        return [self._decoded(payload) for payload in payloads]

    def _decoded(self, payload: Payload) -> EngineImage | Exception:
        watch = Stopwatch()
        try:
            image = torch.from_numpy(self._layout.array(self._codec.unpack(payload)))
        except AlignedVQError as error:
            return error
        watch.lap("unpack")
        timings: Timings = watch.timings()
        return EngineImage(image, timings)
