"""Plots of evaluations and sweeps, as PNG."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from aligned_vq.errors import ConfigError
from aligned_vq.files.figures import line_style, save_figure
from aligned_vq.types import NORMS, SplitPoint

MODEL = "reference model"
UNSPLIT = "unsplit"
Row = Mapping[str, Any]
"""A result of `ExamRow.to_dict`; a sweep adds `x`, `point` and `usage`."""
_X_LABELS = {
    "stages": "residual codebooks used",
    "groups": "groups (codebooks per stage)",
    "size": "entries of the codebook",
    "width": "latent width",
    "cuts": "cut",
    "links": "cut",
}
_TITLES = {
    "stages": "Answers by number of residual codebooks",
    "groups": "Answers by number of groups",
    "size": "Answers by codebook size",
    "width": "Answers by latent width",
    "cuts": "Answers by cut",
    "links": "Answers by cut and residual link",
}


def plot_sweep(folder: Path) -> list[Path]:
    """Plot the JSON files in a sweep's folder; returns the paths of the plots, if any.

    `rate`: accuracy over bytes; `usage`: usage of codebook entries; and one per group of runs.

    Raises:
        ConfigError: a file is not JSON.
    """
    records = _records(folder)
    rows = [row for record in records for row in record["rows"]]
    if not rows:
        return []
    by_group: dict[str, list[Row]] = {}
    for record in records:
        by_group.setdefault(record["group"], []).extend(record["rows"])
    named = {group: members for group, members in by_group.items() if group}
    level = _unsplit_accuracy(rows)

    def rate(figure: Figure) -> None:
        ax = figure.subplots()
        for number, (group, members) in enumerate(by_group.items()):
            ordered = all(isinstance(row["x"], int | float) for row in members)
            _over_bytes(ax, members, group or "other", number, joined=ordered)
        _finish(ax, level, "Answers against payload, test split")
        _bytes_axis(ax, "mean payload body, bytes per image")

    paths = [save_figure(rate, folder / "rate")]
    for group, members in named.items():
        title = _TITLES.get(group, f"Answers by {group}")
        label = _X_LABELS.get(group, group)
        paths.append(
            save_figure(
                lambda figure, rows=members, title=title, label=label: _over_x(  # type: ignore[misc]
                    figure.subplots(), rows, title, label, level
                ),
                folder / group,
            )
        )
    if any(row["usage"] for row in rows):
        panels = {group: m for group, m in by_group.items() if any(row["usage"] for row in m)}
        size = (5.2 * min(2, len(panels)), 3.6 * -(-len(panels) // 2) + 0.4)
        paths.append(save_figure(lambda figure: _usage(figure, panels), folder / "usage", size))
    return paths


def plot_rate_accuracy(rows: Iterable[Row], stem: Path) -> Path | None:
    """Plot accuracy over bytes of all ways to send an image: image files, raw features, codecs.

    The row named "unsplit" becomes a horizontal line; without other rows there is no plot.

    Args:
        rows: from `ExamRow.to_dict`.
        stem: path of the plot, without its suffix .png.

    Returns:
        The path of the plot, if there is one.
    """
    families: dict[str, list[Row]] = {}
    all_rows = list(rows)
    for row in all_rows:
        if row["name"] != UNSPLIT:
            families.setdefault(_family(row), []).append(row)
    if not families:
        return None

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for number, (family, members) in enumerate(families.items()):
            _over_bytes(ax, members, family, number, joined=True)
        _finish(ax, _unsplit_accuracy(all_rows), "Answers against bytes sent, test split")
        _bytes_axis(ax, "mean bytes sent per image")

    return save_figure(draw, stem, (8.0, 4.6))


def _records(folder: Path) -> list[dict[str, Any]]:
    """The records of a folder's runs in the sweep's order."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON ({error}); remove it") from error
        if isinstance(record, dict) and "rows" in record:
            records.append(record)
    return sorted(records, key=lambda record: int(record["number"]))


def _over_x(ax: Axes, rows: Sequence[Row], title: str, label: str, level: float) -> None:
    """Accuracy with intervals over `x`, with a line per residual link if there are several."""
    ticks = list(dict.fromkeys(row["x"] for row in rows))
    numeric = all(isinstance(tick, int | float) for tick in ticks)
    ticks.sort(key=(lambda tick: tick) if numeric else _cut_order)
    position = {tick: tick if numeric else n for n, tick in enumerate(ticks)}
    links = list(dict.fromkeys(row["settings"].get("link", "") for row in rows))
    several = len(rows) > len(ticks) and len(links) > 1
    for number, link in enumerate(links if several else [None]):
        line = [row for row in rows if link is None or row["settings"].get("link", "") == link]
        line.sort(key=lambda row: ticks.index(row["x"]))
        # Shifted, so that the intervals of different lines do not overlap.
        shift = 0 if numeric else 0.06 * (number - (len(links) - 1) / 2) * several
        x = [position[row["x"]] + shift for row in line]
        _with_intervals(ax, x, line, link, number, joined=True)
    if numeric and len(ticks) > 1 and min(ticks) > 0 and max(ticks) >= 8 * min(ticks):
        ax.set_xscale("log", base=2)
    ax.set_xticks([position[tick] for tick in ticks], [str(tick) for tick in ticks])
    _finish(ax, level, title)
    ax.set_xlabel(label)


def _over_bytes(ax: Axes, rows: Sequence[Row], label: str, number: int, joined: bool) -> None:
    line = sorted(rows, key=lambda row: float(row["mean_bytes"]))
    _with_intervals(ax, [row["mean_bytes"] for row in line], line, label, number, joined)


def _with_intervals(
    ax: Axes, x: Sequence[float], rows: Sequence[Row], label: str | None, number: int, joined: bool
) -> None:
    """Points with the 95 % intervals of the difference to the unsplit model as error bars."""
    y = [row["answers"] for row in rows]
    intervals = [row["answers_difference"] for row in rows]
    bars = [
        [max(0.0, interval["mean"] - interval["low"]) for interval in intervals],
        [max(0.0, interval["high"] - interval["mean"]) for interval in intervals],
    ]
    style = line_style(number) | ({} if joined else {"ls": ""})
    ax.errorbar(x, y, bars, label=label, capsize=2.5, elinewidth=0.9, lw=1.3, **style)


def _bytes_axis(ax: Axes, label: str) -> None:
    ax.set(xscale="log", xlabel=label)
    ax.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for setter in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        setter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _finish(ax: Axes, level: float, title: str) -> None:
    ax.axhline(level, color="0.35", lw=1.0, ls="--", zorder=0, label=f"unsplit, {level:.1%}")
    ax.set_title(f"{title}, {MODEL}\nbars: paired 95 % interval of the difference to unsplit")
    ax.set_ylabel("short questions answered exactly")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.legend(loc="outside lower center", ncols=4)


def _usage(figure: Figure, panels: Mapping[str, Sequence[Row]]) -> None:
    """Sorted usage of entries, with a panel per group of runs and a line per run or stage."""
    columns = min(2, len(panels))
    axes = list(figure.subplots(-(-len(panels) // columns), columns, squeeze=False).flat)
    for ax, (group, rows) in zip(axes, panels.items(), strict=False):
        lines: dict[str, list[float]] = {}
        several = len({curve["stage"] for row in rows for curve in row["usage"]}) > 1
        for row in rows:
            for stage in sorted({curve["stage"] for curve in row["usage"]}):
                curves = [curve["shares"] for curve in row["usage"] if curve["stage"] == stage]
                # Operating points share codebooks: the first point with a stage represents it.
                name = f"codebook {stage + 1}" if several else str(row["x"])
                lines.setdefault(name, np.mean(curves, axis=0).tolist())
        for number, (name, shares) in enumerate(lines.items()):
            rank = (np.arange(len(shares)) + 0.5) / len(shares)
            used = [share or float("nan") for share in shares]  # a gap, as 0 has no logarithm
            ax.plot(rank, used, lw=1.3, label=name, **line_style(number, marker=False))
        ax.axhline(1.0, color="0.6", lw=0.8, ls=":")
        ax.set(title=group or "other", yscale="log", xlim=(0, 1))
        ax.set(xlabel="entries, most used first", ylabel="use over even use")
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.legend(title=None if several else _X_LABELS.get(group), ncols=2)
    for unused in axes[len(panels) :]:
        unused.remove()
    figure.suptitle(f"Use of codebook entries, {MODEL}; a line ends where entries are dead")


def _unsplit_accuracy(rows: Sequence[Row]) -> float:
    return float(rows[0]["answers"] - rows[0]["answers_difference"]["mean"])


def _cut_order(label: Any) -> tuple[int, int]:
    """Sort key: cuts in the order of computation, other labels in their given order."""
    try:
        cut = SplitPoint.parse(str(label))
    except ConfigError:
        return 0, 0
    return cut.block, NORMS.index(cut.norm)


def _family(row: Row) -> str:
    """The line that a row belongs to: a file format with a size, a coding of features, a codec."""
    settings = row["settings"]
    if "format" in settings:
        return f"{settings['format']} {settings['side']} px"
    if "coding" in settings:
        return str(settings["coding"])
    if "point" in settings:
        return str(row["name"]).removesuffix(str(settings["point"])).strip(" :/,-")
    return str(row["name"])
