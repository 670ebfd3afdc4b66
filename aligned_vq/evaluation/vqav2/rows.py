"""Output of a job's rows: result files, the table, and a JSON file of all figures."""

from __future__ import annotations

import json
from pathlib import Path

from aligned_vq.evaluation.vqav2.files import VqaSplit
from aligned_vq.evaluation.vqav2.job import (
    JobSettings,
    RowPlan,
    finished_answers,
    results_path,
    row_answers,
    write_results,
)
from aligned_vq.evaluation.vqav2.plans import UNSPLIT
from aligned_vq.evaluation.vqav2.report import (
    RowScores,
    VqaRow,
    published_dicts,
    published_table,
    question_types_table,
    row_of,
    score,
    table_head,
    upload_instructions,
)
from aligned_vq.files.atomic_file import write_json


class RowWriter:
    """Writes the files of finished rows and formats the table.

    Differences are to the unsplit model's row in this job, or in an earlier job in the same folder.

    Args:
        split: the questions.
        out: folder for the results.
        settings: of the job.
    """

    def __init__(self, split: VqaSplit, out: Path, settings: JobSettings) -> None:
        self._split = split
        self._out = out
        self._settings = settings
        self._rows: list[VqaRow] = []
        self._unsplit: RowScores | None = None
        earlier = finished_answers(UNSPLIT, split, settings, out) if split.has_answers else None
        if earlier is not None:
            self._unsplit = score(split, earlier)

    def head(self) -> str:
        """A line with the questions and settings, and the header of the table."""
        split, settings = self._split, self._settings
        padding = "not padded" if settings.mean is None else "padded to squares"
        return (
            f"{split.label}: {len(split)} questions about {len(split.image_ids)} images, "
            f"{padding}; greedy, at most {settings.max_tokens} tokens, suffix {settings.suffix!r}\n"
            f"{table_head()}"
        )

    def write(self, plan: RowPlan) -> VqaRow:
        """Write a row's result file; returns its figures.

        Raises:
            ConfigError: the annotations are missing or malformed.
            OSError: a file cannot be written.
        """
        answers = row_answers(plan, self._split, self._out)
        results = results_path(plan, self._split, self._out)
        write_results(results, self._split, answers)
        scores = score(self._split, answers) if self._split.has_answers else None
        # Later rows are compared with this job's unsplit model.
        if plan.name == UNSPLIT:
            self._unsplit = scores
        row = row_of(plan.name, self._split, answers, results, scores, self._unsplit)
        self._rows.append(row)
        return row

    def end(self, *, question_types: bool, as_json: bool) -> str:
        """Write `vqav2.json`; returns the text below the table."""
        published = published_dicts()
        figures = {
            "data": self._split.label,
            "split": self._split.split,
            **self._settings.identity,
            "rows": [row.to_dict() for row in self._rows],
            "published": published,
        }
        path = self._out / "vqav2.json"
        write_json(path, figures)
        if as_json:
            return "\n".join(json.dumps(figure) for figure in published)
        parts = [published_table(self._split)]
        if question_types:
            parts.append(question_types_table(self._rows))
        if not self._split.has_answers:
            parts.append(upload_instructions(self._split))
        return "\n\n".join(part for part in parts if part)
