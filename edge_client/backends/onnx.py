"""The edge halves with ONNX Runtime: the bundle's graphs, in float32, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aligned_vq.codec.bundle_files import read_spec, read_verified
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.codec.spec import CodecSpec
from aligned_vq.errors import ConfigError
from aligned_vq.graph import terms
from aligned_vq.types import Encoded, OperatingPoint, StageIndices
from edge_client.backends.base import BackendName
from edge_client.backends.sessions import session_options


class OnnxBackend:
    """See `Backend`.

    Args:
        bundle: directory of the bundle.
        manifest: of the bundle; it must have a graph.
        threads: threads of an operator; 0: one per core.

    Raises:
        ConfigError: the bundle is incomplete or damaged, or ONNX Runtime cannot run its graph.
    """

    name: BackendName = "onnx"

    def __init__(self, bundle: Path, manifest: SplitManifest, threads: int) -> None:
        self.spec = read_spec(bundle, manifest)
        self._bundle, self._manifest, self._threads = bundle, manifest, threads
        self._graphs = {"rgb": self._open("rgb")}

    def _open(self, modality: str) -> _Graph:
        half = self._manifest.edge_half(modality)
        path = self._bundle / half.graph_file
        graph = read_verified(path, half.graph_digest or "")
        weights = read_verified(self._bundle / half.weights_file, half.weights_digest)
        options = session_options(self._threads)
        # The bytes that were verified, not the file, which may have changed meanwhile.
        options.add_external_initializers_from_files_in_memory(
            [half.weights_file], [weights], [len(weights)]
        )
        try:
            session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ConfigError(
                f"{path}: onnxruntime {onnxruntime.__version__} cannot run it ({error}); "
                "upgrade that package, or choose the backend torch"
            ) from error
        return _Graph(session, self.spec)

    def run_prefix(self, pixels: NDArray[np.float32], modality: str = "rgb") -> OnnxPrefixOutput:
        """See `Backend`."""
        if modality not in self._graphs:
            self._graphs[modality] = self._open(modality)
        spec, graph = self.spec, self._graphs[modality]
        no_latents = np.zeros(
            (0, spec.features.num_tokens, spec.quantizer.codebook_dim), np.float32
        )
        outputs = graph.run(pixels[None], no_latents, graph.coverage((), 0.0), 0.0)
        statistics = outputs.get(terms.STATISTICS)
        halves = None if statistics is None else statistics.astype(np.float16)
        return OnnxPrefixOutput(graph, outputs[terms.LATENTS], halves)


class _Graph:
    """An ONNX Runtime session and the specification of its bundle."""

    def __init__(self, session: onnxruntime.InferenceSession, spec: CodecSpec) -> None:
        self.spec = spec
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        (pixels,) = (entry for entry in session.get_inputs() if entry.name == terms.PIXELS)
        self.no_pixels = np.zeros((0, *pixels.shape[1:]), np.float32)
        """Input of runs that start from latents: the graph skips its prefix on an empty batch."""

    def coverage(self, stages: Sequence[int], rate_weight: float) -> NDArray[np.uint8]:
        """Which tokens each stage covers, `[R]` codes of `terms`.

        The first of `stages` covers every token; later ones cover tokens whose gain exceeds the
        cost of their bits, or every token if the rate weight is 0.
        """
        cover = np.full(self.spec.quantizer.num_quantizers, terms.NOTHING, np.uint8)
        cover[list(stages)] = terms.BY_RATE if rate_weight else terms.EVERYTHING
        cover[list(stages[:1])] = terms.EVERYTHING
        return cover

    def run(
        self,
        pixels: NDArray[np.float32],
        latents: NDArray[np.float32],
        cover: NDArray[np.uint8],
        rate_weight: float,
    ) -> dict[str, NDArray[Any]]:
        """The graph's outputs by name, for pixels `[B, 3, H, W]` or latents `[B, N, d]`, of which
        one is an empty batch."""
        inputs = {
            terms.PIXELS: pixels,
            terms.KNOWN_LATENTS: latents,
            terms.COVER: cover,
            terms.RATE_WEIGHT: np.array(rate_weight, np.float32),
        }
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))


@dataclass(frozen=True)
class OnnxPrefixOutput:
    """Latents `[1, N, d]` of an image, and its token statistics `[N, 2]` float16 if the bundle
    sends them; see `PrefixOutput`."""

    graph: _Graph
    latents: NDArray[np.float32]
    statistics: NDArray[np.float16] | None

    def encode(self, point: OperatingPoint | None) -> Encoded:
        """See `PrefixOutput`."""
        spec = self.graph.spec
        point = point or spec.point()
        cover = self.graph.coverage(point.stages, point.rate_weight)
        outputs = self.graph.run(self.graph.no_pixels, self.latents, cover, point.rate_weight)
        # Also the stages that the point leaves out, without indices: their positions count.
        stages = [self._stage(outputs, n, cover) for n in range(max(point.stages) + 1)]
        return Encoded(spec.features.num_tokens, tuple(stages), self.statistics)

    def _stage(
        self, outputs: dict[str, NDArray[Any]], number: int, cover: NDArray[np.uint8]
    ) -> StageIndices:
        """The indices of one stage, and the mask `[N]` of the tokens it covers."""
        indices = outputs[terms.indices_name(number)].astype(np.int32)
        if cover[number] == terms.NOTHING:
            return StageIndices(indices, np.zeros(self.graph.spec.features.num_tokens, np.bool_))
        if cover[number] == terms.EVERYTHING:
            return StageIndices(indices)
        covered = outputs[terms.covered_name(number)]
        return StageIndices(indices[covered], covered)
