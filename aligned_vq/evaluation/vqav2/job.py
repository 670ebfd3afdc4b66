"""Answering of all questions for one row of the table, by any number of processes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from aligned_vq.evaluation.vqav2.answer_log import (
    AnswerLog,
    AnswerRecord,
    claim,
    has_identity,
    read_answers,
)
from aligned_vq.evaluation.vqav2.answerers import ImageAnswerer, padded
from aligned_vq.evaluation.vqav2.files import VqaSplit
from aligned_vq.evaluation.vqav2.metric import normalise
from aligned_vq.files.atomic_file import write_file

# Other characters become a dash in the name of a row's folder.
_NOT_IN_NAMES = re.compile(r"[^\w.@+-]+")


@dataclass(frozen=True)
class JobSettings:
    """The settings that all rows of an evaluation share."""

    suffix: str
    """Text appended to every question."""
    max_tokens: int
    """Maximum tokens of an answer."""
    mean: tuple[float, float, float] | None
    """Colour, 0 to 1 per channel, with which images are padded to a square; None: no padding."""

    @property
    def identity(self) -> dict[str, Any]:
        """The settings as JSON values; a row's answers must all have the same."""
        return {
            "suffix": self.suffix,
            "max_tokens": self.max_tokens,
            "padding": None if self.mean is None else list(self.mean),
        }


@dataclass(frozen=True)
class RowPlan:
    """A row of the table: the model that answers, which is opened only if it is needed."""

    name: str
    identity: Callable[[], Mapping[str, Any]]
    """JSON values that must not change when the row is resumed. The first call may read all files
    of a model."""
    open: Callable[[], ImageAnswerer]

    def folder(self, out: Path) -> Path:
        """The folder for the row's answers."""
        return _folder(out, self.name)


def answer_row(
    plan: RowPlan, split: VqaSplit, settings: JobSettings, out: Path, state: PartialState
) -> None:
    """Answer the questions that have no saved answer; returns when all processes are done.

    Images are distributed to processes by number, and all questions about an image are always asked
    in the same batches. Answers therefore depend neither on the number of processes nor on what was
    answered before.

    Raises:
        ConfigError: the row's folder has answers with other settings, or the file of an image is
            missing.
        InvalidInput: an image is damaged, or a question contains a special token.
    """
    folder = plan.folder(out)
    answered_ids = read_answers(folder).keys()
    if state.is_main_process:  # only one process: `identity` may read a whole model
        identity = {"questions": split.digest, **settings.identity, **plan.identity()}
        claim(folder, identity, answered=bool(answered_ids))
    # All processes must have read the saved answers before one appends to them.
    state.wait_for_everyone()
    images = range(state.process_index, len(split.image_ids), state.num_processes)
    missing = {
        image: ids
        for image in images
        if (ids := [id_ for id_ in split.question_ids(image) if id_ not in answered_ids])
    }
    if missing:
        total = sum(len(split.question_ids(image)) for image in images)
        num_missing = sum(map(len, missing.values()))
        processes = "" if state.num_processes == 1 else f", 1 of {state.num_processes} processes"
        with (
            AnswerLog(folder, state.process_index) as log,
            tqdm(
                desc=plan.name + processes,
                total=total,
                initial=total - num_missing,
                unit="question",
                disable=not state.is_main_process,
            ) as bar,
        ):
            # Opened only if an answer is missing, because that may load a model.
            answerer = plan.open()
            for image, ids in missing.items():
                log.add(_answer_image(answerer, split, settings, image, ids))
                bar.update(len(ids))
    # Answers are complete only when all processes have finished.
    state.wait_for_everyone()


def row_answers(plan: RowPlan, split: VqaSplit, out: Path) -> dict[int, AnswerRecord]:
    """All answers of a finished row, by question id, in the file's order."""
    answers = read_answers(plan.folder(out))
    return {id_: answers[id_] for id_ in split.ids_in_file()}


def finished_answers(
    name: str, split: VqaSplit, settings: JobSettings, out: Path
) -> dict[int, AnswerRecord] | None:
    """All answers of a row that an earlier job finished with these settings; None if none did."""
    folder = _folder(out, name)
    identity = {"questions": split.digest, **settings.identity}
    if not has_identity(folder, identity):
        return None
    answers = read_answers(folder)
    ids = split.ids_in_file()
    return {id_: answers[id_] for id_ in ids} if answers.keys() >= set(ids) else None


def write_results(path: Path, split: VqaSplit, answers: Mapping[int, AnswerRecord]) -> None:
    """Write the result file in the format of the official code and its evaluation server.

    Answers are normalised, because the official code does not do so if all ten people agree: "Yes"
    would not match "yes". The server requires all questions of test2015: those that were not asked
    get empty answers.
    """
    # A part of a split cannot be uploaded, so its file has only its questions.
    ids = (split.ids_to_upload() if split.is_whole else None) or split.ids_in_file()
    results = [
        {
            "question_id": id_,
            "answer": normalise(answers[id_].answer) if id_ in answers else "",
        }
        for id_ in ids
    ]
    write_file(path, json.dumps(results))


def results_path(plan: RowPlan, split: VqaSplit, out: Path) -> Path:
    """Path of a row's result file, named as the official tools require."""
    folder = plan.folder(out)
    return folder / f"v2_OpenEnded_mscoco_{split.split}_{folder.name}_results.json"


def _folder(out: Path, name: str) -> Path:
    return out / _NOT_IN_NAMES.sub("-", name)


def _answer_image(
    answerer: ImageAnswerer, split: VqaSplit, settings: JobSettings, index: int, missing: list[int]
) -> list[AnswerRecord]:
    """The missing answers about one image.

    All of its questions are asked, so that an answer does not depend on which ones were saved.
    """
    questions = split.questions(index)
    image = split.image(index)
    if settings.mean is not None:
        image = padded(image, settings.mean)
    result = answerer(image, [question.text + settings.suffix for question in questions])
    image_id = int(split.image_ids[index])
    return [
        AnswerRecord(question.question_id, image_id, answer, result.payload_bytes)
        for question, answer in zip(questions, result.answers, strict=True)
        if question.question_id in missing
    ]
