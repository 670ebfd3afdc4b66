"""ONNX graphs of students in ONNX Runtime, against torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from aligned_vq.edgevl.quantization.onnx_files import export_fp32_onnx
from aligned_vq.edgevl.students.build import build_student
from tests.edgevl.tiny import CONFIGS, calibrated, images


def session(path: Path, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # saving an optimised graph is a warning
    if optimised:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def sqnr_db(exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> float:
    """Signal to quantization noise."""
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - rounded).sum()))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_int8_graph_computes_what_was_trained(architecture: str, tmp_path: Path) -> None:
    student = calibrated(architecture)
    path = tmp_path / "student.onnx"
    student.export_onnx(path)
    runtime = session(path, tmp_path / "optimised.onnx")
    for batch in (1, 5):
        pixels = images(batch, 3)
        with torch.no_grad():
            expected = student(pixels).numpy()
        (embeddings,) = runtime.run(None, {"pixels": pixels.numpy()})
        assert embeddings.shape == expected.shape
        assert sqnr_db(expected, embeddings) >= 35

    model = onnx.load(path)
    assert ("", 21) in [(one.domain, one.version) for one in model.opset_import]
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    layers = build_student(CONFIGS[architecture], 0).modules()
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    assert sum(len(tensor.raw_data) for tensor in weights) >= sum(
        layer.weight.numel() for layer in linear
    )
    # One integer product for each linear layer, none in float behind a dequantized weight.
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert operators["MatMulIntegerToFloat"] == len(linear)
    assert operators["DequantizeLinear"] == 0


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_float_graph_equals_torch(architecture: str, tmp_path: Path) -> None:
    student = build_student(CONFIGS[architecture], 0)
    export_fp32_onnx(student, tmp_path / "student.onnx")
    assert student.training
    runtime = session(tmp_path / "student.onnx")
    for batch in (1, 5):
        pixels = images(batch, 3)
        with torch.no_grad():
            expected = student.eval()(pixels).numpy()
        student.train()
        (embeddings,) = runtime.run(None, {"pixels": pixels.numpy()})
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_weights_of_the_last_step_are_exported(tmp_path: Path) -> None:
    student = calibrated("vit")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.5)  # scales of weights from the last pass would now clip
        expected = student(images(2, 3)).numpy()
    student = student.train()
    state = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    fresh = calibrated("vit")
    fresh.load_state_dict(state)
    fresh.export_onnx(tmp_path / "student.onnx")
    (embeddings,) = session(tmp_path / "student.onnx").run(None, {"pixels": images(2, 3).numpy()})
    assert sqnr_db(expected, embeddings) >= 35
