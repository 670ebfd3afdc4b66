"""Programs as ONNX files."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterable
from pathlib import Path

import onnx
import torch
from torch.export import ExportedProgram

from aligned_vq.edgevl.quantization.capture import export_program, torch_may_copy
from aligned_vq.edgevl.students.build import Student
from aligned_vq.files.atomic_file import write_file

INPUT, OUTPUT = "pixels", "embedding"
OPSET = 21


def export_fp32_onnx(student: Student, path: Path) -> None:
    """Write a student's float32 graph: `pixels` `[B, 3, H, W]` to `embedding` `[B, D]`.

    Raises:
        NotWritten: the disk is full or read-only.
    """
    write_program(export_program(copy.deepcopy(student).eval(), student.config), path)


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a program of one input and one output as an ONNX file with a dynamic batch.

    Raises:
        NotWritten: the disk is full or read-only.
    """
    # The exporter prints, even where it is told not to.
    with torch_may_copy(), contextlib.redirect_stdout(io.StringIO()):
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
    assert written is not None
    model = written.model_proto
    _shrink(model)
    write_file(path, model.SerializeToString())


def _shrink(model: onnx.ModelProto) -> None:
    """Remove what inference does not need: a fifth of a small int8 file."""
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:], graph.metadata_props[:]
    described: list[Iterable[onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto]] = [
        graph.node,
        graph.initializer,
        graph.input,
        graph.output,
    ]
    for things in described:
        for thing in things:
            del thing.metadata_props[:]
            thing.doc_string = ""
    _share_equal_tensors(graph)


def _share_equal_tensors(graph: onnx.GraphProto) -> None:
    """Store equal constants once, such as the masks of blocks on the same grid."""
    first_names: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    other_names: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        content = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if tensor.raw_data and content in first_names:
            other_names[tensor.name] = first_names[content]
            continue
        first_names[content] = tensor.name
        kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = other_names.get(name, name)
