"""The files of a classifier bundle, read and verified without a tensor library.

    classifier.json       the ClassifierManifest
    image.onnx            pixels, float32 [B, 3, S, S] -> embedding, float32 [B, D], unit vectors
    labels.safetensors    text embeddings of each label set, float32 [L, D], unit vectors
    text.onnx             ids, int64 [T, L] -> embedding, float32 [T, D], unit vectors (optional)
    tokenizer.json        text to ids, in the format of Hugging Face's tokenizers (with text.onnx)

Every file is verified against the manifest before use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aligned_vq.classifier.manifest import ClassifierManifest
from aligned_vq.codec.bundle_files import file_digest, read_verified
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_folder import new_folder, recover

MANIFEST, IMAGE, LABELS, TEXT, TOKENIZER = (
    "classifier.json",
    "image.onnx",
    "labels.safetensors",
    "text.onnx",
    "tokenizer.json",
)
CLASSIFIER_FILES = (MANIFEST, IMAGE, LABELS, TEXT, TOKENIZER)

Embeddings = NDArray[np.float32]
"""One row for each text: `[L, D]`."""


@dataclass(frozen=True)
class ClassifierContent:
    """What `write_classifier` writes.

    Args:
        manifest: its digests are replaced by those of the files.
        image_graph: content of `image.onnx`.
        embeddings: by the name of the label set, `[L, D]` float32 unit vectors.
        text_graph: content of `text.onnx`, if there is one.
        tokenizer: content of `tokenizer.json`, whose section `padding` names the padding token.
    """

    manifest: ClassifierManifest
    image_graph: bytes = field(repr=False)
    embeddings: Mapping[str, Embeddings] = field(repr=False)
    text_graph: bytes | None = field(default=None, repr=False)
    tokenizer: bytes | None = field(default=None, repr=False)


def read_classifier(directory: str | Path) -> ClassifierManifest:
    """The manifest of a classifier bundle; ConfigError if it is missing or invalid."""
    path = Path(directory) / MANIFEST
    # An interrupted replacement may have left the bundle under a temporary name.
    recover(directory)
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise ConfigError(
            f"expected a classifier bundle with {path}, got: {error.strerror}; name its folder, or "
            "copy the whole folder again"
        ) from error
    return ClassifierManifest.from_json(text, str(path))


def read_part(directory: str | Path, name: str, digest: str) -> bytes:
    """The content of one of the bundle's files.

    Args:
        directory: of the bundle.
        name: one of `CLASSIFIER_FILES`.
        digest: its SHA-256 by the manifest.

    Raises:
        ConfigError: the file is missing, or is not the one that the manifest describes.
    """
    return read_verified(Path(directory) / name, digest, MANIFEST)


def read_embeddings(directory: str | Path, manifest: ClassifierManifest) -> dict[str, Embeddings]:
    """The text embeddings of every label set, by its name.

    Raises:
        ConfigError: the file is missing or damaged, or does not fit the manifest.
    """
    path = Path(directory) / LABELS
    try:
        embeddings: dict[str, Embeddings] = load(
            read_part(directory, LABELS, manifest.labels_digest)
        )
    except SafetensorError as error:
        raise ConfigError(
            f"{path}: not a safetensors file ({error}); copy the bundle again"
        ) from error
    check_embeddings(manifest, embeddings, str(path))
    return embeddings


def check_embeddings(
    manifest: ClassifierManifest, embeddings: Mapping[str, Embeddings], source: str
) -> None:
    """Raise ConfigError unless there is a finite float32 array of the right shape for each set."""
    shapes = {
        entry.name: (len(entry.labels), manifest.embedding_dim) for entry in manifest.label_sets
    }
    got = {name: array.shape for name, array in embeddings.items()}
    if got != shapes:
        raise ConfigError(
            f"{source}: expected embeddings of shape {shapes}, got {got}; export the classifier "
            "again"
        )
    for name, array in embeddings.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ConfigError(
                f"{source}: expected finite float32 embeddings of {name!r}, got {array.dtype} or a "
                "number that is not finite; export the classifier again"
            )


def write_classifier(directory: str | Path, content: ClassifierContent) -> ClassifierManifest:
    """Write a classifier bundle atomically; returns the manifest with the files' digests.

    Raises:
        ConfigError: the content does not fit its manifest, or the folder holds other files.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    embeddings = {name: np.ascontiguousarray(entry) for name, entry in content.embeddings.items()}
    check_embeddings(content.manifest, embeddings, "the label sets")
    parts = {IMAGE: content.image_graph, LABELS: save(embeddings)}
    if content.text_graph is not None and content.tokenizer is not None:
        _check_padding(content.tokenizer)
        parts |= {TEXT: content.text_graph, TOKENIZER: content.tokenizer}
    elif content.text_graph is not None or content.tokenizer is not None:
        raise ConfigError("expected a text graph and its tokenizer together, got one; give both")
    digests = {name: file_digest(part) for name, part in parts.items()}
    manifest = replace(
        content.manifest,
        image_digest=digests[IMAGE],
        labels_digest=digests[LABELS],
        text_digest=digests.get(TEXT),
        tokenizer_digest=digests.get(TOKENIZER),
    )
    Path(directory).parent.mkdir(parents=True, exist_ok=True)
    with new_folder(directory, CLASSIFIER_FILES) as folder:
        for name, part in parts.items():
            (folder / name).write_bytes(part)
        (folder / MANIFEST).write_text(manifest.to_json() + "\n", "utf-8")
    return manifest


def _check_padding(tokenizer: bytes) -> None:
    try:
        pad_id = json.loads(tokenizer)["padding"]["pad_id"]
    except (ValueError, KeyError, TypeError):
        pad_id = None
    if type(pad_id) is not int:
        raise ConfigError(
            "expected a tokenizer.json with padding.pad_id, got one without; call enable_padding "
            "before it is saved"
        )
