"""Reading and writing of bundles, the directories that edge and cloud share, with torch.

See `bundle_files` for the files of a bundle and for what can be read without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from aligned_vq.bitstream import EntropyTables
from aligned_vq.codec.bundle_files import (
    BUNDLE_FILES,
    CLOUD,
    EDGE,
    ENTROPY,
    file_digest,
    read_manifest,
    read_spec,
    read_verified,
    write_manifest,
)
from aligned_vq.codec.feature_codec import CloudCodec, EdgeCodec
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_folder import new_folder
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.split.residual_link import ResidualLink, build_link, link_norm_names
from aligned_vq.split.vision import VisionPrefix, build_prefix

# Attributes of AlignedVQ whose weights each side needs.
_EDGE_CODEC = ("position_mean", "project_down", "codebooks")
_CLOUD_CODEC = ("position_mean", "project_up", "codebooks", "refiner")


@dataclass(frozen=True)
class EdgeBundle:
    """The edge side of a bundle: pixels -> prefix -> codec -> payload."""

    manifest: SplitManifest
    prefix: VisionPrefix
    codec: EdgeCodec


@dataclass(frozen=True)
class CloudBundle:
    """The cloud side of a bundle; the rest of the model comes from the checkpoint."""

    manifest: SplitManifest
    codec: CloudCodec


@dataclass(frozen=True)
class BundleContent:
    """Everything that `write_bundle` stores."""

    manifest: SplitManifest
    """Its weight, graph and entropy digests are replaced on writing; it has no modalities then."""
    prefix: VisionPrefix
    """The edge half of the tower, in the dtype to store."""
    norms: Mapping[str, Tensor]
    """The tower's LayerNorm tensors that links need (`link_norm_names`)."""
    quantizer: AlignedVQ | None
    """None: the identity quantizer."""
    link: ResidualLink
    tables: EntropyTables | None
    """None: fixed coding only."""

    def edge_tensors(self) -> dict[str, Tensor]:
        """The tensors of `edge.safetensors`."""
        prefix = {f"prefix.{name}": t for name, t in self.prefix.state_dict().items()}
        return prefix | self._codec_tensors(_EDGE_CODEC)

    def cloud_tensors(self) -> dict[str, Tensor]:
        """The tensors of `cloud.safetensors`."""
        link = {f"link.{name}": t for name, t in self.link.state_dict().items()}
        norm_names = link_norm_names(self.manifest.split)
        norms = {f"norms.{name}": self.norms[name] for name in norm_names}
        return self._codec_tensors(_CLOUD_CODEC) | link | norms

    def _codec_tensors(self, parts: tuple[str, ...]) -> dict[str, Tensor]:
        codec = {} if self.quantizer is None else self.quantizer.state_dict()
        return {f"codec.{name}": t for name, t in codec.items() if name.startswith(parts)}


def open_edge_bundle(directory: str | Path, dtype: torch.dtype = torch.float32) -> EdgeBundle:
    """The edge side of a bundle with the prefix in `dtype`; the codec stays float32.

    Raises:
        ConfigError: a file is missing, does not match its digest, or has an unsupported schema.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    tensors = read_tensors(folder / EDGE, manifest.edge_weights_digest)
    try:
        prefix = _build_prefix(manifest, tensors, dtype)
        quantizer = _build_quantizer(manifest, _subset("codec.", tensors), _EDGE_CODEC)
    except RuntimeError as error:
        # `load_state_dict` raises RuntimeError for missing, unknown and misshapen tensors.
        raise ConfigError(f"{folder / EDGE}: does not fit its manifest ({error})") from error
    return EdgeBundle(manifest, prefix, EdgeCodec(read_spec(folder, manifest), quantizer))


def open_modality_prefix(
    directory: str | Path,
    manifest: SplitManifest,
    modality: str,
    dtype: torch.dtype = torch.float32,
) -> VisionPrefix:
    """The prefix for a modality; behind it comes the codec of `open_edge_bundle`.

    Args:
        directory: the bundle.
        manifest: of the bundle.
        modality: `rgb`, or a further one of the bundle.
        dtype: of the prefix.

    Raises:
        InvalidInput: the bundle has no edge half for the modality.
        ConfigError: its file is missing, damaged or does not fit the manifest.
    """
    half = manifest.edge_half(modality)
    path = Path(directory) / half.weights_file
    tensors = read_tensors(path, half.weights_digest)
    try:
        return _build_prefix(manifest, tensors, dtype)
    except RuntimeError as error:
        raise ConfigError(f"{path}: does not fit its manifest ({error})") from error


def open_cloud_bundle(directory: str | Path, device: torch.device | str = "cpu") -> CloudBundle:
    """The cloud side of a bundle, float32 on `device`; raises as `open_edge_bundle`."""
    folder = Path(directory)
    manifest = read_manifest(folder)
    tensors = read_tensors(folder / CLOUD, manifest.cloud_weights_digest)
    identity = manifest.quantizer.kind == "identity"
    try:
        quantizer = _build_quantizer(manifest, _subset("codec.", tensors), _CLOUD_CODEC)
        link = build_link(
            manifest.link,
            manifest.split,
            manifest.features,
            None if identity else manifest.quantizer.codebook_dim,
            _subset("norms.", tensors),
        )
        link.load_state_dict(_subset("link.", tensors), strict=True)
    except (RuntimeError, KeyError) as error:
        # KeyError: the LayerNorm tensors that the link needs are missing.
        raise ConfigError(f"{folder / CLOUD}: does not fit its manifest ({error})") from error
    if quantizer is not None:
        # Not `quantizer.to`: the edge side's weights are on the meta device and cannot move.
        for name in _CLOUD_CODEC:
            part = getattr(quantizer, name)
            setattr(quantizer, name, _to_device(part, device))
    link = link.to(device).eval().requires_grad_(False)
    return CloudBundle(manifest, CloudCodec(read_spec(folder, manifest), quantizer, link))


def write_bundle(
    directory: str | Path,
    content: BundleContent,
    finish: Callable[[Path], object] | None = None,
) -> SplitManifest:
    """Write a bundle atomically; returns the manifest with the digests of the written files.

    Args:
        directory: created if missing; an existing bundle is replaced in one step.
        content: what to write.
        finish: called with the temporary folder before it replaces `directory`; adds files, as
            `write_graph` does.

    Raises:
        ConfigError: the directory holds files that are not a bundle's, or cannot be replaced.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    Path(directory).parent.mkdir(parents=True, exist_ok=True)
    tables = content.tables
    with new_folder(directory, BUNDLE_FILES) as folder:
        for name, tensors in (
            (EDGE, content.edge_tensors()),
            (CLOUD, content.cloud_tensors()),
        ):
            write_tensors(folder / name, tensors)
        if tables is not None:
            tables.save(folder / ENTROPY)
        # Digests of the files as written, so that the manifest cannot describe other bytes.
        written = replace(
            content.manifest,
            edge_weights_digest=file_digest((folder / EDGE).read_bytes()),
            cloud_weights_digest=file_digest((folder / CLOUD).read_bytes()),
            entropy_digest=None if tables is None else tables.digest().hex(),
            edge_graph_digest=None,
            modalities=(),
        )
        write_manifest(folder, written)
        # After the manifest, to which `finish` may add the digest of the graph.
        if finish is not None:
            finish(folder)
    return written


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file."""
    # safetensors refuses tensors that share memory or are not contiguous.
    copies = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}
    save_file(copies, path)


def _build_prefix(
    manifest: SplitManifest, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> VisionPrefix:
    """The prefix of an edge file, in `dtype`; RuntimeError if its tensors do not fit."""
    # Only the prefix: the search for entries needs float32.
    prefix_tensors = {name: t.to(dtype) for name, t in _subset("prefix.", tensors).items()}
    return build_prefix(manifest.tower.vision, manifest.split, prefix_tensors)


def _build_quantizer(
    manifest: SplitManifest, tensors: Mapping[str, Tensor], parts: tuple[str, ...]
) -> AlignedVQ | None:
    """A quantizer with one side's weights; the other side's stay on the meta device.

    Raises:
        RuntimeError: a tensor of `parts` is missing, or a tensor is unknown.
    """
    if manifest.quantizer.kind == "identity":
        return None
    with torch.device("meta"):
        quantizer = AlignedVQ(manifest.features, manifest.quantizer)
    # Not strict, because the other side's tensors are missing; the check below covers this side's.
    loaded = quantizer.load_state_dict(dict(tensors), strict=False, assign=True)
    missing = [name for name in loaded.missing_keys if name.startswith(parts)]
    if missing or loaded.unexpected_keys:
        raise RuntimeError(f"missing {missing}, unexpected {loaded.unexpected_keys}")
    return quantizer.eval().requires_grad_(False)


def _to_device(
    part: torch.nn.Module | torch.nn.Parameter | None, device: torch.device | str
) -> object:
    if part is None or isinstance(part, torch.nn.Module):
        return part and part.to(device)  # None: the codec has no refiner
    return torch.nn.Parameter(part.to(device), requires_grad=False)


def read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file with this SHA-256, in hexadecimal.

    Raises:
        ConfigError: the file is missing, has another digest, or is no safetensors file.
    """
    content = read_verified(path, digest)
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a safetensors file ({error})") from error
    return tensors


def _subset(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, named without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
