"""VQA-v2's accuracy: ours against the official evaluation code, question by question.

Wants a checkout of https://github.com/GT-Vision-Lab/VQA. Makes seeded cases, writes them as the
official files, has the official code read and score them, and compares every question's score,
every normalised prediction, and the figures that it prints. The code is for Python 2; its print
statements and tabs are mended in memory, and nothing else.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from aligned_vq.data.vqav2_files import annotations_path, questions_path
from aligned_vq.evaluation.vqav2.metric import accuracies, normalise, question_accuracy
from aligned_vq.files.atomic_file import write_file
from benchmarks.accuracy.vqa_cases import Case, cases

_LOADER = "PythonHelperTools/vqaTools/vqa.py"
_SCORER = "PythonEvaluationTools/vqaEvaluation/vqaEval.py"
_NAMES = {
    "overall": "overall",
    "answer_types": "perAnswerType",
    "question_types": "perQuestionType",
}
"""What is printed: our names and the official ones."""
_PRINT = re.compile(r"^(\s*)print (.*)$", re.MULTILINE)


class Official(NamedTuple):
    """What the official code says of some cases."""

    scores: list[float]
    """Per question, in percent with two decimals."""
    normalised: list[str]
    """Every prediction as it is compared where people disagree."""
    accuracy: dict[str, Any]


def official_scores(checkout: Path, given: Sequence[Case]) -> Official:
    """Runs the official loader and scorer on cases, through files in the official format.

    Raises:
        SystemExit: there is no such checkout.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.json" for name in ("questions", "annotations", "results")]
        for path, content in zip(paths, _files(given), strict=True):
            path.write_text(json.dumps(content), encoding="utf-8")
        evaluation = _evaluated(checkout, *paths)
    normalised = [
        evaluation.processDigitArticle(
            evaluation.processPunctuation(
                case.prediction.replace("\n", " ").replace("\t", " ").strip()
            )
        )
        for case in given
    ]
    scores = [evaluation.evalQA[number] for number in range(len(given))]
    return Official(scores, normalised, evaluation.accuracy)


def differences(given: Sequence[Case], official: Official) -> dict[str, int]:
    """How many scores, normalised predictions and printed figures differ from ours."""
    scores = [question_accuracy(case.prediction, case.given) for case in given]
    ours = accuracies(
        (score, case.answer_type, case.question_type)
        for score, case in zip(scores, given, strict=True)
    )
    return {
        "scores": _unequal([round(100 * score, 2) for score in scores], official.scores),
        "normalised": _unequal([normalise(case.prediction) for case in given], official.normalised),
        "figures": sum(
            getattr(ours, own) != official.accuracy[theirs] for own, theirs in _NAMES.items()
        ),
    }


def write_cases(path: Path, given: Sequence[Case], official: Official) -> None:
    """Cases with the official scores, as the test of the metric reads them."""
    rows = [
        [*case, score, text]
        for case, score, text in zip(given, official.scores, official.normalised, strict=True)
    ]
    content = {"cases": rows, "accuracy": official.accuracy}
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    write_file(path, lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def job_differences(checkout: Path, data: Path, job: Path) -> int:
    """How many figures of an evaluation's rows are not what the official code says of its files."""
    figures = json.loads((job / "vqav2.json").read_text(encoding="utf-8"))
    files = (questions_path(data, figures["split"]), annotations_path(data, figures["split"]))
    different = 0
    for row in figures["rows"]:
        official = _evaluated(checkout, *files, Path(row["results"])).accuracy
        different += sum(
            row["accuracies"][own] != official[theirs] for own, theirs in _NAMES.items()
        )
    return different


def _evaluated(checkout: Path, questions: Path, annotations: Path, results: Path) -> Any:
    """The official evaluation of a result file, finished."""
    loader, scorer = (_module(checkout / path) for path in (_LOADER, _SCORER))
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # it leaves files open, among others
        people = loader.VQA(str(annotations), str(questions))
        answers = people.loadRes(str(results), str(questions))
        evaluation = scorer.VQAEval(people, answers, n=2)
        evaluation.evaluate()
    return evaluation


def _unequal(ours: Sequence[object], theirs: Sequence[object]) -> int:
    return sum(own != other for own, other in zip(ours, theirs, strict=True))


def _files(given: Sequence[Case]) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Questions, annotations and results."""
    head = {
        "info": {},
        "license": {},
        "data_type": "mscoco",
        "data_subtype": "val2014",
    }
    questions = [
        {"question_id": number, "image_id": number, "question": "?"} for number in range(len(given))
    ]
    annotations = [
        {
            "question_id": number,
            "image_id": number,
            "question_type": case.question_type,
            "answer_type": case.answer_type,
            "multiple_choice_answer": case.given[0],
            "answers": [
                {"answer": text, "answer_confidence": "yes", "answer_id": person}
                for person, text in enumerate(case.given, 1)
            ],
        }
        for number, case in enumerate(given)
    ]
    results = [
        {"question_id": number, "answer": case.prediction} for number, case in enumerate(given)
    ]
    asked = {**head, "task_type": "Open-Ended", "questions": questions}
    return asked, {**head, "annotations": annotations}, results


def _module(path: Path) -> ModuleType:
    try:
        source = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SystemExit(
            f"expected a checkout of https://github.com/GT-Vision-Lab/VQA with {path}, got {error}"
        ) from error
    mended = _PRINT.sub(r"\1print(\2)", source).expandtabs(8)
    module = ModuleType(path.stem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python 3 does not like
        exec(compile(mended, str(path), "exec"), module.__dict__)
    return module


def main() -> int:
    """Print the differences; exits with 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--official", type=Path, required=True, help="folder of the checkout")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="file for the cases with the official scores")
    parser.add_argument("--job", type=Path, help="compare the rows of this evaluation too, ...")
    parser.add_argument("--data", type=Path, help="... made with these files")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    given = list(cases(options.cases, options.seed))
    official = official_scores(options.official, given)
    found = differences(given, official)
    if options.write is not None:
        write_cases(options.write, given, official)
    if options.job is not None:
        found["rows of the job"] = job_differences(options.official, options.data, options.job)
    spread = {f"{score:g}": official.scores.count(score) for score in sorted(set(official.scores))}
    figures = {"cases": len(given), "differences": found, "cases_by_score": spread}
    print(
        json.dumps(figures)
        if options.json
        else f"{len(given)} cases, differences: {found}; cases by official score: {spread}"
    )
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
