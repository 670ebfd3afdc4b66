"""Size and time of students' int8 graphs beside their float32 graphs, on one thread.

    python -m benchmarks.speed.students --presets reference published

Weights are random: size and time do not depend on them. Both graphs run in turn, so that other load
on the machine meets both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from aligned_vq.edgevl.quantization.onnx_files import export_fp32_onnx
from aligned_vq.edgevl.quantization.student import QuantizedStudent
from aligned_vq.edgevl.students.build import build_student
from aligned_vq.edgevl.students.config import ARCHITECTURES, preset
from aligned_vq.files.atomic_file import write_json
from benchmarks.harness.provenance import provenance

CALIBRATION_IMAGES = 8
WARM_UP_RUNS = 3


def session(path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def times_ms(sessions: list[Any], pixels: NDArray[np.float32], rounds: int) -> list[float]:
    """Median milliseconds of each session, run in turn."""
    spent: list[list[float]] = [[] for _ in sessions]
    for number in range(WARM_UP_RUNS + rounds):
        for one, taken in zip(sessions, spent, strict=True):
            started = time.perf_counter()
            one.run(None, {"pixels": pixels})
            if number >= WARM_UP_RUNS:
                taken.append(1e3 * (time.perf_counter() - started))
    return [float(np.median(taken)) for taken in spent]


def measure(name: str, architecture: str, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    config = preset(name, architecture)
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
        sessions = [session(path) for path in (whole, small)]
        one = pixels[:1].numpy()
        medians = times_ms(sessions, one, rounds)
        embedded = sessions[1].run(None, {"pixels": one})[0]
    with torch.no_grad():
        expected = quantized.eval()(pixels[:1]).numpy()
    noise = np.square(embedded - expected).sum()
    return {
        "student": f"{name}-{architecture}",
        "parameters": sum(p.numel() for p in student.parameters()),
        "fp32_mb": round(sizes[0], 2),
        "int8_mb": round(sizes[1], 2),
        "size_ratio": round(sizes[1] / sizes[0], 3),
        "fp32_ms": round(medians[0], 2),
        "int8_ms": round(medians[1], 2),
        "time_ratio": round(medians[1] / medians[0], 3),
        "agreement_db": round(float(10 * np.log10(np.square(expected).sum() / noise)), 1),
    }


def main() -> int:
    """Print a row for each preset and architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["reference"])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    rows = []
    for name in options.presets:
        for architecture in ARCHITECTURES:
            rows.append(measure(name, architecture, options.rounds))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if options.out:
        write_json(options.out, {"rows": rows, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
