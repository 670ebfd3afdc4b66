"""Depth, infrared and single bands as grey images, and as the input of an image encoder.

The encoder sees colour and these greys (EdgeVL, Cai et al., ECCV 2024): one channel, repeated to
three and normalised as colour is. Measured pixels are 1 to 255, others 0. Near is bright: depth
cameras lose what is far or dark, so holes look like something far away, not like an object in front
of the camera. Other modalities keep their order: more is brighter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.files.typed_fields import check_declared
from aligned_vq.images.masked_resize import frame_valid
from aligned_vq.images.modality import CAMERA_MODALITIES, Pixels
from aligned_vq.images.preprocess import View, normalize, view_of
from aligned_vq.images.processor import ProcessorSettings, Triple

MAX_DEPTH_M = 100.0
"""Float maps with more are taken for millimetres; no common depth camera sees as far."""
MIN_DEPTH_MM = 20
"""Integer maps without as much are taken for metres."""
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class RangeSettings:
    """Which values become the darkest and the brightest grey; values beyond are clipped.

    A fixed range gives a depth the same grey in every frame of a stream. Percentiles adapt to each
    image: contrast is better, but greys change as something enters the image.

    Raises:
        ConfigError: a bound has another type, is not finite or out of order.
    """

    fixed: tuple[float, float] | None = None
    """Low and high: metres of depth, stored values of other modalities."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """Of the valid pixels of each image, where `fixed` is None."""

    def __post_init__(self) -> None:
        """Check both."""
        check_declared(self)
        low, high = self.fixed or (0.0, 1.0)
        if not (math.isfinite(low) and low < high < math.inf):
            raise ConfigError(f"expected a fixed range (low, high), got {self.fixed}; correct it")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(
                f"expected rising percentiles of 0 to 100, got {self.percentiles}; correct them"
            )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RangeSettings:
        """The settings that `to_dict` wrote; ConfigError names what is unknown or wrong."""
        if unknown := sorted(set(fields) - set(cls.__dataclass_fields__)):
            raise ConfigError(f"expected fixed and percentiles, got {unknown[0]!r}; remove it")
        return cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()})

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {n: v if v is None else [float(one) for one in v] for n, v in asdict(self).items()}


def check_range(modality: str, settings: RangeSettings | None) -> None:
    """ConfigError unless a model may be made for the modality, and all but rgb have a range."""
    if modality not in CAMERA_MODALITIES or (settings is None) != (modality == "rgb"):
        raise ConfigError(
            f"expected a modality of {', '.join(CAMERA_MODALITIES)}, with a range unless it is "
            f"rgb, got {modality!r} with {settings}; correct it"
        )


@dataclass(frozen=True, eq=False)
class GreyImage:
    """A grey image with holes."""

    values: NDArray[np.uint8]
    """`[H, W]`: 1 to 255, and 0 where there was no measurement."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """`[H, W]`: which pixels were measured."""
        return self.values > 0


def measured(pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values `[H, W]`, depth in metres, and which of them are measurements.

    Depth of 0 or less is none; NaN and infinity are none in any modality. They are returned as 0.

    Raises:
        InvalidInput: several channels, no valid pixel, or depths out of their dtype's unit.
    """
    if pixels.modality == "rgb" or pixels.values.shape[2] != 1:
        raise InvalidInput(
            f"expected depth, infrared or a single band, got {pixels.modality} pixels of "
            f"{pixels.values.shape[2]} channels: select one band, or send colour as rgb"
        )
    stored = pixels.values[:, :, 0]
    values = stored.astype(np.float32)
    valid = np.isfinite(values)
    if pixels.modality == "depth":
        valid &= values > 0
    if not valid.any():
        raise InvalidInput(
            f"expected {pixels.modality} pixels with measurements, got {pixels.height} x "
            f"{pixels.width} without any (0, NaN or infinite): check camera and file"
        )
    values = np.where(valid, values, np.float32(0))
    return (_metres(values, stored.dtype) if pixels.modality == "depth" else values), valid


def grey_image(pixels: Pixels, settings: RangeSettings = RangeSettings()) -> GreyImage:
    """Depth, infrared or a single band as greys; near is bright.

    Raises:
        InvalidInput: as `measured`; or the range is that of the image, and its valid pixels have
            one value. With a fixed range that is a valid image: a wall, say.
        ConfigError: the fixed range of depth cannot be in metres.
    """
    values, valid = measured(pixels)
    low, high = _bounds(values[valid], settings, pixels.modality)
    share = np.clip((values - low) / (high - low), 0, 1)
    if pixels.modality == "depth":
        share = 1 - share
    return GreyImage(np.where(valid, np.rint(1 + 254 * share), 0).astype(np.uint8))


def student_processor(
    side_px: int, mean: Triple = IMAGENET_MEAN, std: Triple = IMAGENET_STD
) -> ProcessorSettings:
    """The student's preparation: resized to a square without a crop, and normalised."""
    size = (side_px, side_px)
    return ProcessorSettings(size=size, do_center_crop=False, image_mean=mean, image_std=std)


def student_pixels(
    image: Pixels, processor: ProcessorSettings, settings: RangeSettings = RangeSettings()
) -> NDArray[np.float32]:
    """The encoder's input `[3, H, W]`, float32: its view, normalised.

    Arguments and errors are those of `student_view`.
    """
    return normalize(student_view(image, processor, settings), processor)


def student_view(
    image: Pixels, processor: ProcessorSettings, settings: RangeSettings = RangeSettings()
) -> View:
    """The encoder's view of an image: uint8 `[H, W, 3]`.

    Args:
        image: of any modality. Colour is prepared by `view_of`. Greys are framed alike, but resized
            bilinearly and without their holes (`frame_valid`), whatever the processor's filter;
            holes and borders are black.
        processor: sides, steps and numbers.
        settings: the range of greys; not used for colour.

    Raises:
        InvalidInput: as `grey_image` and `frame_valid`.
        ConfigError: as `grey_image`.
    """
    if image.modality == "rgb":
        return view_of(Image.fromarray(image.values), processor)
    grey = grey_image(image, settings)
    values, valid = frame_valid(grey.values.astype(np.float32), grey.valid, processor)
    framed = np.where(valid, np.rint(values), 0).astype(np.uint8)
    return View(np.repeat(framed[:, :, None], 3, axis=2), image.modality)


def _metres(values: NDArray[np.float32], stored: np.dtype[Any]) -> NDArray[np.float32]:
    farthest = float(values.max())
    if stored == np.uint16 and farthest < MIN_DEPTH_MM:
        raise InvalidInput(
            f"expected depth of uint16 in millimetres, got at most {farthest:g}, which looks like "
            "metres: multiply by 1000, or send float32"
        )
    if stored != np.uint16 and farthest > MAX_DEPTH_M:
        raise InvalidInput(
            f"expected depth of float32 in metres, at most {MAX_DEPTH_M:g}, got {farthest:g}, "
            "which looks like millimetres: divide by 1000, or send uint16"
        )
    return values / np.float32(1000) if stored == np.uint16 else values


def _bounds(
    values: NDArray[np.float32], settings: RangeSettings, modality: str
) -> tuple[float, float]:
    if settings.fixed is not None:
        if modality == "depth" and settings.fixed[1] > MAX_DEPTH_M:
            raise ConfigError(
                f"expected a range of depth in metres, at most {MAX_DEPTH_M:g}, got "
                f"{settings.fixed}, which looks like millimetres; divide by 1000"
            )
        return settings.fixed
    low, high = (float(bound) for bound in np.percentile(values, settings.percentiles))
    if low == high:
        raise InvalidInput(
            f"expected {modality} pixels that differ, got a constant map: percentiles "
            f"{settings.percentiles} are {low:g}; check the camera, or set a fixed range"
        )
    return low, high
