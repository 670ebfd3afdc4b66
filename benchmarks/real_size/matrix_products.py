"""Speed of plain matrix products in a backend's library, the reference for the time of a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

Library = Literal["torch", "onnx"]
ROWS, INNER, COLUMNS = 577, 1024, 4096
"""Dimensions of ViT-L/14-336's largest product: tokens, width, MLP width."""
FLOPS = 2 * ROWS * INNER * COLUMNS
_REPEATS = 4


def products(library: Library, threads: int) -> Callable[[], float]:
    """A function that measures the seconds per floating-point operation at every call.

    It averages a few products of `[577, 1024]` and `[1024, 4096]` in float32.
    """
    multiply = _onnx(threads) if library == "onnx" else _torch(threads)
    multiply()  # the first call is slower

    def seconds_per_flop() -> float:
        started = time.perf_counter()
        for _ in range(_REPEATS):
            multiply()
        return (time.perf_counter() - started) / (_REPEATS * FLOPS)

    return seconds_per_flop


def _torch(threads: int) -> Callable[[], object]:
    torch.set_num_threads(threads)
    left, right = torch.ones(ROWS, INNER), torch.ones(COLUMNS, INNER)
    # As in a linear layer, whose weight has one row for each output.
    return lambda: torch.nn.functional.linear(left, right)


def _onnx(threads: int) -> Callable[[], object]:
    weight = numpy_helper.from_array(np.ones((INNER, COLUMNS), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["left", "weight"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, [ROWS, INNER])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, [ROWS, COLUMNS])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the edge does
    # The weight is an initialiser, so that the library may pack it in advance, as for a model.
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    left = np.ones((ROWS, INNER), np.float32)
    return lambda: session.run(None, {"left": left})
