"""Table, plot and sheet of reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligned_vq.files.figures import line_style, save_figure
from benchmarks.harness.tables import markdown
from benchmarks.leakage.cloud_features import CALIBRATED, UNQUANTIZED
from benchmarks.leakage.judge import Row, sample_pictures
from benchmarks.leakage.sheet import Line, write_sheet

ORIGINALS, MEAN = "originals", "mean picture"
"""Names of rows: the upper bound, and a guess without any features."""
_HEAD = "cut | codec | bytes | PSNR | SSIM | answers | to originals"
_JPEG_HEAD = "JPEG bytes | PSNR | SSIM | answers"
_FOOT = """Reference model; means over {count} pictures of the test split. PSNR in dB and SSIM at
{side} x {side} pixels; the unsplit model's answers to {questions} questions about what was
recovered, differences to those about the originals in points with paired 95 % intervals. It is
what this small decoder recovers: a lower bound on what can be recovered. `calibrated`: so many
bits for each token, from codebooks that were not trained; `none`: features in float16, not
quantized. JPEG: the best whole file of at most each payload's bytes; in brackets how many pictures
have one that small, the others count as no bytes and the mean picture.
"""


def table(rows: Sequence[Row]) -> str:
    """Rows in Markdown, with JPEG files of the same bytes beside them."""
    # JPEG rows, by the name of the row whose bytes they have.
    beside = {row["beside"]: row for row in rows if "beside" in row}
    columns = f"{_HEAD} | {_JPEG_HEAD}".count("|") + 1
    lines = [f"| {_HEAD} | {_JPEG_HEAD} |", "|---|---|" + "---:|" * (columns - 2)]
    for row in rows:
        if "beside" not in row:
            jpeg = beside.get(row["name"])
            rival = ["", "", "", ""] if jpeg is None else [_files(jpeg), *_figures(jpeg)]
            size = f"{np.mean(row['bytes']):,.0f}" if "bytes" in row else ""
            what = [row.get("cut", row["name"]), row.get("codec", "")]
            cells = [*what, size, *_figures(row), _difference(row), *rival]
            lines.append(f"| {' | '.join(cells)} |")
    mean = _named(rows, MEAN)
    side = sample_pictures(mean)[0].width
    foot = _FOOT.format(count=len(mean["ssim"]), side=side, questions=mean["questions"])
    return "\n".join([*lines, "", foot, _by_kind(rows)])


def _by_kind(rows: Sequence[Row]) -> str:
    """Right answers by kind of question, that is, by attribute of the objects."""
    kinds = list(_named(rows, ORIGINALS)["kinds"])
    lines = [[row["name"], *(f"{row['kinds'][kind]:.1%}" for kind in kinds)] for row in rows]
    return "Right answers by kind of question:\n\n" + markdown(("what", *kinds), lines)


def plot(rows: Sequence[Row], stem: Path) -> None:
    """PSNR, SSIM and answers against bytes, and `stem`-samples.png, a sheet of sample pictures."""
    save_figure(lambda figure: _against_bytes(figure, rows), stem, (9.6, 3.9))
    write_sheet(sheet_lines(rows), stem.with_name(f"{stem.name}-samples.png"))


def sheet_lines(rows: Sequence[Row]) -> list[Line]:
    """The lines of the sheet: the originals, the mean image, and all reconstructions."""
    beside = {row["beside"]: sample_pictures(row) for row in rows if "beside" in row}
    lines: list[Line] = []
    for row in rows:
        if "beside" not in row and ("psnr_db" in row or row["name"] == ORIGINALS):
            label = row["name"].replace(" ", "\n", 1)
            if "bytes" in row:
                label += f"\n{np.mean(row['bytes']):,.0f} B"
            lines.append((label, sample_pictures(row), beside.get(row["name"], [])))
    return lines


def _against_bytes(figure: Figure, rows: Sequence[Row]) -> None:
    floor = _named(rows, MEAN)
    panels: list[tuple[str, Callable[[Row], float]]] = [
        ("PSNR, dB", lambda row: float(np.mean(row["psnr_db"]))),
        ("SSIM", lambda row: float(np.mean(row["ssim"]))),
        ("answers about what was recovered, %", lambda row: 100 * float(row["answers"])),
    ]
    for ax, (label, figure_of) in zip(figure.subplots(1, 3), panels, strict=True):
        _lines(ax, rows, figure_of)
        ax.axhline(figure_of(floor), color="0.5", ls=":", lw=1, label=MEAN)
        ax.set(xscale="log", xlabel="mean bytes (right end: not quantized)", ylabel=label)
    whole = _named(rows, ORIGINALS)
    # In the last panel only: originals have neither PSNR nor SSIM.
    ax.axhline(100 * whole["answers"], color="0.2", ls="--", lw=1, label="originals")
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    figure.suptitle("What a small decoder recovers, reference model, test split (a lower bound)")


def _lines(ax: Axes, rows: Sequence[Row], figure_of: Callable[[Row], float]) -> None:
    """A line for each cut and codec, up to the cut's unquantized features, and one of JPEG."""
    recovered = [row for row in rows if "cut" in row]
    series: dict[str, list[Row]] = {}
    for row in recovered:
        if row["codec"] != UNQUANTIZED:
            codec = CALIBRATED if row["codec"].startswith(CALIBRATED) else "shipped"
            series.setdefault(f"{row['cut']}, {codec}", []).append(row)
    for own in series.values():
        # The unquantized features of a cut are the right end of all its lines.
        whole = (row for row in recovered if row["codec"] == UNQUANTIZED)
        own += [row for row in whole if row["cut"] == own[0]["cut"]]
    # Only where every image has a file: elsewhere mean images would count.
    series["JPEG"] = [row for row in rows if "beside" in row and row["files"] == len(row["ssim"])]
    for number, (label, own) in enumerate(series.items()):
        points = sorted((float(np.mean(row["bytes"])), figure_of(row)) for row in own)
        if points:
            ax.plot(*zip(*points, strict=True), label=label, lw=1.2, **line_style(number))


def _named(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row["name"] == name)


def _figures(row: Row) -> list[str]:
    likeness = ["", ""]
    if "psnr_db" in row:
        likeness = [f"{np.mean(row['psnr_db']):.1f}", f"{np.mean(row['ssim']):.2f}"]
    return [*likeness, f"{row['answers']:.1%}"]


def _difference(row: Row) -> str:
    mean, low, high = (100 * row["to_originals"][key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _files(jpeg: Row) -> str:
    return f"{np.mean(jpeg['bytes']):,.0f} ({jpeg['files']})"
