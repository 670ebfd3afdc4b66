"""The files of a bundle, read and verified without a tensor library.

    manifest.json         the SplitManifest
    edge.safetensors      prefix of the vision tower, edge half of the codec
    edge.onnx             the same as an ONNX graph whose weights are in edge.safetensors (optional)
    edge-depth.safetensors, edge-depth.onnx, edge-infrared...
                          the same for another modality of images (optional)
    cloud.safetensors     cloud half of the codec
    entropy.safetensors   entropy tables (without them: fixed coding only)

The edge reads the manifest, the edge files and the tables. The cloud reads the manifest, the cloud
file, the tables and the LLaVA checkpoint. Every file is verified against the manifest before use.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aligned_vq.bitstream import EntropyTables
from aligned_vq.codec.edge_modality import GRAPH_SUFFIX, WEIGHTS_SUFFIX, edge_file
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.codec.spec import CodecSpec
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.files.atomic_folder import new_folder, recover
from aligned_vq.files.staging import is_unfinished
from aligned_vq.images.modality import CAMERA_MODALITIES

MANIFEST, CLOUD, ENTROPY = "manifest.json", "cloud.safetensors", "entropy.safetensors"
EDGE, GRAPH = edge_file("rgb", WEIGHTS_SUFFIX), edge_file("rgb", GRAPH_SUFFIX)
BUNDLE_FILES = (
    MANIFEST,
    CLOUD,
    ENTROPY,
    *(edge_file(own, WEIGHTS_SUFFIX) for own in CAMERA_MODALITIES),
    *(edge_file(own, GRAPH_SUFFIX) for own in CAMERA_MODALITIES),
)


def read_manifest(directory: str | Path) -> SplitManifest:
    """The manifest of a bundle; ConfigError if it is missing or invalid."""
    path = Path(directory) / MANIFEST
    # An interrupted replacement may have left the bundle under a temporary name.
    recover(directory)
    # Damaged bytes are replaced and then fail as JSON, in an error that names the file.
    return SplitManifest.from_json(_read(path).decode("utf-8", "replace").strip(), str(path))


def write_manifest(directory: str | Path, manifest: SplitManifest) -> None:
    """Write the manifest of a bundle."""
    write_file(Path(directory) / MANIFEST, manifest.to_json() + "\n")


@contextmanager
def changed_copy(bundle: str | Path, out: str | Path) -> Iterator[Path]:
    """A context with a copy of a bundle, to be changed; on exit it replaces `out` in one step.

    Args:
        bundle: to copy: its files, or all files of the folder where `out` is the same.
        out: a bundle, or a new folder.

    Raises:
        ConfigError: `out` holds files that are not a bundle's, or cannot be replaced.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    in_place = os.path.realpath(bundle) == os.path.realpath(out)

    def left_out(_: str, names: list[str]) -> set[str]:
        return {own for own in names if is_unfinished(own) or not (in_place or own in BUNDLE_FILES)}

    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out, ("*",) if in_place else BUNDLE_FILES) as new:
        # Links are followed where they would point elsewhere from another folder.
        shutil.copytree(bundle, new, symlinks=in_place, ignore=left_out, dirs_exist_ok=True)
        yield new


def read_verified(path: Path, digest: str, manifest: str = MANIFEST) -> bytes:
    """A file's content, verified: it is read once, so a later change of the file has no effect.

    Args:
        path: of the file.
        digest: expected SHA-256, in hexadecimal.
        manifest: name of the file that holds the digest, for the message.

    Raises:
        ConfigError: the file is missing or has another digest.
    """
    content = _read(path)
    if file_digest(content) != digest:
        raise ConfigError(_digest_mismatch(path, manifest))
    return content


def read_spec(directory: str | Path, manifest: SplitManifest) -> CodecSpec:
    """The codec's parameters with the bundle's entropy tables; raises as `read_verified`."""
    tables = None
    if manifest.entropy_digest is not None:
        path = Path(directory) / ENTROPY
        _read(path)  # only for its error if the file is missing
        try:
            tables = EntropyTables.load(path, manifest.quantizer)
        except ConfigError as error:
            # A readable file with invalid tables has the same remedy as one with a wrong digest.
            raise ConfigError(_digest_mismatch(path)) from error
        if tables.digest().hex() != manifest.entropy_digest:
            raise ConfigError(_digest_mismatch(path))
    return CodecSpec(
        digest=manifest.digest(),
        features=manifest.features,
        quantizer=manifest.quantizer,
        statistics=manifest.link == "statistics",
        layer_norm_eps=manifest.tower.vision.layer_norm_eps,
        tables=tables,
        operating_points=manifest.operating_points,
    )


def file_digest(content: bytes) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"expected a readable bundle file {path}, got: {error.strerror}; "
            "copy the whole bundle directory or export it again"
        ) from error


def _digest_mismatch(path: Path, manifest: str = MANIFEST) -> str:
    return (
        f"{path}: its content does not match the digest in {manifest}; the file is damaged or "
        "belongs to another bundle: copy the whole bundle again"
    )
