"""Raw coding: uncompressed features, for the identity quantizer only.

[features, N x D float32 little-endian] [statistics, N x 2 float32 little-endian]
"""

from __future__ import annotations

import numpy as np

from aligned_vq.bitstream.layout import RESEND, Layout, max_body_bytes, statistics_fault
from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Encoded


def encode_raw(encoded: Encoded) -> bytes:
    """The raw body of an `Encoded` with features.

    Raises:
        ValueError: there are no features.
    """
    if encoded.features is None:
        raise ValueError("expected features for raw coding, got none")
    body = encoded.features.astype("<f4").tobytes()
    if encoded.statistics is not None:
        body += encoded.statistics.astype("<f4").tobytes()
    return body


def decode_raw(body: bytes, layout: Layout) -> Encoded:
    """The `Encoded` of a raw body: features float32 `[N, D]`, statistics float32 `[N, 2]` or None.

    Raises:
        CorruptPayload: wrong length, a number that is not finite, or a standard deviation that is
            not above 0.
    """
    expected = max_body_bytes(layout.config, layout.num_tokens, layout.statistics)
    if len(body) != expected:
        raise CorruptPayload(f"expected {expected} bytes of features, got {len(body)}; {RESEND}")
    tokens, dim = layout.num_tokens, layout.config.dim
    # A copy, because the view of received bytes is read-only.
    values = np.frombuffer(body, "<f4").astype(np.float32)
    features = values[: tokens * dim].reshape(tokens, dim)
    if not np.isfinite(features).all():
        raise CorruptPayload(f"expected finite features, got an infinity or NaN; {RESEND}")
    if not layout.statistics:
        return Encoded(tokens, features=features)
    statistics = values[tokens * dim :].reshape(tokens, 2)
    if fault := statistics_fault(statistics):
        raise CorruptPayload(f"{fault}; {RESEND}")
    return Encoded(tokens, statistics=statistics, features=features)
