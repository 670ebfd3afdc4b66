"""A small CLIP with random weights, as the reference recipe builds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligned_vq.reference.dual_encoder.blueprint import (
    build_dual_encoder,
    build_image_processor,
    build_tokenizer,
)

CAPTIONS = ["a photo of a kitchen", "a bathroom with a toilet and a mirror", "a gym"]


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer(CAPTIONS)
    build_dual_encoder(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    build_image_processor().save_pretrained(folder)
    return folder
