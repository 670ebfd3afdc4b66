"""Table and figure of an end-to-end measurement."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from aligned_vq.files.figures import line_style, save_figure
from benchmarks.end_to_end.crossing import pays_up_to
from benchmarks.end_to_end.settings import (
    CLOUD_ONLY,
    EDGE_ONLY,
    MODELS,
    NO_LINK,
    SPLIT,
    WAYS,
)
from benchmarks.end_to_end.stages import AFTER, CLOUD, EDGE, LINK, STAGES
from benchmarks.harness.tables import markdown
from benchmarks.links.profiles import SWEEP, rate_text

Row = Mapping[str, Any]
TARGETS = ((1000, 5.0), (20_000, 1.0))
"""Target speed-up of the first token for every uplink up to a rate in kbit/s: (rate, speed-up)."""
_GROUPS = (
    ("Blues", None, EDGE),
    ("Greys", "//", LINK),
    ("Oranges", None, CLOUD),
    ("Greens", "..", AFTER),
)
"""Colour map, hatching and stages of the bars: edge, link, cloud, and after the first token."""
_HEAD = (
    *("link", "up", "JPEG kB", "split, ms", "p95", "cloud only, ms", "p95"),
    *("speed-up", "to the last token", "tokens", "questions"),
)


def pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs of rows (split, cloud only) that have link and image in common."""
    cloud_only = {(row["link"], row["picture"]): row for row in rows if row["way"] == CLOUD_ONLY}
    return [
        (row, cloud_only[row["link"], row["picture"]])
        for row in rows
        if row["way"] == SPLIT and (row["link"], row["picture"]) in cloud_only
    ]


def speed_up(split: Row, cloud: Row, key: str = "first_token_ms") -> float:
    """Median time of the cloud that receives JPEGs over that of the split model."""
    return float(statistics.median(cloud[key]) / statistics.median(split[key]))


def swept(rows: Sequence[Row], key: str = "first_token_ms") -> dict[str, list[tuple[float, float]]]:
    """Points (uplink in kbit/s, speed-up) of the links of the sweep, by image."""
    points: dict[str, list[tuple[float, float]]] = {}
    for split, cloud in pairs(rows):
        if split["source"] == SWEEP:
            point = (float(split["up_kbit"]), speed_up(split, cloud, key))
            points.setdefault(split["picture"], []).append(point)
    return points


def table(rows: Sequence[Row]) -> str:
    """Speed-ups by link, findings in sentences, and the medians of the stages, as Markdown."""
    lines = [_line(*pair) for pair in pairs(rows)]
    parts = [markdown(_HEAD, lines)] if lines else []
    parts += ["\n".join(f"- {finding}" for finding in findings(rows)) + "\n"]
    present = [stage for stage in STAGES if any(f"{stage}_ms" in row for row in rows)]
    head = ("link", "image", "way", "first token", *present)
    parts += ["Medians of stages, in milliseconds:\n"]
    parts += [markdown(head, [_stage_cells(row, present) for row in rows])]
    return "\n".join(parts)


def findings(rows: Sequence[Row]) -> list[str]:
    """Findings in sentences: models, crossings, targets, images and how links were shaped."""
    models = dict.fromkeys((row["model"], row["layers"], row["device"]) for row in rows)
    sentences = [_model(*model) for model in models]
    for image, points in swept(rows).items():
        sentences.append(f"{image}: {_crossing(points)}")
        for max_kbit, target in TARGETS:
            speed_ups = [y for x, y in points if x <= max_kbit]
            if speed_ups:
                verdict = "met" if min(speed_ups) >= target else "missed"
                sentences.append(
                    f"{image}, up to {rate_text(max_kbit)}: at least {min(speed_ups):.2f} times as "
                    f"fast (target {target:g}: {verdict})"
                )
    sentences += [_edge_only(row, rows) for row in rows if row["way"] == EDGE_ONLY]
    # One row of each image: its size does not depend on the link.
    for row in {row["picture"]: row for row in rows}.values():
        sentences.append(
            f"{row['picture']}: {row['megapixels']:.1f} megapixels, JPEG 90 of "
            f"{row['jpeg_bytes']:,} bytes, {row['jpeg_bytes_a_pixel']:.3f} bytes a pixel"
        )
    sentences += [
        f"shaped by {shaper}"
        for shaper in dict.fromkeys(row["shaped_by"] for row in rows)
        if shaper != NO_LINK
    ]
    return sentences


def plot(rows: Sequence[Row], stem: Path) -> Path:
    """Speed-ups against bandwidth, and the stages on the link of the sweep where the two systems
    are closest; written as `stem`.png."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, height_ratios=(3, 2))
        _draw_speed_ups(above, rows)
        _draw_stages(below, rows)

    return save_figure(draw, stem, (7.2, 6.4))


def _draw_speed_ups(ax: Axes, rows: Sequence[Row]) -> None:
    for number, (image, points) in enumerate(swept(rows).items()):
        x, y = zip(*sorted(points), strict=True)
        ax.plot(x, y, label=f"sweep, {image}", lw=1.3, **line_style(number))
    profile_pairs = [pair for pair in pairs(rows) if pair[0]["source"] != SWEEP]
    points = [(float(split["up_kbit"]), speed_up(split, cloud)) for split, cloud in profile_pairs]
    if points:
        x, y = zip(*points, strict=True)
        # Markers alone, as the profiles differ in more than their rate.
        ax.plot(x, y, label="profiles", **(line_style(4) | {"ls": ""}))
    for (split, _), point in zip(profile_pairs, points, strict=True):
        ax.annotate(split["link"], point, xytext=(5, 4), textcoords="offset points", fontsize=8)
    for level in (1.0, 5.0):
        ax.axhline(level, color="0.35", lw=1.0, ls="--", zorder=0)
    ax.set(xscale="log", yscale="log", xlabel="uplink")
    ax.set_ylabel("times as fast as JPEG 90, first token")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rate_text(value)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    models = dict.fromkeys(row["model"] for row in rows)
    ax.set_title(f"Time to the first token: {', '.join(models)}")
    if ax.get_legend_handles_labels()[1]:
        ax.legend()


def _draw_stages(ax: Axes, rows: Sequence[Row]) -> None:
    sweep_pairs = [pair for pair in pairs(rows) if pair[0]["source"] == SWEEP]
    # Where both take about the same time, the bars show best what each of them spends it on.
    closest = min(sweep_pairs, key=lambda pair: abs(1 - 1 / speed_up(*pair)), default=None)
    if closest is None:
        ax.remove()
        return
    link, image = closest[0]["link"], closest[0]["picture"]
    shown = [row for row in rows if row["link"] in (link, NO_LINK) and row["picture"] == image]
    # Reversed, as horizontal bars are drawn from the bottom.
    shown.sort(key=lambda row: WAYS.index(row["way"]), reverse=True)
    present = [stage for stage in STAGES if any(f"{stage}_ms" in row for row in shown)]
    names = [row["way"] for row in shown]
    starts = [0.0] * len(shown)
    for stage in present:
        widths = [statistics.median(row.get(f"{stage}_ms", [0.0])) for row in shown]
        colour_map, hatch, group = next(entry for entry in _GROUPS if stage in entry[2])
        # Without the ends of the map, which are almost white and almost black.
        colour = colormaps[colour_map](0.25 + 0.65 * group.index(stage) / len(group))
        ax.barh(
            *(names, widths),
            left=starts,
            label=stage,
            color=colour,
            edgecolor="white",
            lw=0.4,
            hatch=hatch,
        )
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    ax.set_xlabel(f"milliseconds to the last token, {link}, {image}")
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.3))


def _model(name: str, layers: int | None, device: str) -> str:
    """The measured model, and the devices of edge and clouds."""
    model = MODELS[name] + (f", {layers} of 32 layers of its language model" if layers else "")
    clouds = "a GPU" if device == "cuda" else "the same CPU"
    return f"{model}; the edge on a CPU, the clouds on {clouds}"


def _edge_only(edge_only: Row, rows: Sequence[Row]) -> str:
    """The time of the whole model on the edge, and the links on which the split model is faster."""
    edge_ms = statistics.median(edge_only["first_token_ms"])
    split = [row for row in rows if (row["way"], row["picture"]) == (SPLIT, edge_only["picture"])]
    faster = [row["link"] for row in split if statistics.median(row["first_token_ms"]) < edge_ms]
    comparison = f"faster than that on {', '.join(faster)}" if faster else "no faster on any link"
    return (
        f"{edge_only['picture']}: {edge_ms:.0f} ms on the edge alone, where the whole model fits"
        + (f"; split, it is {comparison}" if split else "")
    )


def _crossing(points: Sequence[tuple[float, float]]) -> str:
    limit = pays_up_to(points)
    fastest = max(x for x, _ in points)
    if limit is None:
        return "slower than JPEG 90 already on the thinnest link"
    # Infinite where the speed-ups do not cross the level.
    if limit > fastest:
        return f"faster than JPEG 90 on every link measured, up to {rate_text(fastest)}"
    # Three digits: an interpolated crossing is not more precise.
    return f"faster than JPEG 90 up to {rate_text(float(f'{limit:.3g}'))}, where they cross"


def _line(split: Row, cloud: Row) -> tuple[str, ...]:
    first, p95 = "first_token_ms", 0.95
    return (
        split["link"],
        rate_text(split["up_kbit"]),
        f"{cloud['jpeg_bytes'] / 1e3:.0f}",
        f"{statistics.median(split[first]):.0f}",
        f"{np.quantile(split[first], p95):.0f}",
        f"{statistics.median(cloud[first]):.0f}",
        f"{np.quantile(cloud[first], p95):.0f}",
        f"{speed_up(split, cloud):.2f}",
        f"{speed_up(split, cloud, 'total_ms'):.2f}",
        f"{statistics.median(split['tokens']):g} and {statistics.median(cloud['tokens']):g}",
        f"{len(split[first])} and {len(cloud[first])}",
    )


def _stage_cells(row: Row, present: Sequence[str]) -> tuple[str, ...]:
    samples = (row.get(f"{stage}_ms") for stage in present)
    cells = ["" if times is None else f"{statistics.median(times):.1f}" for times in samples]
    first_token = f"{statistics.median(row['first_token_ms']):.0f}"
    return (row["link"], row["picture"], row["way"], first_token, *cells)
