"""Statistics of feature magnitudes at all locations of a transformer block.

As in Figure 4 of the AlignedVQ paper (arXiv 2411.05961): it argues for a cut behind a LayerNorm,
whose outputs vary least and are therefore easiest to quantize. Statistics are over the magnitudes
`|x|` of all images, tokens and channels. Their coefficient of variation is `std(|x|) / mean(|x|)`;
it is 0.756 for normally distributed values of mean 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from aligned_vq.calibration.codec import pixel_batches
from aligned_vq.data.scenes.exam import scene_images
from aligned_vq.errors import ConfigError
from aligned_vq.evaluation.plots import MODEL
from aligned_vq.files.atomic_file import write_json
from aligned_vq.files.figures import line_style, save_figure
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
"""Locations of a block in the order of computation, with their titles."""
NORMAL_CV = 0.756
"""Coefficient of variation of the magnitudes of a normal distribution with mean 0."""
NUM_IMAGES = 64
BATCH = 8
_BINS, _RANGE = 60, 6.0  # of the histogram of magnitudes divided by their mean


@dataclass(frozen=True)
class LocationStatistics:
    """Statistics of the magnitudes at one location of one block.

    Args:
        block: number of the block.
        location: a key of `LOCATIONS`.
        mean: mean magnitude.
        deviation: standard deviation of the magnitudes.
        largest: largest magnitude.
        shares: fractions of magnitudes in equal bins from 0 to 6 times the mean.
        beyond: fraction of magnitudes above 6 times the mean.
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
        """Rounded figures as JSON values."""
        figures = asdict(self) | {"shares": [round(share, 6) for share in self.shares]}
        for name in ("mean", "deviation", "largest", "beyond"):
            figures[name] = round(figures[name], 6)
        return {"cv": round(self.variation, 4), **figures}


def summarise(block: int, location: str, values: Tensor) -> LocationStatistics:
    """Statistics of the magnitudes of float32 `values` of any shape.

    Raises:
        ConfigError: every value is zero.
    """
    magnitudes = values.detach().abs().flatten()
    # In float64: a float32 sum of millions of values would lose digits.
    mean = float(magnitudes.mean(dtype=torch.float64))
    if not mean > 0:
        raise ConfigError(f"expected features at {location} of block {block}, got zeros only")
    # `histc` ignores magnitudes beyond its range, which `beyond` counts.
    shares = torch.histc(magnitudes / mean, _BINS, 0.0, _RANGE).double() / len(magnitudes)
    return LocationStatistics(
        block,
        location,
        mean,
        float(magnitudes.double().std(unbiased=False)),
        float(magnitudes.max()),
        tuple(shares.tolist()),
        float((magnitudes / mean > _RANGE).double().mean()),
    )


@torch.inference_mode()
def location_statistics(
    checkpoint: LlavaCheckpoint, pixels: Sequence[Tensor]
) -> Iterator[LocationStatistics]:
    """Statistics at every location of every block that LLaVA uses, in the order of computation.

    Args:
        checkpoint: its vision tower is run in float32.
        pixels: batches of normalised images `[B, 3, H, W]`.
    """
    # With the cut `pre`, the suffix has all blocks completely.
    prefix = load_prefix(checkpoint, SplitPoint(0, "pre"))
    encoder = load_suffix(checkpoint, SplitPoint(0, "pre")).encoder
    states = [prefix(batch)[1] for batch in pixels]  # residual streams
    for number in tqdm(range(checkpoint.tower.last_block), desc="locations", unit="block"):
        batches = [_values_by_location(encoder.block(number), batch) for batch in states]
        for name in LOCATIONS:
            yield summarise(number, name, torch.cat([values[name] for values in batches]))
        states = [values["residual_out"] for values in batches]


def _values_by_location(block: Block, x: Tensor) -> dict[str, Tensor]:
    """The values at every location of a block with the residual stream x, `[B, N, D]` each."""
    ln1 = block.layer_norm1(x)
    attention = block.self_attn(ln1)
    after_attention = x + attention
    ln2 = block.layer_norm2(after_attention)
    mlp = block.mlp(ln2)
    values = (x, ln1, attention, after_attention, ln2, mlp, after_attention + mlp)
    return dict(zip(LOCATIONS, values, strict=True))


def plot_locations(rows: Sequence[LocationStatistics], stem: Path) -> Path:
    """Plot a histogram per block and the coefficients of variation over blocks, as PNG.

    Args:
        rows: from `location_statistics`.
        stem: path of the file, without its suffix.
    """
    blocks = sorted({row.block for row in rows})
    columns = min(3, len(blocks) + 1)
    # One more panel for the coefficients of variation; `-(-a // b)` rounds up.
    lines = -(-(len(blocks) + 1) // columns)

    def draw(figure: Figure) -> None:
        axes = list(figure.subplots(lines, columns, squeeze=False).flat)
        centres = [(bin_ + 0.5) * _RANGE / _BINS for bin_ in range(_BINS)]
        for block, ax in zip(blocks, axes, strict=False):
            for number, row in enumerate(row for row in rows if row.block == block):
                # NaN leaves a gap in the line: 0 has no place on a logarithmic axis.
                density = [share * _BINS / _RANGE or float("nan") for share in row.shares]
                ax.plot(centres, density, **_style(row.location, number, marker=False), lw=1.4)
            ax.set(title=f"block {block}", yscale="log", ylim=(1e-4, 3))
            ax.set(xlabel="magnitude over its mean", ylabel="density")
            ax.minorticks_off()
        ax = axes[len(blocks)]
        for number, (name, title) in enumerate(LOCATIONS.items()):
            variations = [row.variation for row in rows if row.location == name]
            ax.plot(blocks, variations, label=title, **_style(name, number))
        ax.axhline(NORMAL_CV, color="0.6", lw=0.8, label="normal distribution")
        ax.set(title="coefficient of variation", xlabel="block", xticks=blocks)
        ax.set(ylabel="std / mean of magnitudes")
        for unused in axes[len(blocks) + 1 :]:
            unused.remove()
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.suptitle(f"Feature magnitudes inside transformer blocks, {MODEL}")

    return save_figure(draw, stem, (3.4 * columns, 2.7 * lines + 1.0))


def _style(location: str, number: int, marker: bool = True) -> dict[str, Any]:
    """A line's style: dashed for LayerNorms, dotted for branches added to the residual stream."""
    is_branch = location in ("attention", "mlp")
    dash = "--" if location.startswith("ln") else ":" if is_branch else "-"
    return line_style(number, marker) | {"ls": dash}


def main_locations(
    out: Path, checkpoint: str = "reference", num_images: int = NUM_IMAGES
) -> list[LocationStatistics]:
    """Measure all locations and write `locations.json` and `.png`; returns the statistics.

    Args:
        out: folder to write to, created if missing.
        checkpoint: a directory, hub id, or 'reference'.
        num_images: number of the reference world's test images.

    Raises:
        ConfigError: the checkpoint is invalid, or there are no images.
    """
    if num_images < 1:
        raise ConfigError(f"images must be positive, got {num_images}")
    model = LlavaCheckpoint(checkpoint_source(checkpoint))
    pixels = list(pixel_batches(model, scene_images(num_images, "test"), BATCH))
    rows = list(location_statistics(model, pixels))
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        "definition": "cv = std(|x|) / mean(|x|) over all pictures, tokens and channels",
        "normal_cv": NORMAL_CV,
        "histogram": f"{_BINS} equal bins of |x| / mean(|x|) from 0 to {_RANGE:g}",
        "checkpoint": checkpoint,
        "pictures": num_images,
        "locations": [row.to_dict() for row in rows],
    }
    write_json(out / "locations.json", figures)
    plot_locations(rows, out / "locations")
    return rows


def locations_table(rows: Sequence[LocationStatistics]) -> str:
    """The coefficients of variation, with a line per location and a column per block."""
    blocks = sorted({row.block for row in rows})
    variations = {(row.block, row.location): row.variation for row in rows}
    lines = [f"{'cv of magnitudes':<34}" + "".join(f"{f'block {b}':>9}" for b in blocks)]
    for name, title in LOCATIONS.items():
        lines.append(f"{title:<34}" + "".join(f"{variations[b, name]:>9.3f}" for b in blocks))
    return "\n".join(lines)
