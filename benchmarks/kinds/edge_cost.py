"""What the edge's half costs at real dimensions (ViT-L/14-336, random weights), cut by cut.

Every backend is a fresh process, so that its peak memory is its own, and they encode the same
picture in turns, each right after plain matrix products in this process by the same library with as
many threads: whatever else the machine does meets all of them. A ratio is the time of the prefix
over that of as many operations (`prefix_flops`) as products of `[577, 1024]` and `[1024, 4096]`,
the tower's largest; torch's and ONNX Runtime's products differ in speed.
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
from aligned_vq.evaluation.plots import line_style, save_figure
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
    """Which cuts, run by what.

    Args:
        cuts: as in a bundle's manifest.
        backends: torch, ONNX Runtime, or ONNX Runtime with weights of 8 bits.
        rounds: pictures encoded by each, after a few to warm up.
        threads: of each backend and of the matrix products.
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
            if SplitPoint.parse(cut).block >= VISION.num_hidden_layers - 1:
                raise ConfigError(f"expected cuts that LLaVA-1.5's tower has, got {cut!r}")
        if self.rounds < 1 or self.threads < 1 or not self.cuts or not self.backends:
            raise ConfigError("expected a round, a thread, a cut and a backend at least, got fewer")


SETTINGS = EdgeCostSettings


def measure(settings: EdgeCostSettings) -> list[Row]:
    """A row for each cut and backend."""
    rows: list[Row] = []
    for cut in tqdm(settings.cuts, desc="cuts", leave=False):
        with tempfile.TemporaryDirectory() as folder:
            bundles = _bundles(Path(folder), cut, settings.backends)
            rows += _in_turns(cut, bundles, settings)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Medians; times in milliseconds, memory in megabytes of a million bytes."""
    head = ("cut", "backend", "GFLOP", "weights MB", "peak MB", "prefix ms", "p95", "whole ms")
    lines = []
    for row in rows:
        own = row[STATISTICS]
        lines.append(
            (
                *(row["cut"], row["backend"], f"{row['flops'] / 1e9:.2f}"),
                *(f"{row['weights_bytes'] / 1e6:.1f}", f"{row['peak_mb']:.0f}"),
                *(f"{own['prefix_ms']['median']:.1f}", f"{own['prefix_ms']['p95']:.1f}"),
                f"{own['whole_ms']['median']:.1f}",
                f"{own['products_ms']['median']:.1f}",
                f"{own['ratio']['median']:.2f}",
            )
        )
    return markdown((*head, "products ms", "ratio"), lines)


def plot(rows: Sequence[Row], stem: Path) -> None:
    """Time of the prefix and peak memory against operations, a line for each backend."""

    def draw(figure: Figure) -> None:
        times, memory = figure.subplots(1, 2)
        for number, backend in enumerate(dict.fromkeys(row["backend"] for row in rows)):
            own = sorted(
                (row for row in rows if row["backend"] == backend), key=lambda row: row["flops"]
            )
            flops = [row["flops"] / 1e9 for row in own]
            ms = [row[STATISTICS]["prefix_ms"]["median"] for row in own]
            times.plot(flops, ms, label=backend, lw=1.3, **line_style(number))
            memory.plot(flops, [row["peak_mb"] for row in own], lw=1.3, **line_style(number))
            least = [row[STATISTICS]["products_ms"]["median"] for row in own]
            style = line_style(number, marker=False) | {"ls": ":"}
            times.plot(flops, least, label=f"matrix products, {backend}", **style)
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
    """A bundle for each backend; those that need no other share one."""
    plain = folder / "plain"
    # In a process of its own, which gives back the memory of a whole checkpoint.
    writer = [sys.executable, "-m", "benchmarks.real_size.bundle", str(plain), cut]
    subprocess.run(writer, check=True, timeout=600)
    write_graph(plain)
    found: dict[Backend, Path] = dict.fromkeys(backends, plain)
    if "onnx-int8" in found:
        found["onnx-int8"] = Path(shutil.copytree(plain, folder / "int8"))
        write_graph(found["onnx-int8"], int8=True)
    return found


def _in_turns(cut: str, bundles: Mapping[Backend, Path], settings: EdgeCostSettings) -> list[Row]:
    flops = prefix_flops(VISION, SplitPoint.parse(cut))
    plain = {library: products(library, settings.threads) for library in map(_library, bundles)}
    told: dict[Backend, list[Mapping[str, Any]]] = {backend: [] for backend in bundles}
    ideal: dict[Backend, list[float]] = {backend: [] for backend in bundles}
    with ExitStack() as stack:
        edges = {
            backend: stack.enter_context(EdgeProcess(bundle, _library(backend), settings.threads))
            for backend, bundle in bundles.items()
        }
        for _ in range(WARM_UP + settings.rounds):
            for backend, edge in edges.items():
                ideal[backend].append(1e3 * flops * plain[_library(backend)]())
                told[backend].append(edge.encode())
    return [
        {
            "cut": cut,
            "backend": backend,
            "threads": settings.threads,
            "flops": flops,
            "weights_bytes": _weights_bytes(bundles[backend]),
            "peak_mb": own[-1]["peak_mb"],
            **_times(own[WARM_UP:], ideal[backend][WARM_UP:]),
        }
        for backend, own in told.items()
    ]


def _library(backend: Backend) -> Library:
    return "torch" if backend == "torch" else "onnx"


def _times(own: Sequence[Mapping[str, Any]], ideal: Sequence[float]) -> dict[str, list[float]]:
    prefix = [run["ms"]["prefix"] for run in own]
    return {
        "prefix_ms": prefix,
        "whole_ms": [sum(run["ms"].values()) for run in own],
        "products_ms": list(ideal),
        "ratio": [ms / least for ms, least in zip(prefix, ideal, strict=True)],
    }


def _weights_bytes(bundle: Path) -> int:
    """Of what the edge has on its disk: tensors, and the graph where it holds some itself."""
    return sum((bundle / name).stat().st_size for name in ("edge.safetensors", "edge.onnx"))
