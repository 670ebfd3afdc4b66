"""What a question costs the cloud: throughput and latency by clients, and where the time goes.

Load compares batched answers with one at a time: each client asks about a different image, and
every answer must equal the one that a single client gets. The share of the time that is not the
language model's is measured one question at a time, for images that are new to the service and for
images in its cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from aligned_vq.data.scenes.exam import ExamImage, exam_images
from aligned_vq.errors import ConfigError
from aligned_vq.files.figures import line_style, save_figure
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.load import clients, run
from benchmarks.harness.processes import CloudProcess
from benchmarks.harness.tables import STATISTICS, Row, markdown
from benchmarks.real_size.service import real_dimensions
from benchmarks.speed.cloud_share import (
    ask_one_by_one,
    differences,
    model_ms,
    share,
    stage_ms,
    whole_model_ms,
)

MODES = {
    "one at a time": ("--parallel_answers=1", "--decode_batch=1"),
    "batched": ("--parallel_answers=32", "--decode_batch=8"),
}


@dataclass(frozen=True)
class CloudCostSettings:
    """Amount of load and models.

    Args:
        clients: numbers of concurrent clients; empty: load is not measured.
        questions: questions of each client.
        question_kind: "mixed": short answers and one description per image, as in the evaluation;
            "description": descriptions only.
        share_questions: new images asked about one after the other; 0: shares are not measured.
        share_layers: layers of a language model of LLaVA-1.5's dimensions with random weights; its
            time with 32 layers is extrapolated from runs with this number and twice this number of
            layers. 0: the reference model.
    """

    clients: tuple[int, ...] = (1, 4, 16, 64)
    questions: int = 20
    question_kind: Literal["mixed", "description"] = "mixed"
    share_questions: int = 50
    share_layers: int = 0

    def __post_init__(self) -> None:
        if min((1, *self.clients, self.questions)) < 1:
            raise ConfigError(
                f"expected at least a client and a question, got clients {list(self.clients)} and "
                f"questions {self.questions}; set clients to [] to measure shares only"
            )
        if min(self.share_questions, self.share_layers) < 0:
            raise ConfigError(
                "expected share_questions and share_layers of 0 or more, got "
                f"{self.share_questions} and {self.share_layers}"
            )
        if not (self.clients or self.share_questions):
            raise ConfigError("expected clients or share_questions, got neither; give one of them")


SETTINGS = CloudCostSettings


def measure(settings: CloudCostSettings) -> list[Row]:
    """A row for each mode and number of clients, and for each kind of question and image."""
    rows = _load_rows(settings) if settings.clients else []
    return rows + (_share_rows(settings) if settings.share_questions else [])


def table(rows: Sequence[Row]) -> str:
    """Two Markdown tables: load, and shares of the time."""
    head = ("mode", "clients", "questions/s", "p50 ms", "p95 ms", "as a lone client's")
    lines = []
    for row in _rows_of(rows, "load"):
        ms = row[STATISTICS]["latency_ms"]
        equal = "all" if row["answers_equal"] else "NOT all"
        rate = f"{row['questions_per_second']:.1f}"
        times = (f"{ms['median']:.0f}", f"{ms['p95']:.0f}")
        lines.append((row["mode"], row["clients"], rate, *times, equal))
    load = markdown(head, lines) if lines else ""
    stages = list(
        dict.fromkeys(stage for row in _rows_of(rows, "share") for stage in row["stage_ms"])
    )
    lines = [
        (
            row["name"],
            *(f"{row['stage_ms'].get(stage, 0.0):.1f}" for stage in stages),
            f"{row['language_model_ms']:.1f}",
            f"{100 * row['not_language_model']:.1f}",
        )
        for row in _rows_of(rows, "share")
    ]
    tail = ("language model, all layers", "not language model, %")
    shares = markdown(("question", *stages, *tail), lines) if lines else ""
    return "\n".join(part for part in (load, shares) if part)


def plot(rows: Sequence[Row], stem: Path) -> None:
    """Questions per second and p95 by clients, and the shares, whichever were measured."""
    load, shares = _rows_of(rows, "load"), _rows_of(rows, "share")
    # Load takes two panels: rate and latency.
    panels = 2 * bool(load) + bool(shares)

    def draw(figure: Figure) -> None:
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        if load:
            _draw_load(axes[0], axes[1], load)
            figure.legend(loc="outside lower center", ncols=2)
        if shares:
            _draw_shares(axes[-1], shares)

    save_figure(draw, stem, (3.5 * panels, 3.6 if load else 2.4))


def _draw_load(rate: Axes, latency: Axes, rows: Sequence[Row]) -> None:
    for number, mode in enumerate(MODES):
        mode_rows = [row for row in rows if row["mode"] == mode]
        count = [row["clients"] for row in mode_rows]
        per_second = [row["questions_per_second"] for row in mode_rows]
        rate.plot(count, per_second, label=mode, lw=1.3, **line_style(number))
        p95 = [row[STATISTICS]["latency_ms"]["p95"] for row in mode_rows]
        latency.plot(count, p95, lw=1.3, **line_style(number))
    rate.set(xlabel="clients", ylabel="questions per second", ylim=(0, None))
    latency.set(xlabel="clients", ylabel="p95 of a question, ms", ylim=(0, None))
    for ax in (rate, latency):
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_shares(ax: Axes, rows: Sequence[Row]) -> None:
    bars = [row["not_language_model"] for row in rows]
    ax.barh([row["name"].replace(", ", "\n") for row in rows], bars)
    ax.set(xlabel="time that is not the language model's", xlim=(0, 1))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.invert_yaxis()


def _rows_of(rows: Sequence[Row], what: str) -> list[Row]:
    return [row for row in rows if row["what"] == what]


def _load_rows(settings: CloudCostSettings) -> list[Row]:
    load = clients(max(settings.clients), settings.questions, settings.question_kind)
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        # The reference: one client at a time, so that nothing shares a batch.
        _, _, expected = asyncio.run(run(cloud.target, load, together=False))
    rows: list[Row] = []
    for count in settings.clients:
        for mode, options in MODES.items():
            # A fresh process for each row, so that no image is cached from an earlier one.
            with CloudProcess(BUNDLE, CHECKPOINT, *options) as cloud:
                seconds, times, answers = asyncio.run(
                    run(cloud.target, load[:count], together=True)
                )
            rows.append(
                {
                    "what": "load",
                    "mode": mode,
                    "clients": count,
                    "questions_per_second": len(times) / seconds,
                    "latency_ms": [round(1e3 * question_seconds, 2) for question_seconds in times],
                    "answers_equal": answers == expected[:count],
                }
            )
    return rows


def _share_rows(settings: CloudCostSettings) -> list[Row]:
    layers = settings.share_layers
    # `exam_images` counts questions; an image has at most eight.
    images = list(exam_images(8 * settings.share_questions))[: settings.share_questions]
    measured = _stages(layers, images)
    # Two sizes give the time of one layer, from which that of all layers is extrapolated.
    twice = _stages(2 * layers, images) if layers else {}
    rows: list[Row] = []
    for name, stages in measured.items():
        language_ms = whole_model_ms(stages, twice[name], layers) if layers else model_ms(stages)
        rows.append(
            {
                "what": "share",
                "name": name,
                "layers": layers,
                "questions": len(images),
                "stage_ms": stages,
                "stage_ms_twice": twice.get(name),
                "language_model_ms": language_ms,
                "not_language_model": share(stages, language_ms),
            }
        )
    return rows


def _stages(layers: int, images: list[ExamImage]) -> dict[str, dict[str, float]]:
    """Mean milliseconds by stage, for each kind of question and image."""
    model: Any = real_dimensions(layers) if layers else nullcontext((BUNDLE, CHECKPOINT))
    stages = {}
    with model as (bundle, checkpoint):
        for kind in ("short answer", "description"):
            with CloudProcess(bundle, checkpoint, "--http_port=0", "--dtype=float32") as cloud:
                before = stage_ms(cloud, len(images))
                # The second round finds every image in the service's cache. The names are those of
                # recorded results.
                for novelty in ("new picture", "held picture"):
                    ask_one_by_one(cloud, bundle, images, kind)
                    after = stage_ms(cloud, len(images))
                    stages[f"{kind}, {novelty}"] = differences(after, before)
                    before = after
    return stages
