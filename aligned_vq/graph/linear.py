"""Linear layers of a graph, with stored weights or weights quantized to 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto
from torch import Tensor

from aligned_vq.graph.builder import GraphBuilder
from aligned_vq.precision import INT8_WEIGHT_LIMIT

INT8_PRODUCT = "MatMulInteger"
"""The operator of layers with weights of 8 bits, and of nothing else in a graph."""


@dataclass(frozen=True)
class Linear:
    """Adds linear layers, named as in `edge.safetensors`, to a graph.

    Args:
        graph: the graph.
        int8_tensors: tensors whose weights are quantized to 8 bits and stored in the graph; None:
            layers use the weights in the file.
    """

    graph: GraphBuilder
    int8_tensors: Mapping[str, Tensor] | None = None

    def __call__(self, x: str, layer: str) -> str:
        """`x W^T + b` as rows `[M, out]` of rows `[M, in]`."""
        return self.several(x, [layer])[0]

    def several(self, x: str, layers: Sequence[str]) -> list[str]:
        """The outputs of several layers with the same input, which is quantized once."""
        if self.int8_tensors is None:
            return [self._float32(x, layer) for layer in layers]
        # One scale for all inputs, computed at run time, and one per output channel. ONNX Runtime
        # fuses these nodes into one operator.
        graph = self.graph
        rows, scale, zero = graph.add_many("DynamicQuantizeLinear", 3, x)
        outputs = []
        for layer in layers:
            weight = self.int8_tensors[f"{layer}.weight"].float().numpy()  # [out, in]
            # Symmetric; the lower bound is for rows of zeros.
            scales = np.maximum(np.abs(weight).max(1), 1e-12) / INT8_WEIGHT_LIMIT
            quantized = np.rint(weight / scales[:, None]).astype(np.int8)
            product = graph.add(INT8_PRODUCT, rows, graph.constant(quantized.T.copy()), zero)
            product = graph.add("Cast", product, to=TensorProto.FLOAT)
            # The sum of integer products times both scales is the product of the floats.
            product = graph.add("Mul", product, graph.add("Mul", scale, graph.constant(scales)))
            outputs.append(graph.add("Add", product, graph.weight(f"{layer}.bias")))
        return outputs

    def _float32(self, x: str, layer: str) -> str:
        weight, bias = (self.graph.weight(f"{layer}.{part}") for part in ("weight", "bias"))
        return self.graph.add("Gemm", x, weight, bias, transB=1)
