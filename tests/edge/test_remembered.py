"""What is known of pictures: by what the model sees of them, also where questions overlap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.codec.spec import PrefixOutput
from aligned_vq.images.load import load_image
from edge_client.encoder import EdgeEncoder, EncodedImage
from edge_client.input.remembered_images import RememberedImages


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (90, 120, 3), np.uint8)
    return load_image(pixels)


class Interrupted(EdgeEncoder):
    """Does something else first when it is to encode."""

    meanwhile: Callable[[], object] | None = None

    def encode(self, *args: Any, **options: Any) -> EncodedImage:
        doing, self.meanwhile = self.meanwhile, None
        if doing is not None:
            doing()
        return super().encode(*args, **options)


def test_questions_about_one_picture_at_once_forget_nothing(bundle_directory: Path) -> None:
    encoder = Interrupted(bundle_directory)
    images = RememberedImages(encoder, 8, lambda given, _: encoder.view(load_image(given)))
    first, second = (images.pending(noise(1)) for _ in "ab")

    def answered() -> None:
        second.encoded()
        second.record_cached(b"its digest", "cloud:1")

    encoder.meanwhile = answered
    first.encoded()
    asked_again = images.pending(noise(1))
    assert (asked_again.service_digest, asked_again.service_target) == (b"its digest", "cloud:1")


def test_a_picture_is_known_however_it_is_given_and_at_each_quality(bundle_directory: Path) -> None:
    encoder = EdgeEncoder(bundle_directory)
    images = RememberedImages(encoder, 8, lambda given, _: encoder.view(load_image(given)))
    images.pending(noise(1), "fixed").encoded()
    images.pending(noise(1), "fixed").record_cached(b"fixed", "cloud:1")
    view = encoder.view(noise(1))
    assert images.pending(view, "fixed").service_digest == b"fixed"
    assert images.pending(view).service_digest == b""
    assert images.pending(noise(2), "fixed").service_digest == b""


def test_the_prefix_runs_once_for_what_every_operating_point_costs(
    bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = EdgeEncoder(bundle_directory)
    runs = []
    run_prefix = encoder.backend.run_prefix

    def counted(pixels: NDArray[np.float32], modality: str) -> PrefixOutput:
        runs.append(pixels)
        return run_prefix(pixels, modality)

    monkeypatch.setattr(encoder.backend, "run_prefix", counted)
    sizes = encoder.payload_bytes(encoder.view(noise(1)))
    assert len(runs) == 1
    for name, size in sizes.items():
        assert len(encoder.encode(noise(1), quality=name).payload.body) == size
