"""From a student to a graph with fake quantization, and from there to integers."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

from aligned_vq.edgevl.quantization.annotation import ProductQuantizer
from aligned_vq.edgevl.quantization.dropout import remove_dropout
from aligned_vq.edgevl.quantization.fake_quantize import StaticActivation
from aligned_vq.edgevl.students.config import StudentConfig
from aligned_vq.edgevl.students.layers import CHANNELS

_TRACED_IMAGES = 2
"""Images in the traced batch; the dimension is dynamic. With 1, tracing would fix it."""


def export_program(model: nn.Module, config: StudentConfig) -> ExportedProgram:
    """The operators of `model` for any batch of the student's images."""
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    side = config.image_size
    pixels = torch.zeros(_TRACED_IMAGES, CHANNELS, side, side, device=device)
    with torch_may_copy():
        return torch.export.export(model, (pixels,), dynamic_shapes=({0: Dim("batch")},))


def prepare(student: nn.Module, config: StudentConfig) -> GraphModule:
    """A graph of `student` with fake quantization and copies of its weights."""
    # In training mode, dropouts are in the graph. Shapes are checked by `QuantizedStudent`.
    program = export_program(copy.deepcopy(student).train(), config)
    with torch_may_copy():
        graph = program.module(check_guards=False)
        assert isinstance(graph, GraphModule)
        prepared: GraphModule = prepare_qat_pt2e(graph, ProductQuantizer())
    return prepared


def convert(prepared: GraphModule, config: StudentConfig) -> ExportedProgram:
    """The program with int8 weights and quantized activations; `prepared` is unchanged."""
    with torch_may_copy():
        graph = copy.deepcopy(prepared)
    remove_dropout(graph)
    device = next(graph.parameters()).device
    pixels = torch.zeros(1, CHANNELS, config.image_size, config.image_size, device=device)
    with torch.no_grad():
        graph(pixels)  # weights may have changed since the last pass: their scales follow
    with torch_may_copy():
        converted = convert_pt2e(graph)
    return export_program(converted, config)


@contextlib.contextmanager
def torch_may_copy() -> Iterator[None]:
    """Ignores one warning: torch copies objects of its own that it deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        yield


def activations(graph: GraphModule) -> dict[str, StaticActivation]:
    """The quantized activations, by the name of the first layer that reads them."""
    found = {}
    for node in graph.graph.nodes:
        module = graph.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, StaticActivation):
            found[_reader(node)] = module
    return found


def _reader(activation: Node) -> str:
    """Name of the layer whose weight meets this activation."""
    product = next(iter(activation.users))
    weight = product.args[1]
    assert isinstance(weight, Node)
    source = weight.args[0]  # behind the weight's fake quantization
    assert isinstance(source, Node)
    return str(source.target).removesuffix(".weight")
