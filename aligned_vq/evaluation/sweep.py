"""Many codecs, one after another, each examined on the same questions.

out/<run>.json      what a run is and what came out of it; it is not done again
out/unsplit.json    the unsplit model's verdicts, which every row is compared with
out/table.md        all rows
out/work/           what runs need while they go on: resumable states, rendered pictures
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
from aligned_vq.evaluation.plots import plot_sweep, usage_curves
from aligned_vq.evaluation.results import ExamRow, Verdicts
from aligned_vq.evaluation.sweep_config import (
    SweepConfig,
    SweepRun,
    provenance,
    read_record,
    read_sweep,
    write_record,
)
from aligned_vq.evaluation.usage import codebook_usage
from aligned_vq.files.atomic_file import write_file
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import checkpoint_source
from aligned_vq.split.loading import suffix_names
from aligned_vq.training.config import TrainConfig
from aligned_vq.training.export import trained_codec
from aligned_vq.training.run import TrainingRun
from aligned_vq.types import SplitPoint

UNSPLIT = "unsplit"
_IDENTITY = ("config", "points", "questions", "model")  # what makes two records one
_VERDICT_COUNTS = ("images", "words_right", "words_asked")
_HEAD = "run | point | mean B | max B | fixed B | answers | to unsplit | words | perplexity | dead"
_FOOT = """Reference model, test split. Codebooks are parted by slashes; differences to the unsplit
model are in points, with paired 95 % intervals."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep left behind."""

    table: str
    """Markdown: a line for the unsplit model and one for every row."""
    failed: Mapping[str, str]
    """Runs that failed, and why."""

    def check(self) -> None:
        """TrainingError if a run failed; what the others found is written all the same."""
        if self.failed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.failed.items())
            raise TrainingError(f"{len(self.failed)} of the sweep's runs failed: {reasons}")


def main_sweep(
    config: Path, out: Path, questions: int | None = None, device: str = "auto"
) -> SweepOutcome:
    """Everything a YAML file asks for, with plots; print `table`, then call `check`.

    Args:
        config: see `sweep_config`.
        out: folder of the results, made if absent.
        questions: instead of the file's number.
        device: auto, cpu or cuda: where the model under examination runs.

    Raises:
        ConfigError: the file cannot be used.
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
    """A sweep and the folder it writes to.

    Args:
        config: the runs.
        out: folder of the results, made if absent.
        device: where the model under examination runs.

    Raises:
        ConfigError: the checkpoint cannot be used.
    """

    def __init__(self, config: SweepConfig, out: Path, device: str = "cpu") -> None:
        self.config = config
        self.out = out
        self._device = device
        first = config.runs[0].config
        self._source = checkpoint_source(config.checkpoint)
        checkpoint = LlavaCheckpoint(self._source, first.revision)
        # A checkpoint trained anew in the same folder is another model.
        self._model = checkpoint.vision_digest(suffix_names(checkpoint, SplitPoint(0, "pre")))
        self._asked: tuple[Evaluator, Verdicts] | None = None
        self._calibrated: tuple[TrainConfig, CalibratedCodec] | None = None
        self._records: list[dict[str, Any]] = []

    def run(self) -> SweepOutcome:
        """Every run that is not done yet, then the table.

        A run that raises is told in the outcome and the next one begins.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self._records, failed = [], {}
        for number, run in enumerate(self.config.runs):
            try:
                self._records.append(self._one(number, run))
            except AlignedVQError as error:
                _log.error("%s failed: %s", run.name, error)
                failed[run.name] = str(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next run may do
                _log.exception("%s failed", run.name)
                failed[run.name] = f"{type(error).__name__}: {error}"
        table = sweep_table(self._unsplit_record(), self._records, failed)
        write_file(self.out / "table.md", table)
        return SweepOutcome(table, failed)

    def _one(self, number: int, run: SweepRun) -> dict[str, Any]:
        """The run's record: its own if it is done, else that of an equal run, else a new one."""
        config = json.loads(json.dumps(asdict(run.config)))  # lists for tuples, as files have them
        wanted = {"config": config, "points": list(run.points)}
        wanted |= {"questions": self.config.questions, "model": self._model}
        path = self.out / f"{run.name}.json"
        own = read_record(path)
        for found in (own, *self._records):
            if found is not None and all(found.get(key) == wanted[key] for key in _IDENTITY):
                _log.info("%s is done", run.name)
                record = dict(found)
                break
        else:
            start = time.monotonic()
            record = provenance() | wanted | {"rows": self._rows(run), "seed": run.config.seed}
            record["seconds"] = round(time.monotonic() - start, 1)
        record |= {"run": run.name, "group": run.group, "number": number}
        record["rows"] = [
            row | {"name": _row_name(run, row["point"]), "x": run.place(row["point"])}
            for row in record["rows"]
        ]
        if record != own:
            write_record(path, record)
        return record

    def _rows(self, run: SweepRun) -> list[dict[str, Any]]:
        """Examine the run's codec at every operating point asked for."""
        examiner, reference = self._examiner()
        calibrated = self._codec(run)
        known = [point.name for point in calibrated.manifest.operating_points]
        rows = []
        for point in run.points or known or ["raw"]:
            how = {"point": point} if known else {}
            name = _row_name(run, point)
            path = calibrated_path(examiner, name, calibrated, how)
            found = examiner.examine(path, name)
            config, encoded = path.quantizer, found.encoded
            usage = curves = None
            if config is not None:
                usage = codebook_usage(encoded, config.codebook_sizes, config.num_groups)
                curves = usage_curves(encoded, config)
            row = ExamRow.of(
                name, path.settings, found.verdicts, reference, found.costs, usage or ()
            )
            rows.append(row.to_dict() | {"point": point, "usage": curves or []})
        return rows

    def _codec(self, run: SweepRun) -> CalibratedCodec:
        """The run's codec, trained; calibrated once for runs that differ by their link alone."""
        config = run.config
        codec = config.codec
        limited = any(p.mean_bytes or p.max_bytes for p in codec.points.values())
        if config.align.steps or config.task.steps or codec.identity or limited:
            return self._trained(config)
        shared = replace(config, codec=replace(codec, link="learned"))
        if self._calibrated is None or self._calibrated[0] != shared:
            self._calibrated = shared, self._trained(shared)
        calibrated = self._calibrated[1]
        return calibrated if codec.link == "learned" else with_link(calibrated, codec.link)

    def _trained(self, config: TrainConfig) -> CalibratedCodec:
        """A run of its own in `out/work`, taken up where it was left."""
        folder = self.out / "work" / f"run-{_short(json.dumps(asdict(config), sort_keys=True))}"
        folder.mkdir(parents=True, exist_ok=True)
        # Runs on the same examples share what is made of them: rendered scenes take gigabytes.
        data = self.out / "work" / f"data-{_short(config.data.train)}"
        data.mkdir(exist_ok=True)
        link = folder / "data"
        if not link.is_symlink():
            link.symlink_to(Path("..") / data.name, target_is_directory=True)
        run = TrainingRun.open(config, folder)
        run.train()
        return trained_codec(run)

    def _examiner(self) -> tuple[Evaluator, Verdicts]:
        """The examiner, and the unsplit model's verdicts, asked for once per folder."""
        if self._asked is None:
            exam = list(exam_images(self.config.questions))
            examiner = Evaluator(self._source, exam, device=self._device)
            record = self._unsplit_record()
            if record is None:
                record = self._write_unsplit(examiner.examine(examiner.unsplit, UNSPLIT))
            self._asked = examiner, _verdicts_from(record["verdicts"])
        return self._asked

    def _unsplit_record(self) -> dict[str, Any] | None:
        """The unsplit model's, if it was examined on these very questions."""
        record = read_record(self.out / f"{UNSPLIT}.json")
        if record is None or "verdicts" not in record:
            return None
        same = record.get("questions") == self.config.questions
        return record if same and record.get("model") == self._model else None

    def _write_unsplit(self, found: Examination) -> dict[str, Any]:
        record = provenance() | {
            "questions": self.config.questions,
            "model": self._model,
            "answers": round(found.verdicts.answers, 5),
            "words": round(found.verdicts.words, 5),
            "mean_bytes": round(float(np.mean(found.costs.sent_bytes)), 1),
            "verdicts": _verdicts_to(found.verdicts),
        }
        write_record(self.out / f"{UNSPLIT}.json", record)
        return record


def sweep_table(
    unsplit: Mapping[str, Any] | None,
    records: Iterable[Mapping[str, Any]],
    failed: Mapping[str, str],
) -> str:
    """A Markdown table: the unsplit model, every row of every record, and what failed."""
    lines = [f"| {_HEAD} |", "|---|---|" + "---:|" * (_HEAD.count("|") - 1)]
    if unsplit is not None:
        cells = ["unsplit", "", f"{unsplit['mean_bytes']:,.0f}", "", ""]
        cells += [f"{unsplit['answers']:.1%}", "", f"{unsplit['words']:.1%}", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    for record in records:
        for row in record["rows"]:
            lines.append("| " + " | ".join([record["run"], row["point"], *_cells(row)]) + " |")
    lines += [f"| {name} | failed: {reason} |" for name, reason in failed.items()]
    return "\n".join([*lines, "", _FOOT, ""])


def _cells(row: Mapping[str, Any]) -> list[str]:
    mean, low, high = (100 * row["answers_difference"][name] for name in ("mean", "low", "high"))
    used = [book for book in row["codebooks"] if book["covered"]]
    return [
        f"{row['mean_bytes']:,.0f}",
        f"{row['max_bytes']:,}",
        "" if row["fixed_bytes"] is None else f"{row['fixed_bytes']:,.0f}",
        f"{row['answers']:.1%}",
        f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{row['words']:.1%}",
        "/".join(f"{book['perplexity']:.0f}" for book in used),
        "/".join(f"{book['dead_share']:.0%}" for book in used),
    ]


def _verdicts_to(verdicts: Verdicts) -> dict[str, Any]:
    """JSON-able; right answers as a string of 0 and 1."""
    arrays = {name: getattr(verdicts, name).tolist() for name in _VERDICT_COUNTS}
    right = "".join("01"[int(one)] for one in verdicts.right)
    return {"right": right, "kinds": list(verdicts.kinds), **arrays}


def _verdicts_from(figures: Mapping[str, Any]) -> Verdicts:
    arrays = {name: np.array(figures[name], np.int64) for name in _VERDICT_COUNTS}
    right = np.array([sign == "1" for sign in figures["right"]], np.bool_)
    return Verdicts(right, tuple(figures["kinds"]), **arrays)


def _row_name(run: SweepRun, point: str) -> str:
    examined = run.points or run.config.codec.plan().operating_points
    return f"{run.name} {point}" if len(examined) > 1 else run.name


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
