"""The edge half with ONNX Runtime: the bundle's `edge.onnx`, in float32, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aligned_vq.codec.bundle_files import EDGE, GRAPH, read_spec, read_verified
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.codec.spec import Encode
from aligned_vq.errors import ConfigError
from aligned_vq.graph import terms
from aligned_vq.types import Encoded, OperatingPoint, StageIndices
from edge_client.backends.base import BackendName

_ERRORS = 3  # of ONNX Runtime's levels of severity


class OnnxBackend:
    """See `Backend`.

    Args:
        bundle: its directory.
        manifest: the bundle's, which names a graph.
        threads: of the graph's operators; 0: one for each core.

    Raises:
        ConfigError: the bundle is incomplete or damaged, or ONNX Runtime cannot run its graph.
    """

    name: BackendName = "onnx"

    def __init__(self, bundle: Path, manifest: SplitManifest, threads: int) -> None:
        self.spec = read_spec(bundle, manifest)
        graph = read_verified(bundle / GRAPH, manifest.edge_graph_digest or "")
        weights = read_verified(bundle / EDGE, manifest.edge_weights_digest)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS
        options.intra_op_num_threads = threads
        # One block for all that a run needs is larger than what is needed at any one time.
        options.enable_mem_pattern = False
        # Threads without work sleep: what else runs beside a camera needs the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The very bytes that were verified, whatever happens to the file meanwhile.
        options.add_external_initializers_from_files_in_memory([EDGE], [weights], [len(weights)])
        try:
            self._session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no base of their own
            raise ConfigError(
                f"{bundle / GRAPH}: onnxruntime {onnxruntime.__version__} cannot run it ({error}); "
                "upgrade that package, or choose the backend torch"
            ) from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def look(self, pixels: NDArray[np.float32]) -> Encode:
        """The image's latents, held for the quantizer."""
        spec = self.spec
        unknown = np.zeros((0, spec.features.num_tokens, spec.quantizer.codebook_dim), np.float32)
        found = self._run(pixels[None], unknown, self._cover((), 0.0), 0.0)
        latents, statistics = found[terms.LATENTS], found.get(terms.STATISTICS)
        pairs = None if statistics is None else statistics.astype(np.float16)

        def encode(point: OperatingPoint | None) -> Encoded:
            chosen = point or spec.point()
            cover = self._cover(chosen.stages, chosen.rate_weight)
            said = self._run(pixels[None][:0], latents, cover, chosen.rate_weight)
            stages = [self._stage(said, number, cover) for number in range(max(chosen.stages) + 1)]
            return Encoded(spec.features.num_tokens, tuple(stages), pairs)

        return encode

    def _cover(self, stages: Sequence[int], rate_weight: float) -> NDArray[np.uint8]:
        """What each stage covers: the first used every token, and others where bits are free."""
        cover = np.full(self.spec.quantizer.num_quantizers, terms.NOTHING, np.uint8)
        cover[list(stages)] = terms.WORTHY if rate_weight else terms.EVERYTHING
        cover[list(stages[:1])] = terms.EVERYTHING
        return cover

    def _run(
        self,
        pixels: NDArray[np.float32],
        latents: NDArray[np.float32],
        cover: NDArray[np.uint8],
        rate_weight: float,
    ) -> dict[str, NDArray[Any]]:
        """The graph's outputs by name."""
        inputs = {
            terms.PIXELS: pixels,
            terms.KNOWN_LATENTS: latents,
            terms.COVER: cover,
            terms.RATE_WEIGHT: np.array(rate_weight, np.float32),
        }
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))

    def _stage(
        self, said: dict[str, NDArray[Any]], number: int, cover: NDArray[np.uint8]
    ) -> StageIndices:
        """What one stage sends, from the graph's outputs."""
        indices = said[terms.indices_name(number)].astype(np.int32)
        if cover[number] == terms.NOTHING:
            return StageIndices(indices, np.zeros(self.spec.features.num_tokens, np.bool_))
        if cover[number] == terms.EVERYTHING:
            return StageIndices(indices)
        covered = said[terms.covered_name(number)]
        return StageIndices(indices[covered], covered)
