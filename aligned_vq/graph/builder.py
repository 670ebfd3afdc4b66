"""A builder of ONNX graphs whose weights stay in a safetensors file.

The tensors of a safetensors file are plain little-endian data, which ONNX can refer to as external
data by file, offset and length. The graph therefore contains no copy of the weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Branch = Callable[["GraphBuilder"], Sequence[str]]
"""Adds nodes to the given graph and returns the names of its output values."""


class GraphBuilder:
    """Collects nodes in execution order; values are identified by name.

    Args:
        weights: tensors of the safetensors file, by name (`stored_tensors`).
    """

    def __init__(self, weights: Mapping[str, TensorProto]) -> None:
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._numbers = itertools.count()

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output; returns the output's name."""
        return self.add_many(kind, 1, *inputs, **attributes)[0]

    def add_many(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add an operator with several outputs; returns their names."""
        names = [f"{kind}_{next(self._numbers)}" for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def either(self, condition: str, then: Branch, otherwise: Branch) -> list[str]:
        """Add a conditional, which runs only one branch; returns the names of its outputs.

        Both branches may use all values of this graph.
        """
        branches = {}
        for name, write in (("then_branch", then), ("else_branch", otherwise)):
            branch = GraphBuilder(self.weights)
            # Shared, so that constants are stored once and names are unique in the whole model.
            branch.initializers, branch._numbers = self.initializers, self._numbers
            # Identity: an output may be a value of the outer graph, which ONNX does not allow.
            outputs = [branch.add("Identity", value) for value in write(branch)]
            output_infos = [helper.make_empty_tensor_value_info(value) for value in outputs]
            branches[name] = helper.make_graph(branch.nodes, name, [], output_infos)
        return self.add_many("If", len(outputs), condition, **branches)

    def constant(self, values: NDArray[Any]) -> str:
        """Add an array that is stored in the graph; returns its name."""
        name = f"constant_{next(self._numbers)}"
        self.initializers[name] = numpy_helper.from_array(values, name)
        return name

    def floats(self, *values: float) -> str:
        """Add a float32 constant: a scalar for one number, else `[n]`; returns its name."""
        return self.constant(np.array(values if len(values) > 1 else values[0], np.float32))

    def ints(self, *values: int) -> str:
        """Add an int64 constant `[n]`, such as a shape or axes; returns its name."""
        return self.constant(np.array(values, np.int64))

    def weight(self, name: str) -> str:
        """A tensor of the safetensors file, converted to float32 if necessary."""
        stored = self.initializers[name] = self.weights[name]
        if stored.data_type == TensorProto.FLOAT:
            return name
        return self.add("Cast", name, to=TensorProto.FLOAT)
