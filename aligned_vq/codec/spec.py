"""The parameters shared by both halves of the codec, and the search that meets a byte limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from aligned_vq.bitstream import EntropyTables, pack
from aligned_vq.errors import ConfigError
from aligned_vq.types import Coding, Encoded, FeatureSpec, OperatingPoint, Payload, QuantizerConfig

MIN_RATE_WEIGHT, MAX_RATE_WEIGHT = 1e-4, 1e6
"""At the lower one practically every token is covered by every stage, at the upper one by none but
the first."""
MIN_FILL = 0.96
"""Fraction of the limit that ends the search."""
MAX_BISECTIONS = 6
"""Encodings between a rate weight that is too small and one that is large enough."""
TYPICAL_EXPONENT = 0.7
"""Bytes are about proportional to `rate_weight ** -exponent`; 0.6 to 0.9 for photographs."""


class PrefixOutput(Protocol):
    """The vision prefix's output for one image; `encode` may be called several times."""

    def encode(self, point: OperatingPoint | None) -> Encoded:
        """The indices at an operating point (None: the default), disregarding its byte limit; raw
        features for the identity quantizer."""
        ...


@dataclass(frozen=True)
class CodecSpec:
    """Parameters shared by both halves of the codec, taken from the manifest."""

    digest: bytes
    features: FeatureSpec
    quantizer: QuantizerConfig
    statistics: bool
    layer_norm_eps: float
    tables: EntropyTables | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    """The default first; empty for the identity quantizer."""

    def point(self, name: str | None = None) -> OperatingPoint:
        """The operating point of this name; None: the default.

        Raises:
            ConfigError: no operating point has this name.
        """
        for point in self.operating_points:
            if name is None or point.name == name:
                return point
        names = ", ".join(point.name for point in self.operating_points)
        raise ConfigError(
            f"expected a quality of this bundle ({names or 'it has none'}), got {name!r}; "
            "choose one of these or leave it out"
        )

    def packed(self, encoded: Encoded, coding: Coding | None = None) -> Payload:
        """The payload of an encoded image; `coding` None selects the smallest."""
        return pack(encoded, self.quantizer, self.tables, self.digest, coding or "auto")

    def compress(
        self,
        image: PrefixOutput,
        point: OperatingPoint | str | None = None,
        coding: Coding | None = None,
    ) -> Payload:
        """The payload of one image.

        An image that exceeds the point's `max_bytes` is encoded again with larger rate weights.

        Args:
            image: output of the vision prefix.
            point: an operating point or its name; None: the default.
            coding: None selects the smallest.

        Raises:
            ConfigError: no such operating point, or its first stage alone exceeds its limit.
        """
        if self.quantizer.kind == "identity":
            return self.packed(image.encode(None), coding)
        chosen = point if isinstance(point, OperatingPoint) else self.point(point)
        payload = self.packed(image.encode(chosen), coding)
        if chosen.max_bytes is None or len(payload.body) <= chosen.max_bytes:
            return payload

        def encode_at(weight: float) -> Payload:
            return self.packed(image.encode(replace(chosen, rate_weight=weight)), coding)

        return _fit_to_limit(chosen, len(payload.body), encode_at)


def _fit_to_limit(
    point: OperatingPoint, excess_bytes: int, encode_at: Callable[[float], Payload]
) -> Payload:
    """A payload within the point's limit, filling at least MIN_FILL of it if bytes vary smoothly.

    Bytes are modelled as a power of the rate weight. The weight grows until a payload fits, then
    the interval between the last two weights is narrowed.

    Args:
        point: an operating point with a limit.
        excess_bytes: body bytes at the point's rate weight, more than the limit.
        encode_at: the payload at a rate weight.
    """
    limit = point.max_bytes or 0
    # The middle of the accepted range, so that small errors of the model do no harm.
    target = limit * (1 + MIN_FILL) / 2
    # A weight of 0 cannot grow by a factor.
    low, low_bytes = max(point.rate_weight, MIN_RATE_WEIGHT), excess_bytes
    exponent = TYPICAL_EXPONENT
    min_growth = 1.1
    while True:
        # The model solved for the weight; the factor is bounded in case the model fits badly.
        high = low * min(max((low_bytes / target) ** (1 / exponent), min_growth), 4.0)
        # Near the size of the first stage bytes hardly fall, and the model's steps become tiny.
        min_growth *= 2
        best = encode_at(high)
        if len(best.body) <= limit:
            break
        if high > MAX_RATE_WEIGHT:
            raise ConfigError(
                f"operating point {point.name!r} allows {limit} bytes, but this image needs "
                f"{len(best.body)} with its first stage alone: raise max_bytes"
            )
        # The lower bound protects against bytes that hardly changed: 1 / exponent would explode.
        exponent = max(math.log(low_bytes / len(best.body)) / math.log(high / low), 0.1)
        low, low_bytes = high, len(best.body)
    for _ in range(MAX_BISECTIONS):
        # Full enough: another encoding costs more time than its bytes are worth.
        if len(best.body) >= MIN_FILL * limit:
            break
        # Interpolated in log-log scale; bounded, so that the interval shrinks in any case.
        share = math.log(low_bytes / target) / math.log(low_bytes / len(best.body))
        middle = low * (high / low) ** min(max(share, 0.1), 0.9)
        payload = encode_at(middle)
        if len(payload.body) > limit:
            low, low_bytes = middle, len(payload.body)
        else:
            # Bytes need not fall steadily with the weight, so the larger fitting payload wins.
            best, high = max(best, payload, key=lambda fitting: len(fitting.body)), middle
    return best
