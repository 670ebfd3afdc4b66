"""The edge halves with torch: runs every bundle in every precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aligned_vq.codec.bundle import open_edge_bundle, open_modality_prefix
from aligned_vq.codec.feature_codec import TorchPrefixOutput
from edge_client.backends.base import BackendName


class TorchBackend:
    """See `Backend`.

    Args:
        bundle: directory of the bundle.
        dtype: precision of the vision prefix, "float32" or "bfloat16".
        threads: threads of the whole process; 0: torch's default.

    Raises:
        ConfigError: the bundle is incomplete or damaged.
    """

    name: BackendName = "torch"

    def __init__(self, bundle: Path, dtype: str, threads: int) -> None:
        if threads:
            torch.set_num_threads(threads)
        # Images enter in this dtype as well; the codec behind the prefix stays in float32.
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._bundle = bundle
        edge = open_edge_bundle(bundle, self._dtype)
        self._manifest, self._codec = edge.manifest, edge.codec
        self._prefixes = {"rgb": edge.prefix}
        self.spec = edge.codec.spec

    @torch.inference_mode()
    def run_prefix(self, pixels: NDArray[np.float32], modality: str = "rgb") -> TorchPrefixOutput:
        """See `Backend`."""
        if modality not in self._prefixes:
            self._prefixes[modality] = open_modality_prefix(
                self._bundle, self._manifest, modality, self._dtype
            )
        prefix = self._prefixes[modality]
        features, residual = prefix(torch.from_numpy(pixels)[None].to(self._dtype))
        return TorchPrefixOutput(self._codec, features[0], residual[0])
