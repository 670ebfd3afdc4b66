"""VQA-v2's accuracy: this project's metric against the official code, question by question.

Needs a checkout of https://github.com/GT-Vision-Lab/VQA. Writes seeded cases in the official file
format, lets the official code load and score them, and compares the score of every question, every
normalised prediction and the printed figures. The official code is for Python 2: its print
statements and tabs, and nothing else, are converted in memory.
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
"""The printed figures: our names and the official ones."""
_PRINT = re.compile(r"^(\s*)print (.*)$", re.MULTILINE)


class Official(NamedTuple):
    """Results of the official code."""

    scores: list[float]
    """By question, in percent with two decimals."""
    normalised: list[str]
    """Predictions in the form that is compared when annotators disagree."""
    accuracy: dict[str, Any]


def official_scores(checkout: Path, questions: Sequence[Case]) -> Official:
    """Run the official loader and scorer on cases, through files in the official format.

    Raises:
        SystemExit: the checkout does not contain the official code.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.json" for name in ("questions", "annotations", "results")]
        for path, content in zip(paths, _files(questions), strict=True):
            path.write_text(json.dumps(content), encoding="utf-8")
        evaluation = _evaluate(checkout, *paths)
    normalised = [
        evaluation.processDigitArticle(
            evaluation.processPunctuation(
                # As the official `evaluate` prepares predictions.
                case.prediction.replace("\n", " ").replace("\t", " ").strip()
            )
        )
        for case in questions
    ]
    scores = [evaluation.evalQA[number] for number in range(len(questions))]
    return Official(scores, normalised, evaluation.accuracy)


def differences(questions: Sequence[Case], official: Official) -> dict[str, int]:
    """Number of scores, normalised predictions and printed figures that differ from ours."""
    scores = [question_accuracy(case.prediction, case.answers) for case in questions]
    ours = accuracies(
        (score, case.answer_type, case.question_type)
        for score, case in zip(scores, questions, strict=True)
    )
    normalised = [normalise(case.prediction) for case in questions]
    return {
        "scores": _count_unequal([round(100 * score, 2) for score in scores], official.scores),
        "normalised": _count_unequal(normalised, official.normalised),
        "figures": sum(
            getattr(ours, name) != official.accuracy[official_name]
            for name, official_name in _NAMES.items()
        ),
    }


def write_cases(path: Path, questions: Sequence[Case], official: Official) -> None:
    """Write the cases with the official scores as the compressed file that a test reads."""
    rows = [
        [*case, score, text]
        for case, score, text in zip(questions, official.scores, official.normalised, strict=True)
    ]
    content = {"cases": rows, "accuracy": official.accuracy}
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    # The file is part of the repository: its size matters more than the time to write it.
    write_file(path, lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def job_differences(checkout: Path, data: Path, job: Path) -> int:
    """Number of figures of an evaluation that differ from the official ones for the same files."""
    figures = json.loads((job / "vqav2.json").read_text(encoding="utf-8"))
    files = (questions_path(data, figures["split"]), annotations_path(data, figures["split"]))
    different = 0
    for row in figures["rows"]:
        official = _evaluate(checkout, *files, Path(row["results"])).accuracy
        different += sum(
            row["accuracies"][name] != official[official_name]
            for name, official_name in _NAMES.items()
        )
    return different


def _evaluate(checkout: Path, questions: Path, annotations: Path, results: Path) -> Any:
    """The official `VQAEval` of a result file, after its evaluation."""
    loader, scorer = (_module(checkout / path) for path in (_LOADER, _SCORER))
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the official code leaves files open, among others
        ground_truth = loader.VQA(str(annotations), str(questions))
        predictions = ground_truth.loadRes(str(results), str(questions))
        # Two decimals, as the official figures have.
        evaluation = scorer.VQAEval(ground_truth, predictions, n=2)
        evaluation.evaluate()
    return evaluation


def _count_unequal(ours: Sequence[object], official: Sequence[object]) -> int:
    return sum(value != other for value, other in zip(ours, official, strict=True))


def _files(cases: Sequence[Case]) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Contents of the official files: questions, annotations and results."""
    head = {
        "info": {},
        "license": {},
        "data_type": "mscoco",
        "data_subtype": "val2014",
    }
    questions = [
        {"question_id": number, "image_id": number, "question": "?"} for number in range(len(cases))
    ]
    annotations = [
        {
            "question_id": number,
            "image_id": number,
            "question_type": case.question_type,
            "answer_type": case.answer_type,
            "multiple_choice_answer": case.answers[0],
            "answers": [
                {"answer": text, "answer_confidence": "yes", "answer_id": annotator}
                for annotator, text in enumerate(case.answers, 1)
            ],
        }
        for number, case in enumerate(cases)
    ]
    results = [
        {"question_id": number, "answer": case.prediction} for number, case in enumerate(cases)
    ]
    question_file = {**head, "task_type": "Open-Ended", "questions": questions}
    return question_file, {**head, "annotations": annotations}, results


def _module(path: Path) -> ModuleType:
    """A module of the official code, converted to Python 3 and executed."""
    try:
        source = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SystemExit(
            f"expected a checkout of https://github.com/GT-Vision-Lab/VQA with {path}, got "
            f"{error}; clone the repository and give its folder to --official"
        ) from error
    # Python 2 counts a tab as up to eight columns; Python 3 refuses tabs mixed with spaces.
    converted = _PRINT.sub(r"\1print(\2)", source).expandtabs(8)
    module = ModuleType(path.stem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escape sequences that Python 3 warns about
        exec(compile(converted, str(path), "exec"), module.__dict__)
    return module


def main() -> int:
    """Print the numbers of differences; exits with 1 unless all are 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--official", type=Path, required=True, help="folder of the checkout")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="file for the cases with the official scores")
    parser.add_argument("--job", type=Path, help="folder of an evaluation to compare as well")
    parser.add_argument("--data", type=Path, help="folder of the VQA-v2 files of that evaluation")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    questions = list(cases(options.cases, options.seed))
    official = official_scores(options.official, questions)
    different = differences(questions, official)
    if options.write is not None:
        write_cases(options.write, questions, official)
    if options.job is not None:
        different["rows of the job"] = job_differences(options.official, options.data, options.job)
    by_score = {
        f"{score:g}": official.scores.count(score) for score in sorted(set(official.scores))
    }
    figures = {"cases": len(questions), "differences": different, "cases_by_score": by_score}
    print(
        json.dumps(figures)
        if options.json
        else f"{len(questions)} cases, differences: {different}; cases by official score: "
        f"{by_score}"
    )
    return 1 if any(different.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
