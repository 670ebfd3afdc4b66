"""Size, time and memory of students' int8 graphs beside their float32 graphs, on one thread.

    python -m benchmarks.speed.students --presets reference published --clip

Weights are random: size and time do not depend on them. Both graphs run in turn, so that other load
on the machine meets both. Memory is the peak of a process that loads numpy, ONNX Runtime and the
graph, and embeds an image. `--teachers` adds students that are the vision towers of these CLIPs,
`--clip` the image half of CLIP ViT-B/16 in float32.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from aligned_vq.dual_encoder.checkpoint import DualEncoder
from aligned_vq.edgevl.quantization.onnx_files import export_fp32_onnx, write_program
from aligned_vq.edgevl.quantization.student import QuantizedStudent
from aligned_vq.edgevl.students.build import build_student
from aligned_vq.edgevl.students.config import (
    ARCHITECTURES,
    StudentConfig,
    clip_config,
    preset,
)
from aligned_vq.files.atomic_file import write_json
from aligned_vq.shipped import dual_encoder_source
from benchmarks.harness.provenance import provenance
from edge_client.classifier.tower import OnnxTower

CALIBRATION_IMAGES = 8
WARM_UP_RUNS = 3
_ONE_IMAGE = """
import sys
import numpy
from benchmarks.harness.edge_process import peak_memory_mb
from edge_client.classifier.tower import OnnxTower
with open(sys.argv[1], "rb") as file:
    tower = OnnxTower(file.read(), sys.argv[1], "pixels", int(sys.argv[3]), 1)
side = int(sys.argv[2])
tower.run(numpy.zeros((1, 3, side, side), numpy.float32))
print(peak_memory_mb())
"""


def open_tower(graph: Path, embedding_dim: int) -> OnnxTower:
    """A graph as a device runs it, on one thread."""
    return OnnxTower(graph.read_bytes(), str(graph), "pixels", embedding_dim, 1)


def times_ms(towers: list[OnnxTower], pixels: NDArray[np.float32], rounds: int) -> list[float]:
    """Median milliseconds of each graph, run in turn."""
    spent: list[list[float]] = [[] for _ in towers]
    for number in range(WARM_UP_RUNS + rounds):
        for tower, taken in zip(towers, spent, strict=True):
            started = time.perf_counter()
            tower.run(pixels)
            if number >= WARM_UP_RUNS:
                taken.append(1e3 * (time.perf_counter() - started))
    return [float(np.median(taken)) for taken in spent]


def resident_mb(graph: Path, side_px: int, embedding_dim: int) -> float:
    """Peak resident memory in MB of a process that embeds one image."""
    command = [sys.executable, "-c", _ONE_IMAGE, str(graph), str(side_px), str(embedding_dim)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class _ClipImages(nn.Module):
    """The image half of CLIP: normalised pixels `[B, 3, H, W]` to unit vectors `[B, D]`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = CLIPVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            patch_size=16,
            projection_dim=512,
        )
        self.model = CLIPVisionModelWithProjection(self.config)

    def forward(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.model(pixel_values=pixels).image_embeds
        return nn.functional.normalize(embeddings, dim=-1)


def measure_clip(rounds: int) -> dict[str, Any]:
    """The row of CLIP ViT-B/16."""
    model = _ClipImages().eval()
    side, width = model.config.image_size, model.config.projection_dim
    shapes = ({0: Dim("batch")},)
    program = torch.export.export(model, (torch.zeros(2, 3, side, side),), dynamic_shapes=shapes)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "clip.onnx")
        write_program(program, graph)
        pixels = np.zeros((1, 3, side, side), np.float32)
        (median,) = times_ms([open_tower(graph, width)], pixels, rounds)
        return {
            "student": "CLIP ViT-B/16, float32",
            "parameters": sum(p.numel() for p in model.parameters()),
            "fp32_mb": round(graph.stat().st_size / 1e6, 2),
            "fp32_ms": round(median, 2),
            "fp32_resident_mb": round(resident_mb(graph, side, width)),
        }


def measure(name: str, config: StudentConfig, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    student = build_student(config, 0).eval()
    generator = torch.Generator().manual_seed(0)
    side = config.image_size
    pixels = torch.randn(CALIBRATION_IMAGES, 3, side, side, generator=generator)
    quantized = QuantizedStudent(student)
    quantized.calibrate([{"rgb": pixels}])
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        export_fp32_onnx(student, whole)
        quantized.export_onnx(small)
        sizes = [path.stat().st_size / 1e6 for path in (whole, small)]
        width = config.embedding_width
        resident = [resident_mb(path, side, width) for path in (whole, small)]
        towers = [open_tower(path, width) for path in (whole, small)]
        one = pixels[:1].numpy()
        medians = times_ms(towers, one, rounds)
        embedded = towers[1].run(one)
    with torch.no_grad():
        expected = quantized.eval()(pixels[:1]).numpy()
    noise = np.square(embedded - expected).sum()
    return {
        "student": name,
        "parameters": sum(p.numel() for p in student.parameters()),
        "fp32_mb": round(sizes[0], 2),
        "int8_mb": round(sizes[1], 2),
        "size_ratio": round(sizes[1] / sizes[0], 3),
        "fp32_ms": round(medians[0], 2),
        "int8_ms": round(medians[1], 2),
        "time_ratio": round(medians[1] / medians[0], 3),
        "fp32_resident_mb": round(resident[0]),
        "int8_resident_mb": round(resident[1]),
        "agreement_db": round(float(10 * np.log10(np.square(expected).sum() / noise)), 1),
    }


def main() -> int:
    """Print a row for each preset and architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["reference"])
    parser.add_argument("--teachers", nargs="+", default=[], help="CLIPs in Hugging Face format")
    parser.add_argument("--clip", action="store_true", help="add CLIP ViT-B/16")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    students = {
        f"{name}-{architecture}": preset(name, architecture)
        for name in options.presets
        for architecture in ARCHITECTURES
    }
    for source in options.teachers:
        teacher = DualEncoder(dual_encoder_source(source))
        students[f"vision tower of {source}"] = clip_config(teacher.config, teacher.width)
    measures = [partial(measure, name, config, options.rounds) for name, config in students.items()]
    if options.clip:
        measures.append(partial(measure_clip, options.rounds))
    rows = []
    for one in measures:
        rows.append(one())
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if options.out:
        write_json(options.out, {"rows": rows, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
