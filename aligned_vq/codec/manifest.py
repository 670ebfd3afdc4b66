"""SplitManifest: everything edge and cloud must agree on, and its digest.

The digest travels with every payload, so that indices made with one codebook are never decoded with
another. This module needs neither torch nor the wire.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from aligned_vq.bitstream import BITSTREAM_VERSION
from aligned_vq.errors import AlignedVQError, ConfigError
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
    """One bundle's identity: model, cut, codec, and the digests of all weights."""

    model_id: str
    """Hub id or directory name of the LLaVA checkpoint; for people, not checked."""
    model_revision: str | None
    vision_digest: str
    """SHA-256 of the checkpoint's vision tensors behind the cut: the cloud's model must match."""
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
    """Digest of the entropy tables; None: only fixed-width coding."""
    operating_points: tuple[OperatingPoint, ...] = ()
    """How bits may be spent, the default first; none for the identity quantizer."""
    bitstream_version: int = BITSTREAM_VERSION
    schema_version: int = SCHEMA_VERSION
    edge_graph_digest: str | None = None
    """SHA-256 of `edge.onnx`; None: there is none. Not part of `digest`: a graph may come and go,
    and edge and cloud understand each other as before."""

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
                "a codec with codebooks needs operating points of different names, one without "
                f"needs none, got {names}"
            )
        for point in self.operating_points:
            if point.stages[-1] >= self.quantizer.num_quantizers:
                raise ConfigError(
                    f"operating point {point.name!r} uses stage {point.stages[-1]} of "
                    f"{self.quantizer.num_quantizers}"
                )
        if self.quantizer.dim != self.features.dim:
            raise ConfigError(
                f"quantizer dim must be the features' {self.features.dim}, got {self.quantizer.dim}"
            )

    @property
    def features(self) -> FeatureSpec:
        """Shape of the features at the cut."""
        return self.tower.features()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, in field order; without an edge graph there is no word of it."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.edge_graph_digest is None:
            del own["edge_graph_digest"]
        return {
            **own,
            "tower": self.tower.to_dict(),
            "processor": self.processor.to_dict(),
            "split": str(self.split),
            "quantizer": asdict(self.quantizer),
            "operating_points": [asdict(point) for point in self.operating_points],
        }

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    def digest(self) -> bytes:
        """16 bytes that name this manifest on the wire: over its JSON but for the edge graph."""
        return digest_of(replace(self, edge_graph_digest=None).to_json().encode())

    @classmethod
    def from_json(cls, text: str, source: str = "manifest") -> SplitManifest:
        """From JSON; ConfigError names `source` and what is wrong with it."""
        try:
            raw = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{source}: not JSON ({error}); export the bundle again") from error
        if not isinstance(raw, dict) or "schema_version" not in raw:
            raise ConfigError(f"{source}: expected a manifest with a schema_version, got none")
        schema = raw["schema_version"]
        if schema != SCHEMA_VERSION:
            advice = "upgrade this program" if _newer(schema) else "export the bundle again"
            raise ConfigError(
                f"{source}: expected manifest schema {SCHEMA_VERSION}, got {schema!r}; {advice}"
            )
        try:
            return cls._from_dict(raw)
        except AlignedVQError as error:
            raise ConfigError(f"{source}: {error}") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{source}: a field is missing, unknown or of the wrong type ({error!r}); "
                "export the bundle again"
            ) from error

    @classmethod
    def _from_dict(cls, raw: Mapping[str, Any]) -> SplitManifest:
        quantizer = dict(raw["quantizer"])
        quantizer["codebook_sizes"] = tuple(quantizer["codebook_sizes"])
        found = cls(
            **{
                **raw,
                "tower": TowerConfig.from_dict(raw["tower"]),
                "processor": ProcessorSettings.from_dict(raw["processor"]),
                "split": SplitPoint.parse(raw["split"]),
                "quantizer": QuantizerConfig(**quantizer),
                "operating_points": tuple(map(_point, raw["operating_points"])),
            }
        )
        check_declared(found)
        return found


def _point(raw: Mapping[str, Any]) -> OperatingPoint:
    return OperatingPoint(**{**raw, "stages": tuple(raw["stages"])})


def _no_number(name: str) -> None:
    """Called for what Python's parser takes for a number, but JSON does not."""
    raise ValueError(f"{name} is no number")


def _newer(schema: object) -> bool:
    return isinstance(schema, int) and schema > SCHEMA_VERSION
