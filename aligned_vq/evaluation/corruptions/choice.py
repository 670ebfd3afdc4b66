"""The corruptions by name and severity.

Fifteen kinds and their severities are those of ImageNet-C (Hendrycks and Dietterich, ICLR 2019),
made anew here: frost is drawn, not photographed, and lengths, which are meant for images of 224
pixels, grow with the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aligned_vq.errors import ConfigError
from aligned_vq.evaluation.corruptions import blur, digital, noise, weather

SEVERITIES = (1, 2, 3, 4, 5)
_SIDE_PX = 224


class _Kind(NamedTuple):
    """A corruption, with the arguments of each severity."""

    apply: Callable[..., NDArray[np.float64]]
    arguments: tuple[tuple[float, ...], ...]
    lengths: tuple[int, ...] = ()
    """Which arguments are lengths in pixels."""
    is_random: bool = True


def _steps(*values: float) -> tuple[tuple[float, ...], ...]:
    return tuple((value,) for value in values)


_KINDS: dict[str, _Kind] = {
    "gaussian_noise": _Kind(noise.gaussian, _steps(0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": _Kind(noise.shot, _steps(60, 25, 12, 5, 3)),
    "impulse_noise": _Kind(noise.impulse, _steps(0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": _Kind(
        blur.defocus, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)), (0,), is_random=False
    ),
    "glass_blur": _Kind(
        blur.glass, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)), (0, 1)
    ),
    "motion_blur": _Kind(blur.motion, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), (0, 1)),
    "zoom_blur": _Kind(
        blur.zoom,
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        is_random=False,
    ),
    "snow": _Kind(
        weather.snow,
        ((0.002, 8, 0.8), (0.004, 10, 0.75), (0.007, 12, 0.7), (0.01, 12, 0.65), (0.015, 12, 0.55)),
        (1,),
    ),
    "frost": _Kind(weather.frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": _Kind(weather.fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": _Kind(weather.brightness, _steps(0.1, 0.2, 0.3, 0.4, 0.5), is_random=False),
    "contrast": _Kind(digital.contrast, _steps(0.4, 0.3, 0.2, 0.1, 0.05), is_random=False),
    "elastic": _Kind(digital.elastic, ((6, 60), (8, 30), (5, 8), (8, 8), (12, 8)), (0, 1)),
    "pixelate": _Kind(digital.pixelate, _steps(0.6, 0.5, 0.4, 0.3, 0.25), is_random=False),
    "jpeg": _Kind(digital.jpeg, _steps(25, 18, 15, 10, 7), is_random=False),
}
CORRUPTIONS = tuple(_KINDS)


def corrupt(
    image: NDArray[np.uint8], name: str, severity: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """An image in bad conditions.

    Args:
        image: uint8 `[H, W, 3]`.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        rng: of what is random.

    Returns:
        uint8, of the same shape.

    Raises:
        ConfigError: unknown name or severity.
    """
    if name not in _KINDS or severity not in SEVERITIES:
        raise ConfigError(
            f"expected one of {', '.join(CORRUPTIONS)} at a severity from 1 to 5, got {name!r} at "
            f"{severity!r}"
        )
    kind = _KINDS[name]
    scale = min(image.shape[:2]) / _SIDE_PX
    arguments: list[Any] = []
    for number, value in enumerate(kind.arguments[severity - 1]):
        scaled = value * scale if number in kind.lengths else value
        arguments.append(max(1, round(scaled)) if isinstance(value, int) else scaled)
    if kind.is_random:
        arguments.append(rng)
    changed = kind.apply(image / 255.0, *arguments)
    pixels: NDArray[np.uint8] = np.rint(255 * changed.clip(0, 1)).astype(np.uint8)
    return pixels
