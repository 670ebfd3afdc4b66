"""A job's rows as they come: result files, the table, and the file of all figures."""

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
    Scored,
    VqaRow,
    published_dicts,
    published_table,
    question_types_table,
    row_of,
    score,
    table_head,
    upload_words,
)
from aligned_vq.files.atomic_file import write_file


class RowWriter:
    """Turns finished rows into files and lines.

    Differences are to the unsplit model: to this job's row, or else to one that an earlier job left
    in the same folder.

    Args:
        split: what was asked.
        out: the job's folder.
        asking: how.
    """

    def __init__(self, split: VqaSplit, out: Path, asking: JobSettings) -> None:
        self._split = split
        self._out = out
        self._asking = asking
        self._rows: list[VqaRow] = []
        self._unsplit: Scored | None = None
        earlier = finished_answers(UNSPLIT, split, asking, out) if split.has_answers else None
        if earlier is not None:
            self._unsplit = score(split, earlier)

    def head(self) -> str:
        """What is asked and how, and the table's head."""
        split, asking = self._split, self._asking
        padding = "as they are" if asking.mean is None else "padded to squares"
        return (
            f"{split.label}: {len(split)} questions about {len(split.image_ids)} pictures, "
            f"{padding}; greedy, at most {asking.max_tokens} tokens, suffix {asking.suffix!r}\n"
            f"{table_head()}"
        )

    def write(self, plan: RowPlan) -> VqaRow:
        """The row's result file, and its figures.

        Raises:
            ConfigError: the annotations are missing or malformed.
            OSError: a file cannot be written.
        """
        answers = row_answers(plan, self._split, self._out)
        results = results_path(plan, self._split, self._out)
        write_results(results, self._split, answers)
        scored = score(self._split, answers) if self._split.has_answers else None
        if plan.name == UNSPLIT:
            self._unsplit = scored
        row = row_of(plan.name, self._split, answers, results, scored, self._unsplit)
        self._rows.append(row)
        return row

    def end(self, *, question_types: bool, as_json: bool) -> str:
        """What goes below the rows; `vqav2.json` is written too."""
        published = published_dicts()
        figures = {
            "data": self._split.label,
            "split": self._split.split,
            **self._asking.identity,
            "rows": [row.to_dict() for row in self._rows],
            "published": published,
        }
        path = self._out / "vqav2.json"
        write_file(path, json.dumps(figures, indent=1) + "\n")
        if as_json:
            return "\n".join(json.dumps(figure) for figure in published)
        parts = [published_table(self._split)]
        if question_types:
            parts.append(question_types_table(self._rows))
        if not self._split.has_answers:
            parts.append(upload_words(self._split))
        return "\n\n".join(part for part in parts if part)
