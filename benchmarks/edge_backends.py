"""The edge with ONNX Runtime beside torch: time, memory, and what has to be installed.

Real ViT-L/14-336 prefix at ln1@1, random weights, float32, the same number of threads. Each backend
is a process of its own and they encode the same picture in turns, so that whatever else the machine
does meets both. A ratio is ONNX Runtime's median over torch's: 1 or less means no slower.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aligned_vq.graph.writing import write_graph
from benchmarks.edge_process import EdgeProcess

ROOT = Path(__file__).parents[1]
WARM_UP = 3
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
OURS = ("aligned_vq", "edge_client", "cloud_server", "protos")


def encoded_in_turns(
    bundles: Mapping[str, tuple[Path, str]], rounds: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Median milliseconds by stage and peak memory of every edge."""
    runs: dict[str, list[Mapping[str, Any]]] = {name: [] for name in bundles}
    with ExitStack() as stack:
        edges = {
            name: stack.enter_context(EdgeProcess(bundle, backend, threads))
            for name, (bundle, backend) in bundles.items()
        }
        for _ in range(WARM_UP + rounds):
            for name, edge in edges.items():
                runs[name].append(edge.encode())
    return {name: _figures(own[WARM_UP:]) for name, own in runs.items()}


def _figures(runs: list[Mapping[str, Any]]) -> dict[str, Any]:
    stages = {s: statistics.median(run["ms"][s] for run in runs) for s in runs[0]["ms"]}
    whole = statistics.median(sum(run["ms"].values()) for run in runs)
    return {**runs[-1], "ms": stages, "whole_ms": whole}


def installed_mb(extra: str) -> dict[str, Any]:
    """Megabytes of Python packages that an extra brings into a fresh environment."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        pip += ["-c", str(ROOT / "constraints.txt"), f"{ROOT}[{extra}]"]
        subprocess.run(pip, check=True, timeout=900)
        (packages,) = Path(folder).glob("lib/python*/site-packages")
        entries = [own for own in packages.iterdir() if not own.name.startswith(TOOLS)]
        sizes = {own.name: _bytes(own.rglob("*") if own.is_dir() else [own]) for own in entries}
        byte_code = sum(_bytes(own.rglob("__pycache__/*")) for own in entries)
    ours = sum(sizes[name] for name in OURS)
    return {
        "total": sum(sizes.values()) / 1e6,
        "this_project_and_its_reference_model": ours / 1e6,
        "byte_code_made_at_installation": byte_code / 1e6,
        "largest": {n: size / 1e6 for size, n in sorted((s, n) for n, s in sizes.items())[-9:]},
    }


def _bytes(entries: Iterable[Path]) -> int:
    """What the files take on the disk, in whole blocks."""
    return sum(entry.stat().st_blocks * 512 for entry in entries if entry.is_file())


def main() -> int:
    """Print the figures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--installed", action="store_true", help="install the extra edge, too")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle, int8 = Path(folder) / "bundle", Path(folder) / "int8"
        writer = [sys.executable, "-m", "benchmarks.real_bundle", str(bundle)]
        subprocess.run(writer, check=True, timeout=600)
        shutil.copytree(bundle, int8)
        write_graph(bundle)
        write_graph(int8, int8=True)
        edges = {"torch": (bundle, "torch"), "onnx": (bundle, "onnx"), "onnx int8": (int8, "onnx")}
        backends = encoded_in_turns(edges, options.rounds, options.threads)
    figures: dict[str, Any] = {"threads": options.threads, "backends": backends}
    reference = backends["torch"]
    for name, own in backends.items():
        ratio = own["whole_ms"] / reference["whole_ms"]
        prefix = own["ms"]["prefix"] / reference["ms"]["prefix"]
        own |= {"ratio_to_torch": ratio, "prefix_ratio_to_torch": prefix}
        print(
            f"{name}: {own['whole_ms']:.0f} ms a picture ({ratio:.2f} of torch; prefix "
            f"{prefix:.2f}), peak memory {own['peak_mb']:.0f} MB"
        )
    if options.installed:
        figures["installed_mb"] = installed_mb("edge")
        for name, mb in figures["installed_mb"].items():
            print(f"packages of the extra edge, {name}: {mb}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
