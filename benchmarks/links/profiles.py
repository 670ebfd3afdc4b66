"""Links by name, with where their figures come from, and sweeps over bandwidth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from aligned_vq.errors import ConfigError

PROFILES = Path(__file__).with_name("profiles.yaml")
SWEEP = "sweep over bandwidth"
"""The source of a sweep's links."""


@dataclass(frozen=True)
class Link:
    """What lies between edge and cloud.

    Args:
        name: for tables.
        up_kbit: kbit/s from edge to cloud.
        down_kbit: kbit/s from cloud to edge.
        delay_ms: one way.
        jitter_ms: each piece is late by 0 to this, evenly spread.
        loss: share of TCP segments that are lost, below 0.5.
        source: of these figures.
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
                f"{self.name}: rates must be positive, got {self.up_kbit} and {self.down_kbit}"
            )
        if self.delay_ms < 0 or self.jitter_ms < 0 or not 0 <= self.loss < 0.5:
            raise ConfigError(
                f"{self.name}: expected delay_ms and jitter_ms of 0 or more, a loss of 0 to 0.5, "
                f"got {self.delay_ms}, {self.jitter_ms} and {self.loss}"
            )


def profiles(names: Sequence[str]) -> list[Link]:
    """Links of `profiles.yaml`, in the order asked for.

    Raises:
        ConfigError: there is none of a name.
    """
    known = yaml.safe_load(PROFILES.read_text(encoding="utf-8"))
    for name in names:
        if name not in known:
            raise ConfigError(f"expected links out of {', '.join(known)}, got {name!r}")
    return [Link(name, **known[name]) for name in names]


def sweep(rates_kbit: Iterable[float], delay_ms: float) -> list[Link]:
    """A link for each rate, the same both ways, without jitter or loss."""
    return [Link(rate_text(rate), rate, rate, delay_ms, source=SWEEP) for rate in rates_kbit]


def rate_text(kbit: float) -> str:
    """A rate for people: "50 kbit/s", "1.5 Mbit/s"."""
    return f"{kbit:g} kbit/s" if kbit < 1000 else f"{kbit / 1000:g} Mbit/s"
