"""Pictures that need more bytes than their operating point allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from aligned_vq.images.preprocess import normalize
from aligned_vq.shipped import BUNDLE
from aligned_vq.types import Encoded, OperatingPoint
from edge_client.encoder import EdgeEncoder

LIMIT = 866


@pytest.fixture(scope="module")
def encoder() -> EdgeEncoder:
    return EdgeEncoder(BUNDLE)


@pytest.mark.parametrize("name", ["low", "medium", "high"])
@pytest.mark.parametrize("limit", [LIMIT, 300])
def test_a_limit_is_nearly_filled_after_a_few_encodings(
    encoder: EdgeEncoder, name: str, limit: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (336, 336, 3), np.uint8)
    spec = encoder.backend.spec
    point = replace(spec.point(name), max_bytes=limit)
    view = encoder.view(Image.fromarray(pixels))
    output = encoder.backend.run_prefix(normalize(view, encoder.manifest.processor))
    tried: list[int] = []

    class Counted:
        def encode(self, chosen: OperatingPoint | None) -> Encoded:
            encoded = output.encode(chosen)
            tried.append(len(spec.packed(encoded).body))
            return encoded

    body = spec.compress(Counted(), point).body
    assert tried[0] > limit
    assert 0.95 * limit < len(body) <= limit
    assert len(tried) <= 7
