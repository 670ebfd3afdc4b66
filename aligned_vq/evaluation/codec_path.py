"""A codec at a cut as a way of sending images: through a real payload and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from aligned_vq.bitstream import pack
from aligned_vq.calibration.codec import CalibratedCodec
from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.codec.feature_codec import CloudCodec, EdgeCodec
from aligned_vq.errors import ConfigError
from aligned_vq.evaluation.examiner import on_edge
from aligned_vq.evaluation.llava import LoadedLlava, PathOutput
from aligned_vq.split.loading import load_prefix, load_suffix, suffix_names
from aligned_vq.split.vision import VisionPrefix
from aligned_vq.types import Encoded, OperatingPoint, Payload, QuantizerConfig, SplitPoint


class CodecPath:
    """A `FeaturePath`: prefix, compress, payload, decompress, suffix.

    Bytes are those of the payload's body. Time on the edge is prefix, codec and packing; preparing
    the picture is not in it. The cloud sees the payload alone.

    Args:
        llava: whose suffix and language model receive.
        name: for people.
        split: the cut.
        prefix: the edge half of the tower.
        edge: compresses; it stays on the device it is on.
        cloud: decompresses; likewise.
        how: given on to `compress`, such as `{"point": "low"}`.
        settings: what else the row should tell, JSON-able.
    """

    def __init__(
        self,
        llava: LoadedLlava,
        name: str,
        split: SplitPoint,
        prefix: VisionPrefix,
        edge: EdgeCodec,
        cloud: CloudCodec,
        how: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self._how = dict(how or {})
        told = {k: asdict(v) if isinstance(v, OperatingPoint) else v for k, v in self._how.items()}
        self.settings: dict[str, Any] = {"cut": str(split), **(settings or {}), **told}
        self._device = llava.device
        self._prefix = prefix.to(self._device)
        self._edge = edge
        self._cloud = cloud
        self._suffix = load_suffix(llava.checkpoint, split).to(self._device)

    @property
    def quantizer(self) -> QuantizerConfig | None:
        """The codec's codebooks; None for the identity quantizer."""
        config = self._edge.spec.quantizer
        return None if config.kind == "identity" else config

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image], pixels: Tensor) -> PathOutput:
        """See `FeaturePath`; `pictures` is not looked at. Raises as `compress` and `unpack`."""
        payloads, milliseconds = on_edge(pixels, self._send)
        encoded = [self._cloud.unpack(payload) for payload in payloads]
        decoded = [self._cloud.decode(own) for own in encoded]
        features, residual = (
            torch.stack(part).to(self._device) for part in zip(*decoded, strict=True)
        )
        states = self._suffix(features, residual)
        sent = [len(payload.body) for payload in payloads]
        if self.quantizer is None:
            return PathOutput(states, sent, None, None, milliseconds)
        fixed = [self._fixed_bytes(own) for own in encoded]
        return PathOutput(states, sent, fixed, encoded, milliseconds)

    def _send(self, pixels: Tensor) -> Payload:
        features, residual = (part[0] for part in self._prefix(pixels))
        quantizer = self._edge.quantizer
        if quantizer is not None:
            device = quantizer.project_down.weight.device
            features, residual = features.to(device), residual.to(device)
        return self._edge.compress(features, residual, **self._how)

    def _fixed_bytes(self, encoded: Encoded) -> int:
        spec = self._edge.spec
        return len(pack(encoded, spec.quantizer, None, spec.digest, "fixed").body)


def calibrated_path(
    llava: LoadedLlava,
    name: str,
    calibrated: CalibratedCodec,
    how: Mapping[str, Any] | None = None,
) -> CodecPath:
    """The path of a codec that was never written, over the model's own prefix."""
    manifest, codec = calibrated.manifest, calibrated.codec
    prefix = load_prefix(llava.checkpoint, manifest.split)
    settings = _settings(manifest.link, manifest.quantizer)
    return CodecPath(llava, name, manifest.split, prefix, codec, codec, how, settings)


def bundle_path(
    llava: LoadedLlava,
    directory: str | Path,
    name: str | None = None,
    how: Mapping[str, Any] | None = None,
) -> CodecPath:
    """The path of a bundle as edge and cloud open it; its name is the directory's by default.

    Raises:
        ConfigError: the bundle cannot be used, or is of another tower than the model's.
    """
    folder = Path(directory)
    edge, cloud = open_edge_bundle(folder), open_cloud_bundle(folder)
    manifest, checkpoint = edge.manifest, llava.checkpoint
    names = suffix_names(checkpoint, manifest.split)
    if manifest.vision_digest != checkpoint.vision_digest(names):
        raise ConfigError(
            f"{folder}: expected a bundle of {checkpoint.source}, got one of {manifest.model_id} "
            "with other vision weights; examine it with its own checkpoint"
        )
    settings = _settings(manifest.link, manifest.quantizer)
    return CodecPath(
        llava,
        name or folder.resolve().name,
        manifest.split,
        edge.prefix,
        edge.codec,
        cloud.codec,
        how,
        settings,
    )


def _settings(link: str, quantizer: QuantizerConfig) -> dict[str, Any]:
    if quantizer.kind == "identity":
        return {"link": link, "quantizer": quantizer.kind}
    return {
        "link": link,
        "codebook_sizes": list(quantizer.codebook_sizes),
        "codebook_dim": quantizer.codebook_dim,
        "num_groups": quantizer.num_groups,
    }
