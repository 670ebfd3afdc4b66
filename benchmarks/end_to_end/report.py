"""Rows of an end-to-end measurement as a table and as a figure."""

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

from aligned_vq.evaluation.plots import line_style, save_figure
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
"""Up to which uplink, in kbit/s, the first token has to come how many times as fast."""
_GROUPS = (
    ("Blues", None, EDGE),
    ("Greys", "//", LINK),
    ("Oranges", None, CLOUD),
    ("Greens", "..", AFTER),
)
"""Shades and hatching of bars: the edge's stages, the link's, the cloud's, and after the first
token."""
_HEAD = (
    *("link", "up", "JPEG kB", "split, ms", "p95", "cloud only, ms", "p95"),
    *("speed-up", "to the last token", "tokens", "questions"),
)


def pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Rows of the same link and picture: split, and cloud only."""
    sent = {(row["link"], row["picture"]): row for row in rows if row["way"] == CLOUD_ONLY}
    return [
        (row, sent[row["link"], row["picture"]])
        for row in rows
        if row["way"] == SPLIT and (row["link"], row["picture"]) in sent
    ]


def speed_up(split: Row, cloud: Row, key: str = "first_token_ms") -> float:
    """Of medians: how many times as long the JPEG takes."""
    return float(statistics.median(cloud[key]) / statistics.median(split[key]))


def swept(rows: Sequence[Row], key: str = "first_token_ms") -> dict[str, list[tuple[float, float]]]:
    """Uplink in kbit/s and speed-up of every link of the sweep, by picture."""
    found: dict[str, list[tuple[float, float]]] = {}
    for split, cloud in pairs(rows):
        if split["source"] == SWEEP:
            point = (float(split["up_kbit"]), speed_up(split, cloud, key))
            found.setdefault(split["picture"], []).append(point)
    return found


def table(rows: Sequence[Row]) -> str:
    """Speed-ups by link, what they come to, and the stages; as Markdown."""
    lines = [_line(*pair) for pair in pairs(rows)]
    parts = [markdown(_HEAD, lines)] if lines else []
    parts += ["\n".join(f"- {told}" for told in findings(rows)) + "\n"]
    present = [stage for stage in STAGES if any(f"{stage}_ms" in row for row in rows)]
    head = ("link", "picture", "way", "first token", *present)
    parts += ["Medians of stages, in milliseconds:\n"]
    parts += [markdown(head, [_stages(row, present) for row in rows])]
    return "\n".join(parts)


def findings(rows: Sequence[Row]) -> list[str]:
    """What the rows come to, in sentences: crossings, targets, pictures and shaping."""
    kinds = dict.fromkeys((row["model"], row["layers"], row["device"]) for row in rows)
    found = [_model(*own) for own in kinds]
    for picture, points in swept(rows).items():
        found.append(f"{picture}: {_crossing(points)}")
        for fastest, least in TARGETS:
            own = [y for x, y in points if x <= fastest]
            if own:
                word = "met" if min(own) >= least else "missed"
                found.append(
                    f"{picture}, up to {rate_text(fastest)}: at least {min(own):.2f} times as fast "
                    f"(target {least:g}: {word})"
                )
    found += [_alone(row, rows) for row in rows if row["way"] == EDGE_ONLY]
    for row in {row["picture"]: row for row in rows}.values():
        found.append(
            f"{row['picture']}: {row['megapixels']:.1f} megapixels, JPEG 90 of "
            f"{row['jpeg_bytes']:,} bytes, {row['jpeg_bytes_a_pixel']:.3f} bytes a pixel"
        )
    found += [
        f"shaped by {own}"
        for own in dict.fromkeys(row["shaped_by"] for row in rows)
        if own != NO_LINK
    ]
    return found


def plot(rows: Sequence[Row], stem: Path) -> list[Path]:
    """Speed-ups against bandwidth, and the stages on the sweep's link where both ways are closest;
    written as `stem`.png and `stem`.svg."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, height_ratios=(3, 2))
        _speed_ups(above, rows)
        _bars(below, rows)

    return save_figure(draw, stem, (7.2, 6.4))


def _speed_ups(ax: Axes, rows: Sequence[Row]) -> None:
    for number, (picture, points) in enumerate(swept(rows).items()):
        x, y = zip(*sorted(points), strict=True)
        ax.plot(x, y, label=f"sweep, {picture}", lw=1.3, **line_style(number))
    named = [pair for pair in pairs(rows) if pair[0]["source"] != SWEEP]
    points = [(float(split["up_kbit"]), speed_up(split, cloud)) for split, cloud in named]
    if points:
        x, y = zip(*points, strict=True)
        ax.plot(x, y, label="profiles", **(line_style(4) | {"ls": ""}))
    for (split, _), point in zip(named, points, strict=True):
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


def _bars(ax: Axes, rows: Sequence[Row]) -> None:
    near = [pair for pair in pairs(rows) if pair[0]["source"] == SWEEP]
    chosen = min(near, key=lambda pair: abs(1 - 1 / speed_up(*pair)), default=None)
    if chosen is None:
        ax.remove()
        return
    link, picture = chosen[0]["link"], chosen[0]["picture"]
    own = [row for row in rows if row["link"] in (link, NO_LINK) and row["picture"] == picture]
    own.sort(key=lambda row: WAYS.index(row["way"]), reverse=True)
    present = [stage for stage in STAGES if any(f"{stage}_ms" in row for row in own)]
    names = [row["way"] for row in own]
    starts = [0.0] * len(own)
    for stage in present:
        widths = [statistics.median(row.get(f"{stage}_ms", [0.0])) for row in own]
        shades, hatch, group = next(found for found in _GROUPS if stage in found[2])
        colour = colormaps[shades](0.25 + 0.65 * group.index(stage) / len(group))
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
    ax.set_xlabel(f"milliseconds to the last token, {link}, {picture}")
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.3))


def _model(name: str, layers: int | None, device: str) -> str:
    """What was measured; `layers` of a real language model, the clouds' device."""
    shown = MODELS[name] + (f", {layers} of 32 layers of its language model" if layers else "")
    clouds = "a GPU" if device == "cuda" else "the same CPU"
    return f"{shown}; the edge on a CPU, the clouds on {clouds}"


def _alone(alone: Row, rows: Sequence[Row]) -> str:
    """The edge without a cloud, beside the split on every link."""
    spent_ms = statistics.median(alone["first_token_ms"])
    split = [row for row in rows if (row["way"], row["picture"]) == (SPLIT, alone["picture"])]
    faster = [row["link"] for row in split if statistics.median(row["first_token_ms"]) < spent_ms]
    told = f"faster than that on {', '.join(faster)}" if faster else "no faster on any link"
    return (
        f"{alone['picture']}: {spent_ms:.0f} ms on the edge alone, where the whole model fits"
        + (f"; split, it is {told}" if split else "")
    )


def _crossing(points: Sequence[tuple[float, float]]) -> str:
    limit = pays_up_to(points)
    fastest = max(x for x, _ in points)
    if limit is None:
        return "slower than JPEG 90 already on the thinnest link"
    if limit > fastest:
        return f"faster than JPEG 90 on every link measured, up to {rate_text(fastest)}"
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


def _stages(row: Row, present: Sequence[str]) -> tuple[str, ...]:
    medians = (row.get(f"{stage}_ms") for stage in present)
    cells = ["" if own is None else f"{statistics.median(own):.1f}" for own in medians]
    whole = f"{statistics.median(row['first_token_ms']):.0f}"
    return (row["link"], row["picture"], row["way"], whole, *cells)
