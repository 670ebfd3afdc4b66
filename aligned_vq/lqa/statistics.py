"""Mean and spread of an input's channels: what a change of light or contrast moves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.errors import ConfigError
from aligned_vq.images.processor import Triple


@dataclass(frozen=True)
class ChannelStatistics:
    """Of normalised images, each channel.

    Args:
        mean: over all pixels.
        spread: standard deviation of the pixels of an image, its root mean square over images.

    Raises:
        ConfigError: a number is not finite, or a spread is not above 0.
    """

    mean: Triple
    spread: Triple

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.mean + self.spread)) or min(self.spread) <= 0:
            raise ConfigError(
                f"expected finite channel statistics with spreads above 0, got {self.mean} and "
                f"{self.spread}; export again"
            )

    @classmethod
    def of(cls, images: Iterable[NDArray[np.float32]]) -> ChannelStatistics:
        """The statistics of images `[3, H, W]`, at least one."""
        moments = np.array([channel_moments(image) for image in images])
        mean, spread = moments[:, 0].mean(0), np.sqrt((moments[:, 1] ** 2).mean(0))
        return cls(_triple(mean), _triple(spread))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ChannelStatistics:
        """What `to_dict` wrote."""
        return cls(**{name: tuple(values) for name, values in fields.items()})

    def to_dict(self) -> dict[str, Any]:
        """The statistics as JSON values."""
        return {name: list(values) for name, values in asdict(self).items()}


def channel_moments(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean and standard deviation of each channel of an image `[3, H, W]`: `[2, 3]`."""
    pixels = image.reshape(3, -1)
    return np.stack([pixels.mean(1, dtype=np.float64), pixels.std(1, dtype=np.float64)])


def _triple(values: NDArray[np.float64]) -> Triple:
    # Six digits: the manifest is read by people, too.
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue
