"""`aligned-vq eval | sweep | locations`: measurements, tables and plots."""

from __future__ import annotations

import json
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.commands import vqav2
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.shipped import BUNDLE, NAME, checkpoint_source

REFERENCE_QUESTIONS = 5000


def eval_parser() -> ArgumentParser:
    """Options of `eval`."""
    parser = ArgumentParser(
        description="measure accuracy and bytes of a model and its bundles, on the reference "
        "world's test questions or on VQA-v2"
    )
    parser.add_argument(
        "--benchmark",
        default="reference",
        choices=("reference", "vqav2"),
        help="vqav2 saves every answer in --out and resumes from there; for several processes "
        "run accelerate launch -m aligned_vq.cli eval ...",
    )
    parser.add_argument(
        "--questions",
        type=int | None,
        default=None,
        help=f"number of short questions; default: {REFERENCE_QUESTIONS} of reference, all of "
        "vqav2",
    )
    parser.add_argument("--checkpoint", default=NAME, help="directory, or 'reference'")
    parser.add_argument(
        "--bundles", type=Path, nargs="*", default=[BUNDLE], help="bundles of the checkpoint"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="*",
        default=[],
        help="folders of training runs, each evaluated with the run's checkpoint if it has one",
    )
    parser.add_argument(
        "--baselines", action="store_true", help="also JPEG and WebP images and raw features"
    )
    parser.add_argument(
        "--kinds",
        action="store_true",
        help="also accuracy by kind of question, reference: of the unsplit model; vqav2: of all "
        "rows",
    )
    parser.add_argument("--out", type=Path | None, default=None, help="folder for JSON and plots")
    parser.add_argument("--json", action="store_true", help="print a JSON object per row")
    vqav2.add_options(parser)
    return parser


def evaluate(options: Namespace) -> None:
    """Run `eval`."""
    if options.questions is not None and options.questions < 1:
        raise ConfigError(f"questions must be 1 or more, got {options.questions}")
    if options.benchmark == "vqav2":
        vqav2.evaluate_vqav2(options)
    else:
        _evaluate_reference(options, options.questions or REFERENCE_QUESTIONS)


def _evaluate_reference(options: Namespace, questions: int) -> None:
    # Imported here: other subcommands and the help need no torch.
    from aligned_vq.data.scenes.exam import exam_images, majority_answers
    from aligned_vq.evaluation.baselines.features import feature_baselines
    from aligned_vq.evaluation.baselines.fsq import fsq_baseline
    from aligned_vq.evaluation.baselines.images import image_baselines
    from aligned_vq.evaluation.codec_path import bundle_path
    from aligned_vq.evaluation.examiner import Evaluator
    from aligned_vq.evaluation.exams import bundle_rows, checkpoint_of
    from aligned_vq.evaluation.llava import LoadedLlava
    from aligned_vq.evaluation.plots import plot_rate_accuracy
    from aligned_vq.evaluation.results import ExamRow, table_head

    exam = list(exam_images(questions))
    examiner = Evaluator(LoadedLlava.load(checkpoint_source(options.checkpoint)), exam)
    unsplit = examiner.examine(examiner.unsplit, "unsplit")
    reference = unsplit.verdicts
    rows: list[ExamRow] = []

    def show(row: ExamRow) -> None:
        rows.append(row)
        # Flushed, so that rows appear at once in a pipe, too.
        print(json.dumps(row.to_dict()) if options.json else row.line(), flush=True)

    if not options.json:
        print(f"reference world, test split, {questions} questions, greedy, exact match")
        print(table_head())
    show(ExamRow.of("unsplit", {}, reference, reference, unsplit.costs))
    for folder in options.bundles:
        for row in bundle_rows(examiner, folder, reference):
            show(row)
    for folder in options.runs:
        checkpoint = checkpoint_of(folder)
        evaluator = examiner
        # With adapters, the run changed the model that answers.
        if checkpoint is not None:
            evaluator = Evaluator(LoadedLlava.load(checkpoint), exam)
        for row in bundle_rows(evaluator, folder / "bundle", reference, folder.name):
            show(row)
    if options.baselines:
        # The baselines use the cut of the first bundle.
        split = bundle_path(examiner, options.bundles[0]).split
        for features in (*feature_baselines(examiner, split), fsq_baseline(examiner, split)):
            show(examiner.row(features, reference))
        for images in image_baselines(examiner):
            show(examiner.row(images, reference))
    if options.kinds and not options.json:
        print(rows[0].kinds_table(majority_answers(exam)))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        figures = [row.to_dict() for row in rows]
        text = json.dumps(figures, indent=1) + "\n"
        write_file(options.out / "eval.json", text)
        plot_rate_accuracy(figures, options.out / "rate_accuracy")


def sweep_parser() -> ArgumentParser:
    """Options of `sweep`."""
    parser = ArgumentParser(
        description="evaluate all runs of a YAML file and write JSON files, a table and plots"
    )
    parser.add_argument("config", type=Path, help="such as benchmarks/sweeps/geometry.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--questions", type=int | None, default=None, help="overrides the file's number"
    )
    return parser


def sweep(options: Namespace) -> None:
    """Run `sweep`."""
    from aligned_vq.evaluation.sweep import main_sweep

    outcome = main_sweep(options.config, options.out, options.questions)
    print(outcome.table)
    outcome.check()


def locations_parser() -> ArgumentParser:
    """Options of `locations`."""
    parser = ArgumentParser(
        description="measure the distribution of feature magnitudes at every location of every "
        "block (AlignedVQ, figure 4)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON and plots")
    parser.add_argument("--checkpoint", default=NAME, help="directory, hub id, or 'reference'")
    parser.add_argument(
        "--pictures", type=int, default=64, help="number of images of the reference world"
    )
    return parser


def locations(options: Namespace) -> None:
    """Run `locations`."""
    from aligned_vq.evaluation.locations import locations_table, main_locations

    print(locations_table(main_locations(options.out, options.checkpoint, options.pictures)))
