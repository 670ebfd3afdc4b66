"""The files of a bundle, verified, and what follows from them without any tensor library.

    manifest.json         what both sides agree on
    edge.safetensors      prefix of the vision tower, edge side of the codec
    edge.onnx             the same as a graph that points into edge.safetensors (may be absent)
    cloud.safetensors     cloud side of the codec
    entropy.safetensors   entropy tables (absent: fixed-width coding only)

The edge opens `manifest.json`, its own files and the tables; the cloud opens its own file instead
and the LLaVA checkpoint. Every file is verified against the manifest before it is used.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from aligned_vq.bitstream import EntropyTables
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.codec.spec import CodecSpec
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.files.atomic_folder import recover

MANIFEST, EDGE, GRAPH, CLOUD, ENTROPY = (
    "manifest.json",
    "edge.safetensors",
    "edge.onnx",
    "cloud.safetensors",
    "entropy.safetensors",
)
BUNDLE_FILES = (MANIFEST, EDGE, GRAPH, CLOUD, ENTROPY)


def read_manifest(directory: str | Path) -> SplitManifest:
    """The manifest of a bundle; ConfigError if there is none or it is not usable."""
    path = Path(directory) / MANIFEST
    recover(directory)
    return SplitManifest.from_json(_read(path).decode("utf-8", "replace").strip(), str(path))


def write_manifest(directory: str | Path, manifest: SplitManifest) -> None:
    """Write the manifest of a bundle."""
    write_file(Path(directory) / MANIFEST, manifest.to_json() + "\n")


def read_verified(path: Path, digest: str) -> bytes:
    """A file's content, the very bytes whose SHA-256 is `digest`.

    Raises:
        ConfigError: the file is missing or was changed.
    """
    content = _read(path)
    if file_digest(content) != digest:
        raise ConfigError(_changed(path))
    return content


def read_spec(directory: str | Path, manifest: SplitManifest) -> CodecSpec:
    """What both halves of the codec agree on, with the bundle's entropy tables; raises as
    `read_verified`."""
    tables = None
    if manifest.entropy_digest is not None:
        path = Path(directory) / ENTROPY
        _read(path)
        try:
            tables = EntropyTables.load(path, manifest.quantizer)
        except ConfigError as error:
            raise ConfigError(_changed(path)) from error
        if tables.digest().hex() != manifest.entropy_digest:
            raise ConfigError(_changed(path))
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
            f"expected the bundle file {path}, found none that can be read ({error.strerror}); "
            "copy the whole bundle directory or export it again"
        ) from error


def _changed(path: Path) -> str:
    return (
        f"{path}: its content does not match the digest in {MANIFEST}; the file was damaged or "
        "belongs to another bundle: copy the whole bundle again"
    )
