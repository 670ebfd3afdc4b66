"""From an image of a modality to the classifier's view: RGB of 8 bits, at the encoder's size.

Depth and infrared images become grey ones by a fixed range, so that a distance or an intensity has
the same grey level in every image; the three channels are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.errors import ConfigError
from aligned_vq.images.formats import FORMATS
from aligned_vq.images.load import ImageSource, load_image, load_pixels
from aligned_vq.images.modality import Modality, Pixels
from aligned_vq.images.preprocess import View, view_of
from aligned_vq.images.processor import ProcessorSettings


@dataclass(frozen=True)
class GreyRange:
    """The values that become black and white; those beyond are clipped.

    Args:
        low: black; in metres for depth, as stored for infrared.
        high: white.

    Raises:
        ConfigError: the two are not finite, or not in order.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check both."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                f"expected a range of finite numbers with low below high, got {self.low} to "
                f"{self.high}; export the classifier again"
            )


def grey_view(pixels: Pixels, grey_range: GreyRange, side_px: int) -> View:
    """The view of a depth or infrared image: uint8 `[S, S, 3]`, resized without cropping.

    Depth pixels without a measurement (0, or not finite) become black.
    """
    values = metres(pixels) if pixels.modality == "depth" else _float32(pixels)
    scaled = (values - grey_range.low) / (grey_range.high - grey_range.low)
    valid = np.isfinite(values) & ((values > 0) | (pixels.modality != "depth"))
    grey = np.where(valid, np.clip(np.nan_to_num(scaled), 0, 1), 0) * 255
    image = Image.fromarray(np.rint(grey).astype(np.uint8))
    resized = np.asarray(image.resize((side_px, side_px), Image.Resampling.BICUBIC))
    return View(np.ascontiguousarray(np.repeat(resized[:, :, None], 3, axis=2)))


def metres(pixels: Pixels) -> NDArray[np.float32]:
    """Distances `[H, W]` in metres: uint16 holds millimetres."""
    values = _float32(pixels)
    return values / np.float32(1000) if pixels.values.dtype == np.uint16 else values


def _float32(pixels: Pixels) -> NDArray[np.float32]:
    return pixels.values[:, :, 0].astype(np.float32)


@dataclass(frozen=True)
class Preparation:
    """How an image becomes a view.

    Args:
        processor: size and normalisation.
        modality: what the camera measures.
        range: of grey values; None for rgb, and only there.
    """

    processor: ProcessorSettings
    modality: Modality = "rgb"
    range: GreyRange | None = None

    def view(self, image: Image.Image | Pixels) -> View:
        """The view of a decoded image: an RGB one of Pillow, or pixels of this modality.

        Raises:
            InvalidInput: the image is empty, or of another mode.
        """
        if isinstance(image, Pixels):
            assert self.range is not None  # as for every modality but rgb
            return grey_view(image, self.range, self.processor.output_size[0])
        return view_of(image, self.processor)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        range_ = None if self.range is None else asdict(self.range)
        return {
            "processor": self.processor.to_dict(),
            "modality": self.modality,
            "range": range_,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Preparation:
        """The settings that `to_dict` returned."""
        range_ = None if raw["range"] is None else GreyRange(**raw["range"])
        return cls(ProcessorSettings.from_dict(raw["processor"]), raw["modality"], range_)


def open_source(
    source: ImageSource, preparation: Preparation, formats: Sequence[str] = FORMATS
) -> View:
    """The view of an image source, decoded in this process.

    Args:
        source: as for `load_image` or, for other modalities than rgb, `load_pixels`.
        preparation: modality and settings.
        formats: allowed formats of encoded images.

    Raises:
        InvalidInput: the source cannot be used.
    """
    if preparation.modality == "rgb":
        return preparation.view(load_image(source, formats=formats))
    return preparation.view(load_pixels(source, preparation.modality, formats=formats))
