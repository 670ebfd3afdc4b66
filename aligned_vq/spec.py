"""What both halves of the codec agree on, and how a payload keeps its byte limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from aligned_vq.bitstream import EntropyTables, pack
from aligned_vq.errors import ConfigError
from aligned_vq.types import Coding, Encoded, FeatureSpec, OperatingPoint, Payload, QuantizerConfig

Encode = Callable[[OperatingPoint | None], Encoded]
"""Says of one image what an operating point (None: the default one) sends, whatever its limit."""

LEAST_WEIGHT, MOST_WEIGHT = 1e-4, 1e6
"""Between these rate weights, every token is worth its bits and none is."""
BUDGET_BISECTIONS = 6
"""Of the last step by which the rate weight grew, to come close to a limit from below."""


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
        encode: Encode,
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
            return self.packed(encode(None), coding)
        chosen = point if isinstance(point, OperatingPoint) else self.point(point)
        payload = self.packed(encode(chosen), coding)
        if chosen.max_bytes is None or len(payload.body) <= chosen.max_bytes:
            return payload
        return self._within(chosen.max_bytes, encode, chosen, coding)

    def _within(
        self, limit: int, encode: Encode, point: OperatingPoint, coding: Coding | None
    ) -> Payload:
        """The largest payload found that keeps the limit: first the rate weight grows until one
        does, then the last step is bisected."""

        def tried(weight: float) -> Payload:
            return self.packed(encode(replace(point, rate_weight=weight)), coding)

        low = max(point.rate_weight, LEAST_WEIGHT)
        high = low * 4
        best = tried(high)
        while len(best.body) > limit:
            if high > MOST_WEIGHT:
                raise ConfigError(
                    f"operating point {point.name!r} allows {limit} bytes, but this image needs "
                    f"{len(best.body)} with its first stage alone: allow more"
                )
            low, high = high, high * 4
            best = tried(high)
        for _ in range(BUDGET_BISECTIONS):
            middle = (low * high) ** 0.5
            payload = tried(middle)
            if len(payload.body) > limit:
                low = middle
            else:
                best, high = payload, middle
        return best
