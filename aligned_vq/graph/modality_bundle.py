"""Writing of bundles that take further modalities of images: a prefix for each, one codec for all.

The prefix of a modality is trained so that the codec's indices mean what they mean for colour; the
cloud decodes them without knowing the modality. This module stands above the codec because a
bundle with graphs gets a graph of the new half, too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aligned_vq.codec.bundle import read_tensors, write_tensors
from aligned_vq.codec.bundle_files import (
    EDGE,
    GRAPH,
    changed_copy,
    file_digest,
    read_manifest,
    read_verified,
    write_manifest,
)
from aligned_vq.codec.edge_modality import EdgeModality
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.graph.writing import edge_model, has_int8_weights, write_half
from aligned_vq.images.depth import RangeSettings
from aligned_vq.split.vision import VisionPrefix


def write_modality(
    bundle: str | Path, prefix: VisionPrefix, modality: str, range: RangeSettings, out: str | Path
) -> SplitManifest:
    """Write a copy of a bundle with an edge half for a modality; returns the copy's manifest.

    An existing half for the modality is replaced. The half gets a graph if the bundle has graphs,
    with weights of 8 bits if theirs are. All other files, `SplitManifest.digest` and so payloads of
    the other modalities and the cloud's half stay the same.

    Args:
        bundle: to copy.
        prefix: for the modality, of the shape of the bundle's; stored in the bundle's dtypes.
        modality: `depth` or `infrared`.
        range: of the grey values that the prefix was trained with.
        out: a new folder, or a bundle to replace, which may be the same one.

    Raises:
        ConfigError: the bundle is incomplete or damaged, the prefix has another shape or a weight
            that is not finite, the modality is unknown, or `out` cannot be replaced.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    half = _new_half(modality, range)
    tensors = read_tensors(folder / EDGE, manifest.edge_weights_digest)
    tensors |= _stored_as(tensors, prefix)
    int8 = manifest.edge_graph_digest is not None and has_int8_weights(
        read_verified(folder / GRAPH, manifest.edge_graph_digest)
    )
    with changed_copy(folder, out) as new:
        path = new / half.weights_file
        write_tensors(path, tensors)
        content = path.read_bytes()
        half = replace(half, weights_digest=file_digest(content))
        if manifest.edge_graph_digest is not None:
            model = edge_model(manifest, half, content, int8)
            half = replace(half, graph_digest=write_half(new, model, half))
        others = (entry for entry in manifest.modalities if entry.modality != modality)
        halves = sorted((*others, half), key=lambda entry: entry.modality)
        written = replace(manifest, modalities=tuple(halves))
        write_manifest(new, written)
    return written


def _new_half(modality: Any, range: RangeSettings) -> EdgeModality:
    if modality == "rgb":
        raise ConfigError(
            "expected another modality than rgb, whose prefix is the bundle's own, got rgb; train "
            "a codec to replace that one"
        )
    return EdgeModality(modality, "", None, range)


def _stored_as(tensors: dict[str, torch.Tensor], prefix: VisionPrefix) -> dict[str, torch.Tensor]:
    """The prefix's tensors, named and typed as the prefix among those of `edge.safetensors`."""
    own = {f"prefix.{name}": tensor for name, tensor in prefix.state_dict().items()}
    expected = {name: t.shape for name, t in tensors.items() if name.startswith("prefix.")}
    got = {name: t.shape for name, t in own.items()}
    if got != expected:
        wrong = sorted(set(got.items()) ^ set(expected.items()))[0][0]
        raise ConfigError(
            f"expected a prefix of the bundle's shape, got one that differs in {wrong}: "
            f"{got.get(wrong)} for {expected.get(wrong)}; start from the bundle's own prefix"
        )
    stored = {name: t.detach().cpu().to(tensors[name].dtype) for name, t in own.items()}
    for name, tensor in stored.items():
        if not tensor.isfinite().all():
            raise ConfigError(
                f"expected finite weights, got others in {name}; train with a smaller learning rate"
            )
    return stored
