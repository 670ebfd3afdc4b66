"""Images that are already encoded: payloads, and the `.avq` files that hold one."""

from __future__ import annotations

import os
from pathlib import Path

from aligned_vq.bitstream import from_frame
from aligned_vq.errors import InvalidInput, ManifestMismatch
from aligned_vq.types import Payload

SUFFIX = ".avq"
MAX_FRAME_BYTES = 64 * 2**20
"""Limit of a file; raw features take far less."""


def is_payload_file(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of a payload's file."""
    return Path(path).suffix.lower() == SUFFIX


def payload_from(source: object, digest: bytes) -> Payload | None:
    """The payload that a source is or names; None for an image that is not encoded yet.

    Args:
        source: an image, a payload, or a path of either.
        digest: manifest digest of the bundle that must have made the payload.

    Raises:
        InvalidInput: the `.avq` file cannot be read, is no regular file, or is too large.
        CorruptPayload: the file holds no payload.
        ManifestMismatch: the payload was made with another bundle.
    """
    if isinstance(source, str | os.PathLike) and is_payload_file(source):
        source = from_frame(_read(Path(source)))
    if not isinstance(source, Payload):
        return None
    if source.manifest_digest != digest:
        raise ManifestMismatch(
            f"expected a payload of the bundle {digest.hex()}, got one of "
            f"{source.manifest_digest.hex()}; encode the image again, or use that bundle"
        )
    return source


def _read(path: Path) -> bytes:
    try:
        # Opening a pipe would block, and reading a device might never end.
        if not path.is_file():
            raise InvalidInput(
                f"expected a regular {SUFFIX} file at {str(path)!r}, got none, a folder, a pipe or "
                "a device; check the path"
            )
        with path.open("rb") as file:
            data = file.read(MAX_FRAME_BYTES + 1)  # one more, to notice a larger file
    except OSError as error:
        raise InvalidInput(
            f"expected an {SUFFIX} file at {str(path)!r}, got: {error.strerror}; check path and "
            "permissions"
        ) from error
    if len(data) > MAX_FRAME_BYTES:
        raise InvalidInput(
            f"expected an {SUFFIX} file of at most {MAX_FRAME_BYTES} bytes at {str(path)!r}, got a "
            "larger one; check which file this is"
        )
    return data
