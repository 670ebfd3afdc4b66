"""What the edge half costs at real dimensions (ViT-L/14-336, random weights), by cut and backend.

Every backend runs in a fresh process, so that peak memory is attributable to it. The backends
encode the same image alternately, so that other load on the machine affects all of them alike; each
encoding follows plain matrix products in this process by the same library with as many threads. A
ratio is the time of the prefix over the time of as many operations (`prefix_flops`) done as
products of `[577, 1024]` and `[1024, 4096]`, the largest of the tower. Products of torch and of
ONNX Runtime differ in speed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from tqdm import tqdm

from aligned_vq.errors import ConfigError
from aligned_vq.files.figures import line_style, save_figure
from aligned_vq.graph.writing import write_graph
from aligned_vq.llava.tower_config import TowerConfig
from aligned_vq.types import SplitPoint
from benchmarks.harness.edge_process import EdgeProcess
from benchmarks.harness.tables import STATISTICS, Row, markdown
from benchmarks.real_size.checkpoint import LLAVA_CONFIG
from benchmarks.real_size.matrix_products import Library, products
from benchmarks.real_size.prefix_flops import prefix_flops

Backend = Literal["torch", "onnx", "onnx-int8"]
WARM_UP = 2
VISION = TowerConfig.from_llava(LLAVA_CONFIG).vision


@dataclass(frozen=True)
class EdgeCostSettings:
    """Cuts, backends and amount of work.

    Args:
        cuts: cuts as in a bundle's manifest.
        backends: torch, ONNX Runtime, or ONNX Runtime with 8-bit weights.
        rounds: images encoded by each backend, after `WARM_UP` more.
        threads: threads of each backend and of the matrix products.
    """

    cuts: tuple[str, ...] = (
        *("pre", "ln1@0", "ln2@0", "ln1@1", "ln2@1"),
        *("ln1@2", "ln1@5", "ln1@11", "ln1@22"),
    )
    backends: tuple[Backend, ...] = ("torch", "onnx")
    rounds: int = 9
    threads: int = 2

    def __post_init__(self) -> None:
        for cut in self.cuts:
            # LLaVA reads the hidden states before the last block (`vision_feature_layer` -2).
            if SplitPoint.parse(cut).block >= VISION.num_hidden_layers - 1:
                raise ConfigError(f"expected cuts that LLaVA-1.5's tower has, got {cut!r}")
        if self.rounds < 1 or self.threads < 1 or not self.cuts or not self.backends:
            raise ConfigError(
                "expected at least a round, a thread, a cut and a backend, got rounds "
                f"{self.rounds}, threads {self.threads}, cuts {list(self.cuts)} and backends "
                f"{list(self.backends)}"
            )


SETTINGS = EdgeCostSettings


def measure(settings: EdgeCostSettings) -> list[Row]:
    """A row for each cut and backend."""
    rows: list[Row] = []
    for cut in tqdm(settings.cuts, desc="cuts", leave=False):
        with tempfile.TemporaryDirectory() as folder:
            bundles = _bundles(Path(folder), cut, settings.backends)
            rows += _measure_cut(cut, bundles, settings)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Medians as a Markdown table; times in milliseconds, memory in MB of a million bytes."""
    head = ("cut", "backend", "GFLOP", "weights MB", "peak MB", "prefix ms", "p95", "whole ms")
    lines = []
    for row in rows:
        statistics = row[STATISTICS]
        prefix_ms = statistics["prefix_ms"]
        lines.append(
            (
                *(row["cut"], row["backend"], f"{row['flops'] / 1e9:.2f}"),
                *(f"{row['weights_bytes'] / 1e6:.1f}", f"{row['peak_mb']:.0f}"),
                *(f"{prefix_ms['median']:.1f}", f"{prefix_ms['p95']:.1f}"),
                f"{statistics['whole_ms']['median']:.1f}",
                f"{statistics['products_ms']['median']:.1f}",
                f"{statistics['ratio']['median']:.2f}",
            )
        )
    return markdown((*head, "products ms", "ratio"), lines)


def plot(rows: Sequence[Row], stem: Path) -> None:
    """Time of the prefix and peak memory against operations, one line for each backend."""

    def draw(figure: Figure) -> None:
        times, memory = figure.subplots(1, 2)
        for number, backend in enumerate(dict.fromkeys(row["backend"] for row in rows)):
            backend_rows = sorted(
                (row for row in rows if row["backend"] == backend), key=lambda row: row["flops"]
            )
            flops = [row["flops"] / 1e9 for row in backend_rows]
            prefix_ms = [row[STATISTICS]["prefix_ms"]["median"] for row in backend_rows]
            times.plot(flops, prefix_ms, label=backend, lw=1.3, **line_style(number))
            peak_mb = [row["peak_mb"] for row in backend_rows]
            memory.plot(flops, peak_mb, lw=1.3, **line_style(number))
            products_ms = [row[STATISTICS]["products_ms"]["median"] for row in backend_rows]
            style = line_style(number, marker=False) | {"ls": ":"}
            times.plot(flops, products_ms, label=f"matrix products, {backend}", **style)
        times.set(ylabel="prefix, ms", xscale="log", yscale="log")
        memory.set(ylabel="peak memory of the process, MB", xscale="log", ylim=(0, None))
        for ax in (times, memory):
            ax.set_xlabel("GFLOP of the prefix")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside lower center", ncols=4)
        threads = rows[0]["threads"]
        cuts = ", ".join(dict.fromkeys(row["cut"] for row in rows))
        figure.suptitle(f"Edge at real dimensions, {threads} threads, cuts {cuts}")

    save_figure(draw, stem, (8.4, 3.8))


def _bundles(folder: Path, cut: str, backends: Sequence[Backend]) -> dict[Backend, Path]:
    """The bundle directory of each backend; torch and full-precision ONNX share one."""
    float32 = folder / "plain"
    # In a separate process, whose end frees the memory of a whole checkpoint.
    writer = [sys.executable, "-m", "benchmarks.real_size.bundle", str(float32), cut]
    subprocess.run(writer, check=True, timeout=600)
    write_graph(float32)
    bundles: dict[Backend, Path] = dict.fromkeys(backends, float32)
    if "onnx-int8" in bundles:
        bundles["onnx-int8"] = Path(shutil.copytree(float32, folder / "int8"))
        write_graph(bundles["onnx-int8"], int8=True)
    return bundles


def _measure_cut(
    cut: str, bundles: Mapping[Backend, Path], settings: EdgeCostSettings
) -> list[Row]:
    flops = prefix_flops(VISION, SplitPoint.parse(cut))
    libraries = {library: products(library, settings.threads) for library in map(_library, bundles)}
    responses: dict[Backend, list[Mapping[str, Any]]] = {backend: [] for backend in bundles}
    products_ms: dict[Backend, list[float]] = {backend: [] for backend in bundles}
    with ExitStack() as stack:
        edges = {
            backend: stack.enter_context(EdgeProcess(bundle, _library(backend), settings.threads))
            for backend, bundle in bundles.items()
        }
        for _ in range(WARM_UP + settings.rounds):
            for backend, edge in edges.items():
                # Right after each other, so that both meet the same load of the machine.
                products_ms[backend].append(1e3 * flops * libraries[_library(backend)]())
                responses[backend].append(edge.encode())
    return [
        {
            "cut": cut,
            "backend": backend,
            "threads": settings.threads,
            "flops": flops,
            "weights_bytes": _weights_bytes(bundles[backend]),
            # A peak only grows, so the last one covers all encodings.
            "peak_mb": encodings[-1]["peak_mb"],
            **_times(encodings[WARM_UP:], products_ms[backend][WARM_UP:]),
        }
        for backend, encodings in responses.items()
    ]


def _library(backend: Backend) -> Library:
    return "torch" if backend == "torch" else "onnx"


def _times(
    encodings: Sequence[Mapping[str, Any]], products_ms: Sequence[float]
) -> dict[str, list[float]]:
    prefix_ms = [encoding["ms"]["prefix"] for encoding in encodings]
    return {
        "prefix_ms": prefix_ms,
        "whole_ms": [sum(encoding["ms"].values()) for encoding in encodings],
        "products_ms": list(products_ms),
        "ratio": [ms / product_ms for ms, product_ms in zip(prefix_ms, products_ms, strict=True)],
    }


def _weights_bytes(bundle: Path) -> int:
    """Size of the edge's files: the tensors, and the graph, which may hold weights itself."""
    return sum((bundle / name).stat().st_size for name in ("edge.safetensors", "edge.onnx"))
