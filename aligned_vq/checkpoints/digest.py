"""A digest of all files that determine a checkpoint's answers."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from aligned_vq.errors import ConfigError

FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
"""Patterns of settings, weights, tokenizer and chat template; not of documentation."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def checkpoint_digest(directory: Path) -> str:
    """SHA-256 of the names and contents of a folder's `FILES`, in hex; independent of its path.

    Files that the hub's cache stores under their SHA-256 are not read; other files are.

    Raises:
        ConfigError: a file cannot be read.
    """
    paths = {path for pattern in FILES for path in directory.glob(pattern) if not path.is_dir()}
    state = hashlib.sha256()
    # Sorted, because the order of `glob` depends on the file system.
    for path in sorted(paths):
        state.update(f"{path.name} {_content_digest(path)}\n".encode())
    return state.hexdigest()


def _content_digest(path: Path) -> str:
    target = path.resolve()
    # The cache names large files by their SHA-256, but small ones by git's SHA-1.
    if path.is_symlink() and target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); fetch it again") from error
