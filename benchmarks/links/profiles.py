"""Named link profiles with the sources of their figures, and sweeps over bandwidth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from aligned_vq.errors import ConfigError

PROFILES = Path(__file__).with_name("profiles.yaml")
SWEEP = "sweep over bandwidth"
"""`source` of the links of a sweep."""


@dataclass(frozen=True)
class Link:
    """A link between edge and cloud.

    Args:
        name: name in tables.
        up_kbit: rate from edge to cloud, in kbit/s.
        down_kbit: rate from cloud to edge, in kbit/s.
        delay_ms: one-way delay.
        jitter_ms: largest additional delay; the delay of each piece is uniform between 0 and this.
        loss: share of TCP segments that are lost, below 0.5.
        source: where the figures come from.
    """

    name: str
    up_kbit: float
    down_kbit: float
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        if not (self.up_kbit > 0 and self.down_kbit > 0):
            raise ConfigError(
                f"{self.name}: expected positive rates, got {self.up_kbit} and {self.down_kbit}"
            )
        if self.delay_ms < 0 or self.jitter_ms < 0 or not 0 <= self.loss < 0.5:
            raise ConfigError(
                f"{self.name}: expected delay_ms and jitter_ms of 0 or more and a loss from 0 to "
                f"below 0.5, got {self.delay_ms}, {self.jitter_ms} and {self.loss}"
            )


def profiles(names: Sequence[str]) -> list[Link]:
    """Links of `profiles.yaml`, in the order of `names`.

    Raises:
        ConfigError: a name is unknown.
    """
    available = yaml.safe_load(PROFILES.read_text(encoding="utf-8"))
    for name in names:
        if name not in available:
            raise ConfigError(f"expected links out of {', '.join(available)}, got {name!r}")
    return [Link(name, **available[name]) for name in names]


def sweep(rates_kbit: Iterable[float], delay_ms: float) -> list[Link]:
    """A link for each rate, the same in both directions, without jitter or loss."""
    return [Link(rate_text(rate), rate, rate, delay_ms, source=SWEEP) for rate in rates_kbit]


def rate_text(kbit: float) -> str:
    """A rate as text: "50 kbit/s", "1.5 Mbit/s"."""
    return f"{kbit:g} kbit/s" if kbit < 1000 else f"{kbit / 1000:g} Mbit/s"
