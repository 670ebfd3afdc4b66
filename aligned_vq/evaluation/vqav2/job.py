"""One row of the evaluation: every question answered once, by any number of processes."""

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
    Answered,
    AnswerLog,
    asked_alike,
    claim,
    read_answers,
)
from aligned_vq.evaluation.vqav2.answerers import ImageAnswerer, padded
from aligned_vq.evaluation.vqav2.files import VqaSplit
from aligned_vq.evaluation.vqav2.metric import normalise
from aligned_vq.files.atomic_file import write_file

_NOT_IN_NAMES = re.compile(r"[^\w.@+-]+")


@dataclass(frozen=True)
class JobSettings:
    """How every row of an evaluation asks."""

    suffix: str
    """Put behind every question."""
    max_tokens: int
    """Of an answer."""
    mean: tuple[float, float, float] | None
    """Pictures are padded to a square with this colour (0 to 1 per channel); None: as they are."""

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-able; answers that were asked otherwise are not of the same row."""
        return {
            "suffix": self.suffix,
            "max_tokens": self.max_tokens,
            "padding": None if self.mean is None else list(self.mean),
        }


@dataclass(frozen=True)
class RowPlan:
    """Who is to answer, and how to get hold of them once there is something to ask."""

    name: str
    identity: Callable[[], Mapping[str, Any]]
    """JSON-able: what a row that goes on must share with the one that was stopped. It may take long
    at the first call."""
    open: Callable[[], ImageAnswerer]

    def folder(self, out: Path) -> Path:
        """Where the row's answers lie."""
        return _folder(out, self.name)


def answer_row(
    plan: RowPlan, split: VqaSplit, asking: JobSettings, out: Path, state: PartialState
) -> None:
    """Ask what has not been answered yet; returns when all processes are done.

    Images are dealt out to processes by their number, and all questions about one are asked in the
    same way whoever does it and whatever was answered before: the answers do not depend on either.

    Raises:
        ConfigError: the row's folder holds answers that were asked in another way; a picture's
            file is missing.
        InvalidInput: a picture is damaged, or a question cannot be asked.
    """
    folder = plan.folder(out)
    known = read_answers(folder).keys()
    if state.is_main_process:  # one for all: a model may have to be read whole
        identity = {"questions": split.digest, **asking.identity, **plan.identity()}
        claim(folder, identity, answered=bool(known))
    state.wait_for_everyone()  # nobody writes before everybody has read
    images = range(state.process_index, len(split.image_ids), state.num_processes)
    missing = {
        image: own
        for image in images
        if (own := [number for number in split.question_ids(image) if number not in known])
    }
    if missing:
        total = sum(len(split.question_ids(image)) for image in images)
        left = sum(map(len, missing.values()))
        shared = "" if state.num_processes == 1 else f", 1 of {state.num_processes} processes"
        with (
            AnswerLog(folder, state.process_index) as log,
            tqdm(
                desc=plan.name + shared,
                total=total,
                initial=total - left,
                unit="question",
                disable=not state.is_main_process,
            ) as bar,
        ):
            answerer = plan.open()
            for image, own in missing.items():
                log.add(_answers(answerer, split, asking, image, own))
                bar.update(len(own))
    state.wait_for_everyone()


def row_answers(plan: RowPlan, split: VqaSplit, out: Path) -> dict[int, Answered]:
    """All answers of a finished row, by question id, in the file's order."""
    found = read_answers(plan.folder(out))
    return {number: found[number] for number in split.ids_in_file()}


def finished_answers(
    name: str, split: VqaSplit, asking: JobSettings, out: Path
) -> dict[int, Answered] | None:
    """All answers of a row that an earlier job asked in the same way; None if there are none."""
    folder = _folder(out, name)
    identity = {"questions": split.digest, **asking.identity}
    if not asked_alike(folder, identity):
        return None
    found = read_answers(folder)
    wanted = split.ids_in_file()
    return {number: found[number] for number in wanted} if found.keys() >= set(wanted) else None


def write_results(path: Path, split: VqaSplit, answers: Mapping[int, Answered]) -> None:
    """The result file, as the official code and its server read it.

    Answers are normalised: where all ten people wrote the same, the official code compares letter
    by letter, and "Yes" would not be "yes". A question of test2015 that was not asked gets an empty
    one, as the server wants them all.
    """
    numbers = (split.ids_to_upload() if split.is_whole else None) or split.ids_in_file()
    results = [
        {
            "question_id": number,
            "answer": normalise(answers[number].answer) if number in answers else "",
        }
        for number in numbers
    ]
    write_file(path, json.dumps(results))


def results_path(plan: RowPlan, split: VqaSplit, out: Path) -> Path:
    """Where a row's result file goes, under the name that the official tools give it."""
    folder = plan.folder(out)
    return folder / f"v2_OpenEnded_mscoco_{split.split}_{folder.name}_results.json"


def _folder(out: Path, name: str) -> Path:
    return out / _NOT_IN_NAMES.sub("-", name)


def _answers(
    answerer: ImageAnswerer, split: VqaSplit, asking: JobSettings, image: int, own: list[int]
) -> list[Answered]:
    """About one image: all of its questions are asked, and those answers given that are missing."""
    questions = split.questions(image)
    picture = split.picture(image)
    if asking.mean is not None:
        picture = padded(picture, asking.mean)
    said = answerer(picture, [question.text + asking.suffix for question in questions])
    image_id = int(split.image_ids[image])
    return [
        Answered(question.question_id, image_id, answer, said.payload_bytes)
        for question, answer in zip(questions, said.answers, strict=True)
        if question.question_id in own
    ]
