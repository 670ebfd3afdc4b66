"""Image modalities, and the shapes and dtypes of their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aligned_vq.errors import InvalidInput

Modality = Literal["rgb", "depth", "infrared", "bands"]
"""Colour; distance from the camera; one infrared band; any number of spectral bands."""
CameraModality = Literal["rgb", "depth", "infrared"]
"""What image files hold, and so what bundles may be made for."""
CAMERA_MODALITIES: tuple[CameraModality, ...] = ("rgb", "depth", "infrared")


class PixelForm(NamedTuple):
    """The allowed pixels of a modality."""

    channels: int | None
    """None: any number of 1 or more."""
    dtypes: tuple[str, ...]
    meaning: str
    """Meaning and units of the values, for messages."""


FORMS: dict[Modality, PixelForm] = {
    "rgb": PixelForm(3, ("uint8",), "red, green and blue"),
    "depth": PixelForm(1, ("uint16", "float32"), "millimetres of uint16 or metres of float32"),
    "infrared": PixelForm(1, ("uint8", "uint16", "float32"), "intensities"),
    "bands": PixelForm(None, ("uint8", "uint16", "float32"), "intensities of each band"),
}


@dataclass(frozen=True, eq=False)
class Pixels:
    """An upright image of one modality.

    Raises:
        InvalidInput: the modality does not allow the shape or dtype, or the image is empty.
    """

    values: NDArray[np.generic]
    """`[H, W, C]`; see `FORMS` for channels, dtypes and units."""
    modality: Modality = "rgb"

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        form, shape = FORMS[self.modality], self.values.shape
        if len(shape) != 3 or 0 in shape or form.channels not in (None, shape[2]):
            raise InvalidInput(
                f"expected pixels [H, W, {form.channels or 'C'}] of {self.modality} "
                f"({form.meaning}), got shape {list(shape)}: send one image, its channels last"
            )
        if str(self.values.dtype) not in form.dtypes:
            raise InvalidInput(
                f"expected {self.modality} pixels of {' or '.join(form.dtypes)} ({form.meaning}), "
                f"got {self.values.dtype}: convert them with astype"
            )

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])
