"""Sending images with a codec: prefix, payload and suffix, as between edge and cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from aligned_vq.bitstream import pack
from aligned_vq.calibration.codec import CalibratedCodec
from aligned_vq.codec.both_halves import check_made_from
from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.codec.feature_codec import CloudCodec, EdgeCodec
from aligned_vq.evaluation.examiner import on_edge
from aligned_vq.evaluation.llava import LoadedLlava, PathOutput
from aligned_vq.split.loading import load_prefix, load_suffix
from aligned_vq.split.vision import VisionPrefix
from aligned_vq.types import Encoded, OperatingPoint, Payload, QuantizerConfig, SplitPoint


@dataclass(frozen=True)
class CutCodec:
    """A codec with the prefix in front of it; the codec stays on its device."""

    split: SplitPoint
    prefix: VisionPrefix
    edge: EdgeCodec
    cloud: CloudCodec
    settings: Mapping[str, Any]
    """A description for result files, as JSON values."""


class CodecPath:
    """A `FeaturePath`: prefix, compression, payload, decompression, suffix.

    Sizes are those of payload bodies. Edge times include prefix, codec and packing, but not the
    preparation of images. The cloud half receives nothing but the payload.

    Args:
        llava: the model that receives the features.
        name: of the path in tables.
        codec: codec and prefix.
        compress_options: arguments for `compress`, such as `{"point": "low"}`.
    """

    def __init__(
        self,
        llava: LoadedLlava,
        name: str,
        codec: CutCodec,
        compress_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.split = codec.split
        self._options = dict(compress_options or {})
        # As JSON values, for result files.
        options = {
            option: asdict(value) if isinstance(value, OperatingPoint) else value
            for option, value in self._options.items()
        }
        self.settings: dict[str, Any] = {"cut": str(codec.split), **codec.settings, **options}
        self._device = llava.device
        self._prefix = codec.prefix.to(self._device)
        self._edge = codec.edge
        self._cloud = codec.cloud
        self._suffix = load_suffix(llava.checkpoint, codec.split).to(self._device)

    @property
    def quantizer(self) -> QuantizerConfig | None:
        """The geometry of the codebooks; None for the identity quantizer."""
        config = self._edge.spec.quantizer
        return None if config.kind == "identity" else config

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], pixels: Tensor) -> PathOutput:
        """See `FeaturePath`; `images` is not used. Raises as `compress` and `unpack`."""
        payloads, milliseconds = on_edge(pixels, self._send)
        encoded = [self._cloud.unpack(payload) for payload in payloads]
        decoded = [self._cloud.decode(image) for image in encoded]
        features, residual = (
            torch.stack(tensors).to(self._device) for tensors in zip(*decoded, strict=True)
        )
        states = self._suffix(features, residual)
        sent = [len(payload.body) for payload in payloads]
        if self.quantizer is None:
            return PathOutput(states, sent, None, None, milliseconds)
        fixed = [self._fixed_bytes(image) for image in encoded]
        return PathOutput(states, sent, fixed, encoded, milliseconds)

    def _send(self, pixels: Tensor) -> Payload:
        features, residual = (batch[0] for batch in self._prefix(pixels))
        quantizer = self._edge.quantizer
        if quantizer is not None:
            # The codec may be on another device than the prefix.
            device = quantizer.project_down.weight.device
            features, residual = features.to(device), residual.to(device)
        return self._edge.compress(features, residual, **self._options)

    def _fixed_bytes(self, encoded: Encoded) -> int:
        spec = self._edge.spec
        return len(pack(encoded, spec.quantizer, None, spec.digest, "fixed").body)


def calibrated_path(
    llava: LoadedLlava,
    name: str,
    calibrated: CalibratedCodec,
    compress_options: Mapping[str, Any] | None = None,
) -> CodecPath:
    """The path of a codec in memory, with the prefix of the model's checkpoint."""
    manifest, codec = calibrated.manifest, calibrated.codec
    prefix = load_prefix(llava.checkpoint, manifest.split)
    settings = _settings(manifest.link, manifest.quantizer)
    cut_codec = CutCodec(manifest.split, prefix, codec, codec, settings)
    return CodecPath(llava, name, cut_codec, compress_options)


def bundle_path(
    llava: LoadedLlava,
    directory: str | Path,
    name: str | None = None,
    compress_options: Mapping[str, Any] | None = None,
) -> CodecPath:
    """The path of a bundle, opened as edge and cloud do.

    Args:
        llava: the model that receives the features.
        directory: of the bundle.
        name: of the path; None: that of the directory.
        compress_options: see `CodecPath`.

    Raises:
        ConfigError: the bundle is invalid, or of a vision tower other than the model's.
    """
    folder = Path(directory)
    edge, cloud = open_edge_bundle(folder), open_cloud_bundle(folder)
    manifest = edge.manifest
    check_made_from(folder, manifest, llava.checkpoint)
    settings = _settings(manifest.link, manifest.quantizer)
    cut_codec = CutCodec(manifest.split, edge.prefix, edge.codec, cloud.codec, settings)
    return CodecPath(llava, name or folder.resolve().name, cut_codec, compress_options)


def _settings(link: str, quantizer: QuantizerConfig) -> dict[str, Any]:
    if quantizer.kind == "identity":
        return {"link": link, "quantizer": quantizer.kind}
    return {
        "link": link,
        "codebook_sizes": list(quantizer.codebook_sizes),
        "codebook_dim": quantizer.codebook_dim,
        "num_groups": quantizer.num_groups,
    }
