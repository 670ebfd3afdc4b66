"""What every backend can do."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from aligned_vq.codec.spec import CodecSpec, Encode

BackendName = Literal["onnx", "torch"]
BackendChoice = Literal["auto", "onnx", "torch"]
Precision = Literal["float32", "bfloat16"]


class Backend(Protocol):
    """Runs the edge half of one bundle, one image at a time."""

    name: BackendName
    spec: CodecSpec

    def look(self, pixels: NDArray[np.float32]) -> Encode:
        """Run the vision prefix on normalised pixels `[3, H, W]`.

        What comes out says what an operating point sends of the image, as often as it is asked; the
        prefix does not run again.
        """
        ...
