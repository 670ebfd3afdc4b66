"""One encoder of a classifier bundle, for images or texts, in ONNX Runtime."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aligned_vq.errors import ConfigError
from edge_client.backends.sessions import session_options


class OnnxTower:
    """A graph with one input and the output `embedding`. Thread-safe; one run at a time.

    Args:
        graph: content of the file.
        source: its path, for messages.
        input_name: `pixels` or `ids`.
        embedding_dim: width D of its output.
        threads: threads of an operator; 0: one per core.

    Raises:
        ConfigError: ONNX Runtime cannot run the graph, or it has other inputs or outputs.
    """

    def __init__(
        self, graph: bytes, source: str, input_name: str, embedding_dim: int, threads: int
    ) -> None:
        self._source, self._input, self._dim = source, input_name, embedding_dim
        options = session_options(threads)
        try:
            self._session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ConfigError(
                f"{source}: onnxruntime {onnxruntime.__version__} cannot run it ({error}); upgrade "
                "that package, or export the classifier again"
            ) from error
        inputs = [own.name for own in self._session.get_inputs()]
        outputs = [own.name for own in self._session.get_outputs()]
        if inputs != [input_name] or "embedding" not in outputs:
            raise ConfigError(
                f"{source}: expected the input {input_name} and the output embedding, got {inputs} "
                f"and {outputs}; export the classifier again"
            )
        self._lock = threading.Lock()

    def run(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The embeddings `[B, D]` float32 of a batch, unit vectors.

        Raises:
            ConfigError: the graph does not accept the batch, or returns another shape.
        """
        try:
            # One run at a time: another one would compete for the same cores.
            with self._lock:
                (embeddings,) = self._session.run(["embedding"], {self._input: values})
        except Exception as error:
            raise ConfigError(
                f"{self._source}: expected a graph that takes {self._input} "
                f"{list(values.shape)}, got: {error}; export the classifier again"
            ) from error
        expected = (len(values), self._dim)
        if embeddings.shape != expected or not np.isfinite(embeddings).all():
            raise ConfigError(
                f"{self._source}: expected finite embeddings {list(expected)}, got "
                f"{list(embeddings.shape)} or a number that is not finite; export the classifier "
                "again"
            )
        unit: NDArray[np.float32] = embeddings.astype(np.float32, copy=False)
        return unit
