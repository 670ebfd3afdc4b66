"""`aligned-vq edgevl-train | reference-rooms | reference-dual-encoder`: students for devices."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.commands.training import device_of
from aligned_vq.files.atomic_folder import check_replaceable


def train_student_parser() -> ArgumentParser:
    """Options of `edgevl-train`."""
    parser = ArgumentParser(
        description="train a student on pairs of images and write its classifier bundle; an "
        "interrupted run is resumed"
    )
    parser.add_argument("config", type=Path, help="YAML file; see aligned_vq/edgevl/config.py")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument(
        "--set", type=str, default=[], nargs="*", help="changed settings, such as distill.steps=10"
    )
    parser.add_argument(
        "--labels",
        type=Path | None,
        default=None,
        help="file with the labels that the bundle holds, one per line; those of the run if absent",
    )
    return parser


def train_student(options: Namespace) -> None:
    """Run `edgevl-train`."""
    # Imported here: other subcommands and the help need no torch.
    from aligned_vq.classifier.files import CLASSIFIER_FILES
    from aligned_vq.dual_encoder.prompts import read_labels
    from aligned_vq.edgevl.config import StudentRunConfig
    from aligned_vq.edgevl.export import export_classifier
    from aligned_vq.edgevl.run import StudentRun
    from aligned_vq.files.config_file import config_of, read_settings

    bundle = options.out / "classifier"
    check_replaceable(bundle, CLASSIFIER_FILES)  # before the hours of training
    settings = read_settings(options.config, "a student's run", options.set)
    config = config_of(StudentRunConfig(), settings, str(options.config))
    labels = None if options.labels is None else read_labels(options.labels)
    run = StudentRun(config, options.out)
    labels = labels or run.labels
    student = run.quantize(run.distill())
    # The other processes would write the same bundle.
    if run.accelerator.is_main_process:
        scores = run.validate(student)
        export_classifier(run, student, bundle, {"default": labels})
        print(
            f"{bundle}: {len(labels)} labels, int8, validation accuracy {scores['rgb']:.1%} rgb, "
            f"{scores['other']:.1%} {run.modality}, by the teacher's labels"
        )


def rooms_parser() -> ArgumentParser:
    """Options of `reference-rooms`."""
    parser = ArgumentParser(
        description="render reference rooms into files in ScanNet's layout: colour, depth and "
        "infrared"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=8_000, help="rooms to train on")
    parser.add_argument("--valid", type=int, default=1_050, help="rooms to test on")
    parser.add_argument("--style", type=str, default="first", help="first or second")
    parser.add_argument(
        "--split",
        type=str,
        default="test",
        help="where rooms to test on come from: validation, test, holdout",
    )
    return parser


def write_reference_rooms(options: Namespace) -> None:
    """Run `reference-rooms`."""
    from aligned_vq.reference.dual_encoder.rooms import write_student_rooms

    write_student_rooms(
        options.out, options.train, options.valid, style=options.style, split=options.split
    )


def dual_encoder_parser() -> ArgumentParser:
    """Options of `reference-dual-encoder`."""
    parser = ArgumentParser(description="train the reference dual encoder from scratch")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument(
        "--work", type=Path, default=Path("work/dual-encoder"), help="folder of the resumable state"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def train_reference_dual_encoder(options: Namespace) -> None:
    """Run `reference-dual-encoder`."""
    from aligned_vq.reference.dual_encoder.recipe import DualEncoderRecipe, train_dual_encoder

    device = device_of(options.device)
    train_dual_encoder(DualEncoderRecipe(), options.work, options.out, device)
