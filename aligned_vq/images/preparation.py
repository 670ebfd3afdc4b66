"""From an image of a modality to a model's view of it: RGB of 8 bits, at the encoder's size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from aligned_vq.errors import InvalidInput
from aligned_vq.images.conversion import is_deep
from aligned_vq.images.depth import RangeSettings, student_view
from aligned_vq.images.formats import FORMATS
from aligned_vq.images.load import ImageSource, load_image, load_pixels
from aligned_vq.images.modality import Modality, Pixels
from aligned_vq.images.preprocess import View, view_of
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.images.reduced_decoding import Header


@dataclass(frozen=True)
class Preparation:
    """How an image becomes a view.

    Args:
        processor: size and normalisation.
        modality: what the camera measures.
        range: of grey values; None for rgb, and only there.
        deep_modalities: for rgb: what grey of more than 8 bits is taken for, and so refused as;
            without any, it is scaled to 8 bits.
    """

    processor: ProcessorSettings
    modality: Modality = "rgb"
    range: RangeSettings | None = None
    deep_modalities: tuple[str, ...] = ()

    @classmethod
    def among(
        cls,
        processor: ProcessorSettings,
        modality: Modality,
        greys: RangeSettings | None,
        modalities: Iterable[str],
    ) -> Preparation:
        """The preparation for one of a bundle's `modalities`.

        Grey of 16 bits is scaled for rgb, but not where it is likely to be a depth map.
        """
        others = tuple(name for name in modalities if name != "rgb")
        return cls(processor, modality, greys, others if modality == "rgb" else ())

    def view(self, image: Image.Image | Pixels) -> View:
        """The view of a decoded image: an RGB one of Pillow, or pixels of this modality.

        Raises:
            InvalidInput: the image is empty, of another mode, or without any measurement.
        """
        if isinstance(image, Pixels):
            return student_view(image, self.processor, self.range or RangeSettings())
        return view_of(image, self.processor)

    def check_source(self, source: ImageSource) -> None:
        """InvalidInput if an array or a Pillow image is of another modality; see `check_mode`."""
        if isinstance(source, Image.Image):
            self.check_mode(source.mode)
        elif isinstance(source, np.ndarray) and source.shape[2:] in ((), (1,)):
            self.check_mode("L" if source.dtype == np.uint8 else "F")

    def admit(self, header: Header) -> None:
        """`check_mode` of an encoded image, for `load_image`."""
        self.check_mode(header.mode)

    def check_mode(self, mode: str) -> None:
        """InvalidInput if Pillow's mode of an image is that of another modality."""
        if self.deep_modalities and is_deep(mode):
            raise InvalidInput(
                "expected colour, or grey of 8 bits, for the modality rgb, got one channel of more "
                f"bits, which looks like {' or '.join(self.deep_modalities)}: name its modality, "
                "or save it with 8 bits"
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {
            "processor": self.processor.to_dict(),
            "modality": self.modality,
            "range": None if self.range is None else self.range.to_dict(),
            "deep_modalities": self.deep_modalities,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Preparation:
        """The settings that `to_dict` returned."""
        grey_range = None if raw["range"] is None else RangeSettings.from_dict(raw["range"])
        processor = ProcessorSettings.from_dict(raw["processor"])
        return cls(processor, raw["modality"], grey_range, tuple(raw["deep_modalities"]))


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
        preparation.check_source(source)
        return preparation.view(load_image(source, formats=formats, admit=preparation.admit))
    return preparation.view(load_pixels(source, preparation.modality, formats=formats))
