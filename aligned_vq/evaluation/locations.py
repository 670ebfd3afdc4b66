"""Where inside a transformer block features are the most even, and so the easiest to quantize.

In the manner of Figure 4 of the AlignedVQ paper (arXiv 2411.05961), whose argument for a cut behind
a LayerNorm is that its outputs vary least. Magnitudes `|x|` are taken over all pictures, tokens and
channels of a location; their coefficient of variation is `std(|x|) / mean(|x|)`, without a unit.
Normally distributed values of mean 0 have 0.756.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from aligned_vq.calibration.codec import pixel_batches
from aligned_vq.data.scenes.scene import render, sample_scene, scene_rng
from aligned_vq.errors import ConfigError
from aligned_vq.evaluation.plots import MODEL, line_style, save_figure
from aligned_vq.files.atomic_file import write_file
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import checkpoint_source
from aligned_vq.split.loading import load_prefix, load_suffix
from aligned_vq.split.vision import Block
from aligned_vq.types import SplitPoint

LOCATIONS = {
    "residual_in": "residual stream into the block",
    "ln1": "LN1 output",
    "attention": "attention output",
    "residual_attention": "residual stream after attention",
    "ln2": "LN2 output",
    "mlp": "MLP output",
    "residual_out": "residual stream out of the block",
}
"""Locations of a block in the order of computation, and what they are called."""
NORMAL_CV = 0.756
"""Coefficient of variation of the magnitudes of a centred normal distribution."""
PICTURES = 64
BATCH = 8
_BINS, _RANGE = 60, 6.0  # magnitudes over their mean


@dataclass(frozen=True)
class LocationStatistics:
    """Magnitudes at one location of one block.

    Args:
        block: its number.
        location: a key of `LOCATIONS`.
        mean: of the magnitudes.
        deviation: their standard deviation.
        largest: magnitude.
        shares: of the magnitudes, in equal bins of their size over the mean, from 0 to 6.
        beyond: share of magnitudes above 6 times the mean.
    """

    block: int
    location: str
    mean: float
    deviation: float
    largest: float
    shares: tuple[float, ...]
    beyond: float

    @property
    def variation(self) -> float:
        """Coefficient of variation of the magnitudes."""
        return self.deviation / self.mean

    def to_dict(self) -> dict[str, Any]:
        """JSON-able figures, rounded."""
        figures = asdict(self) | {"shares": [round(share, 6) for share in self.shares]}
        for name in ("mean", "deviation", "largest", "beyond"):
            figures[name] = round(figures[name], 6)
        return {"cv": round(self.variation, 4), **figures}


def summarise(block: int, location: str, values: Tensor) -> LocationStatistics:
    """Statistics of the magnitudes of `values`, float32 of any shape.

    Raises:
        ConfigError: every value is zero.
    """
    sizes = values.detach().abs().flatten()
    mean = float(sizes.mean(dtype=torch.float64))
    if not mean > 0:
        raise ConfigError(f"expected features at {location} of block {block}, got zeros only")
    counts = torch.histc(sizes / mean, _BINS, 0.0, _RANGE).double() / len(sizes)
    return LocationStatistics(
        block,
        location,
        mean,
        float(sizes.double().std(unbiased=False)),
        float(sizes.max()),
        tuple(counts.tolist()),
        float((sizes / mean > _RANGE).double().mean()),
    )


@torch.inference_mode()
def location_statistics(
    checkpoint: LlavaCheckpoint, pixels: Sequence[Tensor]
) -> Iterator[LocationStatistics]:
    """Statistics at every location of every block LLaVA runs, in the order of computation.

    Args:
        checkpoint: its tower is run in float32.
        pixels: batches of normalised pictures, `[B, 3, H, W]`.
    """
    # Cut at `pre` the suffix holds every block whole.
    prefix = load_prefix(checkpoint, SplitPoint(0, "pre"))
    encoder = load_suffix(checkpoint, SplitPoint(0, "pre")).encoder
    states = [prefix(batch)[1] for batch in pixels]
    for number in tqdm(range(checkpoint.tower.last_block), desc="locations", unit="block"):
        places = [_inside(encoder.block(number), batch) for batch in states]
        for name in LOCATIONS:
            yield summarise(number, name, torch.cat([place[name] for place in places]))
        states = [place["residual_out"] for place in places]


def _inside(block: Block, x: Tensor) -> dict[str, Tensor]:
    """What a block computes of its residual stream `[B, N, D]`, by location."""
    first = block.layer_norm1(x)
    attended = block.self_attn(first)
    middle = x + attended
    second = block.layer_norm2(middle)
    moved = block.mlp(second)
    places = (x, first, attended, middle, second, moved, middle + moved)
    return dict(zip(LOCATIONS, places, strict=True))


def exam_pictures(count: int) -> Iterator[Image.Image]:
    """Pictures of the reference world's test split."""
    for index in range(count):
        yield Image.fromarray(render(sample_scene(scene_rng("test", index))).pixels)


def plot_locations(rows: Sequence[LocationStatistics], stem: Path) -> list[Path]:
    """Histograms of every block, and the coefficient of variation over the blocks, as PNG and SVG.

    Args:
        rows: as `location_statistics` gives them.
        stem: path of the files without their suffix.
    """
    blocks = sorted({row.block for row in rows})
    columns = min(3, len(blocks) + 1)
    lines = -(-(len(blocks) + 1) // columns)

    def draw(figure: Figure) -> None:
        axes = list(figure.subplots(lines, columns, squeeze=False).flat)
        centres = [(bin_ + 0.5) * _RANGE / _BINS for bin_ in range(_BINS)]
        for block, ax in zip(blocks, axes, strict=False):
            for number, row in enumerate(row for row in rows if row.block == block):
                density = [share * _BINS / _RANGE or float("nan") for share in row.shares]
                ax.plot(centres, density, **_style(row.location, number, marker=False), lw=1.4)
            ax.set(title=f"block {block}", yscale="log", ylim=(1e-4, 3))
            ax.set(xlabel="magnitude over its mean", ylabel="density")
            ax.minorticks_off()
        ax = axes[len(blocks)]
        for number, (name, title) in enumerate(LOCATIONS.items()):
            own = [row.variation for row in rows if row.location == name]
            ax.plot(blocks, own, label=title, **_style(name, number))
        ax.axhline(NORMAL_CV, color="0.6", lw=0.8, label="normal distribution")
        ax.set(title="coefficient of variation", xlabel="block", xticks=blocks)
        ax.set(ylabel="std / mean of magnitudes")
        for unused in axes[len(blocks) + 1 :]:
            unused.remove()
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.suptitle(f"Feature magnitudes inside transformer blocks, {MODEL}")

    return save_figure(draw, stem, (3.4 * columns, 2.7 * lines + 1.0))


def _style(location: str, number: int, marker: bool = True) -> dict[str, Any]:
    """A line's style: LayerNorms dashed, what is added to the stream dotted."""
    added = location in ("attention", "mlp")
    dash = "--" if location.startswith("ln") else ":" if added else "-"
    return line_style(number, marker) | {"ls": dash}


def main_locations(
    out: Path, checkpoint: str = "reference", pictures: int = PICTURES
) -> list[LocationStatistics]:
    """Measure, write `locations.json`, `.png` and `.svg` into `out`, and return the figures.

    Args:
        out: folder to write into, made if absent.
        checkpoint: a directory, hub id, or 'reference'.
        pictures: how many of the reference world's test pictures.

    Raises:
        ConfigError: an unusable checkpoint, or no picture.
    """
    if pictures < 1:
        raise ConfigError(f"pictures must be positive, got {pictures}")
    model = LlavaCheckpoint(checkpoint_source(checkpoint))
    rows = list(
        location_statistics(model, list(pixel_batches(model, exam_pictures(pictures), BATCH)))
    )
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        "definition": "cv = std(|x|) / mean(|x|) over all pictures, tokens and channels",
        "normal_cv": NORMAL_CV,
        "histogram": f"{_BINS} equal bins of |x| / mean(|x|) from 0 to {_RANGE:g}",
        "checkpoint": checkpoint,
        "pictures": pictures,
        "locations": [row.to_dict() for row in rows],
    }
    write_file(out / "locations.json", json.dumps(figures, indent=1) + "\n")
    plot_locations(rows, out / "locations")
    return rows


def locations_table(rows: Sequence[LocationStatistics]) -> str:
    """The coefficients of variation: a line per location, a column per block."""
    blocks = sorted({row.block for row in rows})
    found = {(row.block, row.location): row.variation for row in rows}
    lines = [f"{'cv of magnitudes':<34}" + "".join(f"{f'block {b}':>9}" for b in blocks)]
    for name, title in LOCATIONS.items():
        lines.append(f"{title:<34}" + "".join(f"{found[b, name]:>9.3f}" for b in blocks))
    return "\n".join(lines)
