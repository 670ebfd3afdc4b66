"""The teacher's text encoder as an int8 graph, so that a device reads labels of its user's."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from torch.export import Dim

from aligned_vq.dual_encoder.checkpoint import DualEncoder
from aligned_vq.edgevl.quantization.capture import torch_may_copy

OPSET = 21
MAX_TEXTS = 4096


class TextEncoder(nn.Module):
    """Token ids `[T, L]` to unit vectors `[T, D]`, float32."""

    def __init__(self, teacher: DualEncoder) -> None:
        super().__init__()
        self.model = teacher.text_model
        self.output = teacher.text_output

    def forward(self, ids: Tensor) -> Tensor:
        """Embed token ids, padded to the context."""
        embedded: Tensor = getattr(self.model(input_ids=ids), self.output)
        return nn.functional.normalize(embedded, dim=-1)


def text_graph(teacher: DualEncoder) -> bytes:
    """An ONNX graph from `ids` int64 `[T, L]` to `embedding` float32 `[T, D]`, unit vectors.

    Weights are int8 per output channel; activations get their range from each text (dynamic
    quantization), because no text but the user's is at hand.
    """
    example = teacher.token_ids(["a kitchen", "a bathroom"])
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),  # the exporter prints
        torch_may_copy(),
    ):
        whole, small = Path(folder, "text.onnx"), Path(folder, "int8.onnx")
        written = torch.onnx.export(
            TextEncoder(teacher).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["ids"],
            output_names=["unit_vectors"],
            dynamic_shapes=({0: Dim("texts", min=1, max=MAX_TEXTS)},),
            external_data=False,
            verbose=False,
        )
        assert written is not None
        written.save(whole)
        # As `INT8_WEIGHT_LIMIT`: half the range, which no processor's 16 bits overflow.
        quantize_dynamic(
            whole, small, per_channel=True, weight_type=QuantType.QInt8, reduce_range=True
        )
        model = onnx.load(small)
    # Renamed only here: the exporter takes the name `embedding` for the rows of the tokens.
    _rename(model.graph, {"embedding": "token_rows", "unit_vectors": "embedding"})
    content: bytes = model.SerializeToString()
    return content


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.value_info, *graph.output):
        value.name = names.get(value.name, value.name)


def tokenizer_file(teacher: DualEncoder) -> bytes:
    """`tokenizer.json` with padding to the context by the teacher's padding token."""
    with tempfile.TemporaryDirectory() as folder:
        teacher.tokenizer.save_pretrained(folder)
        content = json.loads(Path(folder, "tokenizer.json").read_text("utf-8"))
    content["padding"] = {
        "strategy": {"Fixed": teacher.context_tokens},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": teacher.tokenizer.pad_token_id,
        "pad_type_id": 0,
        "pad_token": teacher.tokenizer.pad_token,
    }
    content["truncation"] = None  # a text that is too long is an error, not cut
    return json.dumps(content, ensure_ascii=False).encode()
