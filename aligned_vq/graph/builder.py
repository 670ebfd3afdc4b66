"""Writes an ONNX graph node by node, over tensors of a safetensors file that it only points into.

A safetensors file is a header and then plain little-endian tensors: what ONNX calls external data,
named by file, offset and length. So the graph holds no weights of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Branch = Callable[["GraphBuilder"], Sequence[str]]
"""Writes its nodes to the graph it is given; says which values come out."""


class GraphBuilder:
    """Nodes in the order they were added; a value is known by its name.

    Args:
        weights: tensors of the file by name (`stored_tensors`).
    """

    def __init__(self, weights: Mapping[str, TensorProto]) -> None:
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._numbers = itertools.count()

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The output of one more operator."""
        return self.add_many(kind, 1, *inputs, **attributes)[0]

    def add_many(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """The outputs of one more operator that has several."""
        names = [f"{kind}_{next(self._numbers)}" for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def either(self, condition: str, then: Branch, otherwise: Branch) -> list[str]:
        """The outputs of one of two branches, the only one that is run; both may read all values
        of this graph."""
        bodies = {}
        for name, write in (("then_branch", then), ("else_branch", otherwise)):
            inner = GraphBuilder(self.weights)
            inner.initializers, inner._numbers = self.initializers, self._numbers
            outputs = [inner.add("Identity", value) for value in write(inner)]
            ends = [helper.make_empty_tensor_value_info(value) for value in outputs]
            bodies[name] = helper.make_graph(inner.nodes, name, [], ends)
        return self.add_many("If", len(outputs), condition, **bodies)

    def constant(self, values: NDArray[Any]) -> str:
        """An array that is kept inside the graph."""
        name = f"constant_{next(self._numbers)}"
        self.initializers[name] = numpy_helper.from_array(values, name)
        return name

    def floats(self, *values: float) -> str:
        """A float32 scalar, or `[n]` of several numbers."""
        return self.constant(np.array(values if len(values) > 1 else values[0], np.float32))

    def ints(self, *values: int) -> str:
        """Numbers as int64 `[n]`, such as a shape or axes."""
        return self.constant(np.array(values, np.int64))

    def weight(self, name: str) -> str:
        """A tensor of the file, as float32."""
        stored = self.initializers[name] = self.weights[name]
        if stored.data_type == TensorProto.FLOAT:
            return name
        return self.add("Cast", name, to=TensorProto.FLOAT)
