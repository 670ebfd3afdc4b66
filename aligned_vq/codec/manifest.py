"""SplitManifest: all parameters that edge and cloud must share, and their digest.

Every payload carries the digest, so that indices of one codebook are never decoded with another.
This module imports neither torch nor grpc.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from aligned_vq.bitstream import BITSTREAM_VERSION
from aligned_vq.codec.edge_modality import EdgeModality
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.files.json_manifest import build_manifest, parse_manifest
from aligned_vq.files.typed_fields import check_declared
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.llava.tower_config import TowerConfig
from aligned_vq.types import (
    LINK_KINDS,
    FeatureSpec,
    LinkKind,
    OperatingPoint,
    QuantizerConfig,
    SplitPoint,
    digest_of,
)

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class SplitManifest:
    """The identity of a bundle: model, cut, codec, and digests of all weights."""

    model_id: str
    """Hub id or directory name of the LLaVA checkpoint; informative, not verified."""
    model_revision: str | None
    vision_digest: str
    """SHA-256 of the checkpoint's vision tensors behind the cut; the cloud's model must match."""
    tower: TowerConfig
    processor: ProcessorSettings
    split: SplitPoint
    quantizer: QuantizerConfig
    link: LinkKind
    edge_weights_digest: str
    """SHA-256 of `edge.safetensors`."""
    cloud_weights_digest: str
    """SHA-256 of `cloud.safetensors`."""
    entropy_digest: str | None
    """Digest of the entropy tables; None: fixed coding only."""
    operating_points: tuple[OperatingPoint, ...] = ()
    """The default first; empty for the identity quantizer."""
    bitstream_version: int = BITSTREAM_VERSION
    schema_version: int = SCHEMA_VERSION
    edge_graph_digest: str | None = None
    """SHA-256 of `edge.onnx`; None: no graph. Not part of `digest`, because payloads do not depend
    on the graph: it may be added to a bundle that is in use."""
    modalities: tuple[EdgeModality, ...] = ()
    """The edge halves for other modalities than rgb, which all have graphs if `edge.onnx` exists.
    Not part of `digest` either, because the cloud decodes the payloads of every half alike."""

    def __post_init__(self) -> None:
        if self.link not in LINK_KINDS:
            raise ConfigError(f"link must be one of {', '.join(LINK_KINDS)}, got {self.link!r}")
        if self.bitstream_version != BITSTREAM_VERSION:
            raise ConfigError(
                f"expected bitstream version {BITSTREAM_VERSION}, got {self.bitstream_version}; "
                "export the bundle again with this release, or install the release that made it"
            )
        self.tower.check_split(self.split)
        names = [point.name for point in self.operating_points]
        if len(set(names)) < len(names) or bool(names) != bool(self.quantizer.num_quantizers):
            raise ConfigError(
                "a codec with codebooks needs operating points with distinct names, a codec "
                f"without codebooks must have none, got {names}"
            )
        for point in self.operating_points:
            # Stages ascend, so the last one is the largest.
            if point.stages[-1] >= self.quantizer.num_quantizers:
                raise ConfigError(
                    f"operating point {point.name!r}: expected stages below "
                    f"{self.quantizer.num_quantizers}, got {point.stages[-1]}"
                )
        if self.quantizer.dim != self.features.dim:
            raise ConfigError(
                f"quantizer dim must be the features' {self.features.dim}, got {self.quantizer.dim}"
            )
        self._check_halves()

    def _check_halves(self) -> None:
        halves = [entry.modality for entry in self.edge_halves]
        if len(set(halves)) < len(halves):
            raise ConfigError(
                f"expected distinct modalities beside rgb, got {', '.join(halves[1:])}; write each "
                "once"
            )
        for entry in self.modalities:
            if (entry.graph_digest is None) != (self.edge_graph_digest is None):
                raise ConfigError(
                    f"expected graphs of all edge halves or of none, got that of rgb or "
                    f"{entry.modality} alone; run aligned-vq export-onnx"
                )

    @property
    def features(self) -> FeatureSpec:
        """Shape of the features at the cut."""
        return self.tower.features()

    @property
    def edge_halves(self) -> tuple[EdgeModality, ...]:
        """The edge halves of all modalities, that of rgb first."""
        rgb = EdgeModality("rgb", self.edge_weights_digest, self.edge_graph_digest, None)
        return (rgb, *self.modalities)

    def edge_half(self, modality: str) -> EdgeModality:
        """The edge half for a modality; InvalidInput names those of the bundle if it has none."""
        for entry in self.edge_halves:
            if entry.modality == modality:
                return entry
        names = ", ".join(entry.modality for entry in self.edge_halves)
        raise InvalidInput(
            f"expected a modality of this bundle ({names}), got {modality[:40]!r}; choose one of "
            "these, or a bundle that has it"
        )

    def shared(self) -> SplitManifest:
        """What edge and cloud must agree on: the manifest without graphs and other modalities."""
        return replace(self, edge_graph_digest=None, modalities=())

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, in order; those outside `shared` only if they are set."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["modalities"] = {entry.modality: entry.to_dict() for entry in self.modalities}
        # Absent rather than null: a manifest written without these fields has the same digest.
        for name in ("edge_graph_digest", "modalities"):
            if not values[name]:
                del values[name]
        return {
            **values,
            "tower": self.tower.to_dict(),
            "processor": self.processor.to_dict(),
            "split": str(self.split),
            "quantizer": asdict(self.quantizer),
            "operating_points": [asdict(point) for point in self.operating_points],
        }

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        # Every byte counts: the digest covers this text, and payloads carry the digest.
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    def digest(self) -> bytes:
        """16 bytes that identify this manifest, of the JSON of what is `shared`."""
        return digest_of(self.shared().to_json().encode())

    @classmethod
    def from_json(cls, text: str, source: str = "manifest") -> SplitManifest:
        """The manifest in a JSON text; a ConfigError names `source` and the fault."""
        raw = parse_manifest(text, source, "export the bundle again")
        if not isinstance(raw, dict) or "schema_version" not in raw:
            raise ConfigError(f"{source}: expected a manifest with a schema_version, got none")
        schema = raw["schema_version"]
        # Before all fields, because another schema may have others.
        if schema != SCHEMA_VERSION:
            advice = "upgrade this program" if _is_newer(schema) else "export the bundle again"
            raise ConfigError(
                f"{source}: expected manifest schema {SCHEMA_VERSION}, got {schema!r}; {advice}"
            )
        return build_manifest(cls._from_dict, raw, source, "export the bundle again")

    @classmethod
    def _from_dict(cls, raw: Mapping[str, Any]) -> SplitManifest:
        quantizer = dict(raw["quantizer"])
        # JSON has no tuples, and a frozen dataclass needs hashable fields.
        quantizer["codebook_sizes"] = tuple(quantizer["codebook_sizes"])
        manifest = cls(
            **{
                **raw,
                "tower": TowerConfig.from_dict(raw["tower"]),
                "processor": ProcessorSettings.from_dict(raw["processor"]),
                "split": SplitPoint.parse(raw["split"]),
                "quantizer": QuantizerConfig(**quantizer),
                "operating_points": tuple(map(_point, raw["operating_points"])),
                "modalities": tuple(
                    EdgeModality.from_dict(name, fields)
                    for name, fields in raw.get("modalities", {}).items()
                ),
            }
        )
        # Dataclasses do not check types: JSON may hold a string for a declared number.
        check_declared(manifest)
        return manifest


def _point(raw: Mapping[str, Any]) -> OperatingPoint:
    return OperatingPoint(**{**raw, "stages": tuple(raw["stages"])})


def _is_newer(schema: object) -> bool:
    return isinstance(schema, int) and schema > SCHEMA_VERSION
