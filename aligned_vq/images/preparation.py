"""From an image of a modality to a model's view of it: RGB of 8 bits, at the encoder's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from aligned_vq.images.depth import RangeSettings, student_view
from aligned_vq.images.formats import FORMATS
from aligned_vq.images.load import ImageSource, load_image, load_pixels
from aligned_vq.images.modality import Modality, Pixels
from aligned_vq.images.preprocess import View, view_of
from aligned_vq.images.processor import ProcessorSettings


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
    range: RangeSettings | None = None

    def view(self, image: Image.Image | Pixels) -> View:
        """The view of a decoded image: an RGB one of Pillow, or pixels of this modality.

        Raises:
            InvalidInput: the image is empty, of another mode, or without any measurement.
        """
        if isinstance(image, Pixels):
            return student_view(image, self.processor, self.range or RangeSettings())
        return view_of(image, self.processor)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {
            "processor": self.processor.to_dict(),
            "modality": self.modality,
            "range": None if self.range is None else self.range.to_dict(),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Preparation:
        """The settings that `to_dict` returned."""
        grey_range = None if raw["range"] is None else RangeSettings.from_dict(raw["range"])
        return cls(ProcessorSettings.from_dict(raw["processor"]), raw["modality"], grey_range)


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
