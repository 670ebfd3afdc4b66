"""Linear layers of a graph, with weights as they are stored or of 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto
from torch import Tensor

from aligned_vq.graph.builder import GraphBuilder


@dataclass(frozen=True)
class Linear:
    """Adds linear layers on rows `[M, in]` to a graph, by their name in `edge.safetensors`.

    Args:
        graph: what they are added to.
        rounded: the stored tensors, to keep their weights inside the graph in 8 bits; None points
            to the weights as they are.
    """

    graph: GraphBuilder
    rounded: Mapping[str, Tensor] | None = None

    def __call__(self, x: str, layer: str) -> str:
        """`x W^T + b`, rows `[M, out]`."""
        return self.several(x, [layer])[0]

    def several(self, x: str, layers: Sequence[str]) -> list[str]:
        """The same for layers that read the same rows."""
        if self.rounded is None:
            return [self._exact(x, layer) for layer in layers]
        # One scale for all rows, found at run time, and one for every output of a layer. ONNX
        # Runtime makes a single operator of these nodes.
        graph = self.graph
        rows, scale, zero = graph.add_many("DynamicQuantizeLinear", 3, x)
        outputs = []
        for layer in layers:
            weight = self.rounded[f"{layer}.weight"].float().numpy()
            steps = np.maximum(np.abs(weight).max(1), 1e-12) / 127
            levels = np.rint(weight / steps[:, None]).astype(np.int8)
            product = graph.add("MatMulInteger", rows, graph.constant(levels.T.copy()), zero)
            product = graph.add("Cast", product, to=TensorProto.FLOAT)
            product = graph.add("Mul", product, graph.add("Mul", scale, graph.constant(steps)))
            outputs.append(graph.add("Add", product, graph.weight(f"{layer}.bias")))
        return outputs

    def _exact(self, x: str, layer: str) -> str:
        weight, bias = (self.graph.weight(f"{layer}.{part}") for part in ("weight", "bias"))
        return self.graph.add("Gemm", x, weight, bias, transB=1)
