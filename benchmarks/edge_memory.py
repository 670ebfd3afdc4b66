"""Peak memory of an edge process with the real ViT-L/14-336 prefix (random weights).

Writes a bundle cut at ln1@1 in one process, then encodes a picture in a fresh one for each backend
and prints that one's peak resident memory, the payload and the prefix's time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from aligned_vq.graph.writing import write_graph
from benchmarks.edge_process import EdgeProcess

PICTURES = 5


def measured(bundle: Path, backend: str) -> dict[str, Any]:
    """Figures of one edge process."""
    with EdgeProcess(bundle, backend) as edge:
        runs = [edge.encode() for _ in range(PICTURES)]
    stages = {s: statistics.median(run["ms"][s] for run in runs) for s in runs[0]["ms"]}
    return {**runs[-1], "ms": stages}


def main() -> int:
    """Print the figures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="ln1@1")
    parser.add_argument("--backends", nargs="+", default=["onnx", "torch"])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        writer = [sys.executable, "-m", "benchmarks.real_bundle", str(bundle), options.split]
        subprocess.run(writer, check=True, timeout=600)
        write_graph(bundle)
        figures = {backend: measured(bundle, backend) for backend in options.backends}
    if options.json:
        print(json.dumps({"split": options.split, **figures}))
        return 0
    print(f"real ViT-L/14-336 prefix at {options.split}, random weights, float32")
    for backend, own in figures.items():
        stages = ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in own["ms"].items())
        print(f"{backend}")
        print(f"  peak memory of the edge process  {own['peak_mb']:.0f} MB")
        print(f"  payload body                     {own['body_bytes']} B ({own['coding']})")
        print(f"  medians of {PICTURES}                     {stages}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
