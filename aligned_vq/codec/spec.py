"""What both halves of the codec agree on, and how a payload keeps its byte limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from aligned_vq.bitstream import EntropyTables, pack
from aligned_vq.errors import ConfigError
from aligned_vq.types import Coding, Encoded, FeatureSpec, OperatingPoint, Payload, QuantizerConfig

LEAST_WEIGHT, MOST_WEIGHT = 1e-4, 1e6
"""Between these rate weights, every token is worth its bits and none is."""
CLOSE_ENOUGH = 0.96
"""Of a limit: a payload that fills so much of it is taken."""
MOST_TRIES = 6
"""Between a rate weight that is too small and one that is large enough."""
USUAL_SLOPE = 0.7
"""Bytes fall as the rate weight to this power; measured on photographs, where it is 0.6 to 0.9."""


class PrefixOutput(Protocol):
    """What the vision prefix computed of one image; encoding it does not run the prefix again."""

    def encode(self, point: OperatingPoint | None) -> Encoded:
        """The indices that an operating point (None: the default) sends, whatever its byte limit;
        raw features for the identity quantizer."""
        ...


@dataclass(frozen=True)
class CodecSpec:
    """What both halves agree on, taken from the manifest."""

    digest: bytes
    features: FeatureSpec
    quantizer: QuantizerConfig
    statistics: bool
    layer_norm_eps: float
    tables: EntropyTables | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    """The default first; none for the identity quantizer."""

    def point(self, name: str | None = None) -> OperatingPoint:
        """An operating point by its name, the default without one.

        Raises:
            ConfigError: there is none of that name.
        """
        for point in self.operating_points:
            if name is None or point.name == name:
                return point
        names = ", ".join(point.name for point in self.operating_points)
        raise ConfigError(
            f"expected a quality of this bundle ({names or 'it has none'}), got {name!r}"
        )

    def packed(self, encoded: Encoded, coding: Coding | None = None) -> Payload:
        """Indices as a payload; `coding` None takes the smallest."""
        return pack(encoded, self.quantizer, self.tables, self.digest, coding or "auto")

    def compress(
        self,
        image: PrefixOutput,
        point: OperatingPoint | str | None = None,
        coding: Coding | None = None,
    ) -> Payload:
        """The payload of one image.

        `point` is an operating point or the name of one, None the default; `coding` None takes the
        smallest. An image over the point's `max_bytes` is encoded again with a larger rate weight.

        Raises:
            ConfigError: no such operating point, or its limit is below what its first stage costs.
        """
        if self.quantizer.kind == "identity":
            return self.packed(image.encode(None), coding)
        chosen = point if isinstance(point, OperatingPoint) else self.point(point)
        payload = self.packed(image.encode(chosen), coding)
        if chosen.max_bytes is None or len(payload.body) <= chosen.max_bytes:
            return payload

        def tried(weight: float) -> Payload:
            return self.packed(image.encode(replace(chosen, rate_weight=weight)), coding)

        return _within(chosen, len(payload.body), tried)


def _within(point: OperatingPoint, too_many: int, tried: Callable[[float], Payload]) -> Payload:
    """A payload that keeps a point's limit, and nearly fills it where bytes change smoothly.

    Bytes are taken to be a power of the rate weight, which they nearly are. The weight grows until
    a payload keeps the limit; after that, it lies between the last two.

    Args:
        point: has a limit.
        too_many: bytes at its own rate weight.
        tried: the payload at a rate weight.
    """
    limit = point.max_bytes or 0
    aim = limit * (1 + CLOSE_ENOUGH) / 2
    low, low_bytes, slope = max(point.rate_weight, LEAST_WEIGHT), too_many, USUAL_SLOPE
    least = 1.1
    while True:
        high = low * min(max((low_bytes / aim) ** (1 / slope), least), 4.0)
        least *= 2  # near a limit that cannot be kept, guesses would creep
        best = tried(high)
        if len(best.body) <= limit:
            break
        if high > MOST_WEIGHT:
            raise ConfigError(
                f"operating point {point.name!r} allows {limit} bytes, but this image needs "
                f"{len(best.body)} with its first stage alone: allow more"
            )
        slope = max(math.log(low_bytes / len(best.body)) / math.log(high / low), 0.1)
        low, low_bytes = high, len(best.body)
    for _ in range(MOST_TRIES):
        if len(best.body) >= CLOSE_ENOUGH * limit:
            break
        share = math.log(low_bytes / aim) / math.log(low_bytes / len(best.body))
        middle = low * (high / low) ** min(max(share, 0.1), 0.9)
        payload = tried(middle)
        if len(payload.body) > limit:
            low, low_bytes = middle, len(payload.body)
        else:
            best, high = max(best, payload, key=lambda own: len(own.body)), middle
    return best
