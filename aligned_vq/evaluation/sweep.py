"""Sweeps: several codecs evaluated on the same questions.

out/<run>.json      configuration and results of a finished run, which is not repeated
out/unsplit.json    the unsplit model's verdicts, with which all rows are compared
out/table.md        all rows
out/work/           resumable states of training runs, and rendered images
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aligned_vq.calibration.codec import CalibratedCodec, with_link
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.errors import AlignedVQError, TrainingError
from aligned_vq.evaluation.codec_path import calibrated_path
from aligned_vq.evaluation.examiner import Evaluator, Examination
from aligned_vq.evaluation.llava import LoadedLlava
from aligned_vq.evaluation.plots import plot_sweep
from aligned_vq.evaluation.results import DIFFERENCE_TITLE, ExamRow, Verdicts
from aligned_vq.evaluation.sweep_config import (
    SweepConfig,
    SweepRun,
    provenance,
    read_record,
    read_sweep,
    write_record,
)
from aligned_vq.evaluation.usage import codebook_usage, usage_curves
from aligned_vq.files.atomic_file import write_file
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import checkpoint_source
from aligned_vq.split.loading import suffix_names
from aligned_vq.training.config import TrainConfig
from aligned_vq.training.export import trained_codec
from aligned_vq.training.run import TrainingRun
from aligned_vq.types import SplitPoint

UNSPLIT = "unsplit"
_IDENTITY = ("config", "points", "questions", "model")  # keys that are equal in equivalent records

_COLUMNS = (
    "run | point | mean bytes | max bytes | fixed-coding bytes | accuracy | "
    f"{DIFFERENCE_TITLE} | description words correct | codebook perplexity | dead entries"
)
_LEGEND = """Reference model, test split. Codebooks are separated by slashes; differences have
paired 95 % intervals."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepOutcome:
    """The result of a sweep."""

    table: str
    """Markdown table of the unsplit model and all rows."""
    failed: Mapping[str, str]
    """Error messages of failed runs, by name."""

    def check(self) -> None:
        """Raise TrainingError if a run failed; the results of the others are saved anyway."""
        if self.failed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.failed.items())
            raise TrainingError(f"{len(self.failed)} of the sweep's runs failed: {reasons}")


def main_sweep(
    config: Path, out: Path, questions: int | None = None, device: str = "auto"
) -> SweepOutcome:
    """Run the sweep in a YAML file and plot it; the caller prints `table`, then calls `check`.

    Args:
        config: path of the file; see `sweep_config`.
        out: folder for the results, created if missing.
        questions: overrides the file's number.
        device: auto, cpu or cuda, on which the model is evaluated.

    Raises:
        ConfigError: the file is invalid.
        OSError: a file cannot be read or written.
    """
    sweep = read_sweep(config)
    if questions is not None:
        sweep = replace(sweep, questions=questions)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    outcome = Sweep(sweep, out, device).run()
    plot_sweep(out)
    return outcome


class Sweep:
    """A sweep with its folder of results.

    Args:
        config: the runs.
        out: folder for the results, created if missing.
        device: on which the model is evaluated.

    Raises:
        ConfigError: the checkpoint is invalid.
    """

    def __init__(self, config: SweepConfig, out: Path, device: str = "cpu") -> None:
        self.config = config
        self.out = out
        self._device = device
        first = config.runs[0].config
        self._source = checkpoint_source(config.checkpoint)
        checkpoint = LlavaCheckpoint(self._source, first.revision)
        # By weights, not by path: a checkpoint may have been trained again in the same folder.
        self._model = checkpoint.vision_digest(suffix_names(checkpoint, SplitPoint(0, "pre")))
        self._reference: tuple[Evaluator, Verdicts] | None = None
        self._calibrated: tuple[TrainConfig, CalibratedCodec] | None = None
        self._records: list[dict[str, Any]] = []

    def run(self) -> SweepOutcome:
        """Execute all unfinished runs and write the table; continues after a failed run."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._records, failed = [], {}
        for number, run in enumerate(self.config.runs):
            try:
                self._records.append(self._record(number, run))
            except AlignedVQError as error:
                _log.error("%s failed: %s", run.name, error)
                failed[run.name] = str(error)
            except Exception as error:  # noqa: BLE001 - other runs may still succeed
                _log.exception("%s failed", run.name)
                failed[run.name] = f"{type(error).__name__}: {error}"
        # There is no record if every run failed before the unsplit model was evaluated.
        table = sweep_table(self._unsplit_record(), self._records, failed)
        write_file(self.out / "table.md", table)
        return SweepOutcome(table, failed)

    def _record(self, number: int, run: SweepRun) -> dict[str, Any]:
        """The run's record: the saved one, that of an equivalent run, or a new one."""
        config = json.loads(json.dumps(asdict(run.config)))  # lists for tuples, as in files
        identity = {"config": config, "points": list(run.points)}
        identity |= {"questions": self.config.questions, "model": self._model}
        path = self.out / f"{run.name}.json"
        saved = read_record(path)
        # A run of another name may have the same settings.
        for earlier in (saved, *self._records):
            if earlier is not None and all(earlier.get(k) == identity[k] for k in _IDENTITY):
                _log.info("%s is already finished", run.name)
                record = dict(earlier)
                break
        else:
            start = time.monotonic()
            record = provenance() | identity | {"rows": self._rows(run), "seed": run.config.seed}
            record["seconds"] = round(time.monotonic() - start, 1)
        # After the search, because an equivalent run has another name and number.
        record |= {"run": run.name, "group": run.group, "number": number}
        record["rows"] = [
            row | {"name": _row_name(run, row["point"]), "x": run.x_value(row["point"])}
            for row in record["rows"]
        ]
        if record != saved:
            write_record(path, record)
        return record

    def _rows(self, run: SweepRun) -> list[dict[str, Any]]:
        """Evaluate the run's codec at its selected operating points."""
        examiner, reference = self._examiner()
        calibrated = self._codec(run)
        names = [point.name for point in calibrated.manifest.operating_points]
        rows = []
        for point in run.points or names or ["raw"]:
            name = _row_name(run, point)
            options = {"point": point} if names else {}
            path = calibrated_path(examiner, name, calibrated, options)
            result = examiner.examine(path, name)
            usage = curves = None
            if (config := path.quantizer) is not None:
                usage = codebook_usage(result.encoded, config.codebook_sizes, config.num_groups)
                curves = usage_curves(result.encoded, config)
            row = ExamRow.of(
                name, path.settings, result.verdicts, reference, result.costs, usage or ()
            )
            rows.append(row.to_dict() | {"point": point, "usage": curves or []})
        return rows

    def _codec(self, run: SweepRun) -> CalibratedCodec:
        """The run's trained codec; runs that differ only in their link share one calibration."""
        config = run.config
        codec = config.codec
        limited = any(p.mean_bytes or p.max_bytes for p in codec.points.values())
        # Training and byte limits depend on the link, so these runs share nothing.
        if config.align.steps or config.task.steps or codec.identity or limited:
            return self._trained(config)
        # The calibration of the quantizer does not depend on the link.
        shared = replace(config, codec=replace(codec, link="learned"))
        if self._calibrated is None or self._calibrated[0] != shared:
            self._calibrated = shared, self._trained(shared)
        calibrated = self._calibrated[1]
        return calibrated if codec.link == "learned" else with_link(calibrated, codec.link)

    def _trained(self, config: TrainConfig) -> CalibratedCodec:
        """The codec of a training run in `out/work`, which is resumed if it was interrupted."""
        name = f"run-{_short_digest(json.dumps(asdict(config), sort_keys=True))}"
        folder = self.out / "work" / name
        folder.mkdir(parents=True, exist_ok=True)
        # Runs with the same examples share rendered scenes, which take gigabytes.
        data = self.out / "work" / f"data-{_short_digest(config.data.train)}"
        data.mkdir(exist_ok=True)
        link = folder / "data"
        if not link.is_symlink():
            # Relative, so that the results can be moved.
            link.symlink_to(Path("..") / data.name, target_is_directory=True)
        run = TrainingRun.open(config, folder)
        run.train()
        return trained_codec(run)

    def _examiner(self) -> tuple[Evaluator, Verdicts]:
        """The examiner and the unsplit model's verdicts, which are saved in the folder."""
        if self._reference is None:
            exam = list(exam_images(self.config.questions))
            examiner = Evaluator(LoadedLlava.load(self._source, device=self._device), exam)
            record = self._unsplit_record()
            if record is None:
                record = self._write_unsplit(examiner.examine(examiner.unsplit, UNSPLIT))
            self._reference = examiner, Verdicts.from_dict(record["verdicts"])
        return self._reference

    def _unsplit_record(self) -> dict[str, Any] | None:
        """The unsplit model's record, if it is of the same model and questions."""
        record = read_record(self.out / f"{UNSPLIT}.json")
        if record is None or "verdicts" not in record:
            return None
        same = record.get("questions") == self.config.questions
        return record if same and record.get("model") == self._model else None

    def _write_unsplit(self, result: Examination) -> dict[str, Any]:
        record = provenance() | {
            "questions": self.config.questions,
            "model": self._model,
            "answers": round(result.verdicts.answers, 5),
            "words": round(result.verdicts.words, 5),
            "mean_bytes": round(float(np.mean(result.costs.sent_bytes)), 1),
            "verdicts": result.verdicts.to_dict(),
        }
        write_record(self.out / f"{UNSPLIT}.json", record)
        return record


def sweep_table(
    unsplit: Mapping[str, Any] | None,
    records: Iterable[Mapping[str, Any]],
    failed: Mapping[str, str],
) -> str:
    """A Markdown table of the unsplit model, all rows of all records, and failed runs."""
    # The first two columns are texts; the others are numbers, aligned to the right.
    lines = [f"| {_COLUMNS} |", "|---|---|" + "---:|" * (_COLUMNS.count("|") - 1)]
    if unsplit is not None:
        cells = ["unsplit", "", f"{unsplit['mean_bytes']:,.0f}", "", ""]
        cells += [f"{unsplit['answers']:.1%}", "", f"{unsplit['words']:.1%}", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    for record in records:
        for row in record["rows"]:
            lines.append("| " + " | ".join([record["run"], row["point"], *_cells(row)]) + " |")
    lines += [f"| {name} | failed: {reason} |" for name, reason in failed.items()]
    return "\n".join([*lines, "", _LEGEND, ""])


def _cells(row: Mapping[str, Any]) -> list[str]:
    mean, low, high = (100 * row["answers_difference"][name] for name in ("mean", "low", "high"))
    codebooks = [codebook for codebook in row["codebooks"] if codebook["covered"]]
    return [
        f"{row['mean_bytes']:,.0f}",
        f"{row['max_bytes']:,}",
        "" if row["fixed_bytes"] is None else f"{row['fixed_bytes']:,.0f}",
        f"{row['answers']:.1%}",
        f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{row['words']:.1%}",
        "/".join(f"{codebook['perplexity']:.0f}" for codebook in codebooks),
        "/".join(f"{codebook['dead_share']:.0%}" for codebook in codebooks),
    ]


def _row_name(run: SweepRun, point: str) -> str:
    points = run.points or run.config.codec.plan().operating_points
    return f"{run.name} {point}" if len(points) > 1 else run.name


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
