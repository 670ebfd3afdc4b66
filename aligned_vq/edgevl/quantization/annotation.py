"""Which tensors of a graph are quantized."""

from __future__ import annotations

import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

from aligned_vq.edgevl.quantization.fake_quantize import ChannelWeight, StaticActivation
from aligned_vq.precision import INT8_WEIGHT_LIMIT

_KEY = "quantization_annotation"  # where torchao looks for annotations
_LINEAR = torch.ops.aten.linear.default
ACTIVATION = QuantizationSpec(torch.uint8, StaticActivation, 0, 255, torch.per_tensor_affine)
WEIGHT = QuantizationSpec(
    torch.int8,
    ChannelWeight,
    -INT8_WEIGHT_LIMIT,
    INT8_WEIGHT_LIMIT,
    torch.per_channel_symmetric,
    ch_axis=0,
)


class ProductQuantizer(Quantizer):
    """Quantizes inputs and weights of linear layers, and nothing else.

    LayerNorm, softmax, GELU, residual additions, biases and outputs remain float: ONNX Runtime
    fuses dequantization into the product, and each further rounding would cost accuracy.
    """

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark the tensors."""
        for node in model.graph.nodes:
            if node.target is _LINEAR:
                x, weight = node.args[0], node.args[1]
                inputs = {x: ACTIVATION, weight: WEIGHT}
                node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: every linear layer can be quantized."""
