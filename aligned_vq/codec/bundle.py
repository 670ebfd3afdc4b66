"""The bundle: a directory that makes one edge and one cloud understand each other.

`bundle_files` says what lies in it; here its sides are opened with torch, and all of it is written.
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

_EDGE_CODEC = ("position_mean", "project_down", "codebooks")
_CLOUD_CODEC = ("position_mean", "project_up", "codebooks", "refiner")


@dataclass(frozen=True)
class EdgeBundle:
    """What an edge process runs: pixels -> prefix -> codec -> payload."""

    manifest: SplitManifest
    prefix: VisionPrefix
    codec: EdgeCodec


@dataclass(frozen=True)
class CloudBundle:
    """What a cloud process runs besides the checkpoint."""

    manifest: SplitManifest
    codec: CloudCodec


def open_edge_bundle(directory: str | Path, dtype: torch.dtype = torch.float32) -> EdgeBundle:
    """The edge side of a bundle; `dtype` is the prefix's, the codec stays float32.

    Raises:
        ConfigError: a file is missing, changed or of a schema this release does not know.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    tensors = _read_tensors(folder / EDGE, manifest.edge_weights_digest)
    prefix_tensors = {name: t.to(dtype) for name, t in _under("prefix.", tensors).items()}
    try:
        prefix = build_prefix(manifest.tower.vision, manifest.split, prefix_tensors)
        quantizer = _quantizer(manifest, _under("codec.", tensors), _EDGE_CODEC)
    except RuntimeError as error:
        raise ConfigError(f"{folder / EDGE}: does not fit its manifest ({error})") from error
    return EdgeBundle(manifest, prefix, EdgeCodec(read_spec(folder, manifest), quantizer))


def open_cloud_bundle(directory: str | Path, device: torch.device | str = "cpu") -> CloudBundle:
    """The cloud side of a bundle, float32 on `device`; raises as `open_edge_bundle`."""
    folder = Path(directory)
    manifest = read_manifest(folder)
    tensors = _read_tensors(folder / CLOUD, manifest.cloud_weights_digest)
    identity = manifest.quantizer.kind == "identity"
    try:
        quantizer = _quantizer(manifest, _under("codec.", tensors), _CLOUD_CODEC)
        link = build_link(
            manifest.link,
            manifest.split,
            manifest.features,
            None if identity else manifest.quantizer.codebook_dim,
            _under("norms.", tensors),
        )
        link.load_state_dict(_under("link.", tensors), strict=True)
    except (RuntimeError, KeyError) as error:
        raise ConfigError(f"{folder / CLOUD}: does not fit its manifest ({error})") from error
    if quantizer is not None:
        for name in _CLOUD_CODEC:
            part = getattr(quantizer, name)
            setattr(quantizer, name, _moved(part, device))
    link = link.to(device).eval().requires_grad_(False)
    return CloudBundle(manifest, CloudCodec(read_spec(folder, manifest), quantizer, link))


def write_bundle(
    directory: str | Path,
    manifest: SplitManifest,
    prefix: VisionPrefix,
    norms: Mapping[str, Tensor],
    quantizer: AlignedVQ | None,
    link: ResidualLink,
    tables: EntropyTables | None,
    finish: Callable[[Path], object] | None = None,
) -> SplitManifest:
    """Write a bundle whole; returns the manifest with the digests of what was written.

    Args:
        directory: made if it is missing; a bundle already there is replaced, in one step.
        manifest: its weight and entropy digests are filled in here.
        prefix: the edge half, in the dtype it is to be stored in.
        norms: the tower's LayerNorm tensors the link needs (`link_norm_names`).
        quantizer: None for the identity quantizer.
        link: the residual link.
        tables: entropy tables, None for fixed-width coding only.
        finish: called with the folder before it takes its place, such as `write_graph`.

    Raises:
        ConfigError: the directory holds other files than a bundle's, or cannot be replaced.
        NotWritten: there is no room, or no right to write there.
    """
    Path(directory).parent.mkdir(parents=True, exist_ok=True)
    codec = {} if quantizer is None else quantizer.state_dict()
    edge = {f"prefix.{name}": tensor for name, tensor in prefix.state_dict().items()}
    edge |= {f"codec.{name}": t for name, t in codec.items() if name.startswith(_EDGE_CODEC)}
    cloud = {f"codec.{name}": t for name, t in codec.items() if name.startswith(_CLOUD_CODEC)}
    cloud |= {f"link.{name}": tensor for name, tensor in link.state_dict().items()}
    cloud |= {f"norms.{name}": norms[name] for name in link_norm_names(manifest.split)}
    with new_folder(directory, BUNDLE_FILES) as folder:
        for name, tensors in ((EDGE, edge), (CLOUD, cloud)):
            own = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}
            save_file(own, folder / name)
        if tables is not None:
            tables.save(folder / ENTROPY)
        written = replace(
            manifest,
            edge_weights_digest=file_digest((folder / EDGE).read_bytes()),
            cloud_weights_digest=file_digest((folder / CLOUD).read_bytes()),
            entropy_digest=None if tables is None else tables.digest().hex(),
            edge_graph_digest=None,
        )
        write_manifest(folder, written)
        if finish is not None:
            finish(folder)
    return written


def _quantizer(
    manifest: SplitManifest, tensors: Mapping[str, Tensor], parts: tuple[str, ...]
) -> AlignedVQ | None:
    """A quantizer with one side's weights; the other side's stay on the meta device."""
    if manifest.quantizer.kind == "identity":
        return None
    with torch.device("meta"):
        quantizer = AlignedVQ(manifest.features, manifest.quantizer)
    loaded = quantizer.load_state_dict(dict(tensors), strict=False, assign=True)
    absent = [name for name in loaded.missing_keys if name.startswith(parts)]
    if absent or loaded.unexpected_keys:
        raise RuntimeError(f"missing {absent}, unexpected {loaded.unexpected_keys}")
    return quantizer.eval().requires_grad_(False)


def _moved(part: torch.nn.Module | torch.nn.Parameter | None, device: torch.device | str) -> object:
    if part is None or isinstance(part, torch.nn.Module):
        return part and part.to(device)
    return torch.nn.Parameter(part.to(device), requires_grad=False)


def _read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """A file's tensors, from the very bytes whose digest was checked."""
    content = read_verified(path, digest)
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a safetensors file ({error})") from error
    return tensors


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
