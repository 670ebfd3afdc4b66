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
    """Runs the edge halves of one bundle, one image at a time.

    That of rgb is loaded at once, another one for its first image.
    """

    name: BackendName
    spec: CodecSpec

    def run_prefix(self, pixels: NDArray[np.float32], modality: str = "rgb") -> PrefixOutput:
        """The output of a modality's vision prefix for normalised pixels `[3, H, W]`.

        Raises:
            InvalidInput: the bundle has no edge half for the modality.
            ConfigError: that half is incomplete or damaged.
        """
        ...
