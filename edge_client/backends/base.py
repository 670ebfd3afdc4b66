"""The interface of backends."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from aligned_vq.codec.spec import CodecSpec, PrefixOutput

BackendName = Literal["onnx", "torch"]
BackendChoice = Literal["auto", "onnx", "torch"]
Precision = Literal["float32", "bfloat16"]


class Backend(Protocol):
    """Runs the edge half of one bundle, one image at a time."""

    name: BackendName
    spec: CodecSpec

    def run_prefix(self, pixels: NDArray[np.float32]) -> PrefixOutput:
        """The vision prefix's output for normalised pixels `[3, H, W]`."""
        ...
