"""Peak memory of an edge process with the real ViT-L/14-336 prefix (random weights).

Writes a bundle cut at ln1@1 in one process, then encodes a picture in a fresh one and prints that
one's peak resident memory, the payload and the prefix's time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

_EDGE = """
import json, resource, sys
import numpy as np
from edge_client.encoder import EdgeEncoder
from edge_client.images import load_image

encoder = EdgeEncoder(sys.argv[1])
picture = load_image(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8))
runs = [encoder.encode(picture) for _ in range(5)]
stages = [{k: v / 1e6 for k, v in run.timings.stages_ns.items()} for run in runs]
print(json.dumps({
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    "body_bytes": len(runs[0].payload.body),
    "coding": runs[0].payload.coding,
    "median_ms": {k: sorted(s[k] for s in stages)[2] for k in stages[0]},
    "loaded": sorted(m for m in ("transformers", "faiss", "huggingface_hub") if m in sys.modules),
}))
"""


def main() -> int:
    """Print the figures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="ln1@1")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        writer = [sys.executable, "-m", "benchmarks.real_bundle", str(bundle), options.split]
        subprocess.run(writer, check=True, timeout=600)
        edge = [sys.executable, "-c", _EDGE, str(bundle)]
        done = subprocess.run(edge, check=True, capture_output=True, text=True, timeout=600)
    figures = json.loads(done.stdout) | {"split": options.split}
    if options.json:
        print(json.dumps(figures))
        return 0
    stages = ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in figures["median_ms"].items())
    print(f"real ViT-L/14-336 prefix at {options.split}, random weights, float32, torch")
    print(f"  peak memory of the edge process  {figures['peak_mb']:.0f} MB")
    print(f"  payload body                     {figures['body_bytes']} B ({figures['coding']})")
    print(f"  medians of 5                     {stages}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
