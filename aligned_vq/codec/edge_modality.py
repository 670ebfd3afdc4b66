"""EdgeModality: the edge half of a bundle for one modality of images, and its files' digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aligned_vq.images.depth import RangeSettings, check_range
from aligned_vq.images.modality import CameraModality

WEIGHTS_SUFFIX, GRAPH_SUFFIX = ".safetensors", ".onnx"


@dataclass(frozen=True)
class EdgeModality:
    """One edge half: a prefix trained for the modality, and the codec that all halves share.

    Args:
        modality: its name.
        weights_digest: SHA-256 of `weights_file`, in hexadecimal.
        graph_digest: SHA-256 of `graph_file`; None: no graph.
        range: of grey values; None for rgb, and only there.

    Raises:
        ConfigError: the modality is unknown, or its range is missing.
    """

    modality: CameraModality
    weights_digest: str
    graph_digest: str | None
    range: RangeSettings | None

    def __post_init__(self) -> None:
        check_range(self.modality, self.range)

    @property
    def weights_file(self) -> str:
        """Name of the safetensors file in the bundle."""
        return edge_file(self.modality, WEIGHTS_SUFFIX)

    @property
    def graph_file(self) -> str:
        """Name of the ONNX graph in the bundle."""
        return edge_file(self.modality, GRAPH_SUFFIX)

    def to_dict(self) -> dict[str, Any]:
        """The fields beside the modality, as JSON values."""
        return {
            "weights_digest": self.weights_digest,
            "graph_digest": self.graph_digest,
            "range": None if self.range is None else self.range.to_dict(),
        }

    @classmethod
    def from_dict(cls, modality: Any, raw: Mapping[str, Any]) -> EdgeModality:
        """The half of a modality whose fields `to_dict` returned."""
        greys = None if raw["range"] is None else RangeSettings.from_dict(raw["range"])
        return cls(**{"modality": modality, **raw, "range": greys})


def edge_file(modality: CameraModality, suffix: str) -> str:
    """Name of a file of the edge half for a modality: `edge.onnx`, `edge-depth.onnx`."""
    return f"edge{suffix}" if modality == "rgb" else f"edge-{modality}{suffix}"
