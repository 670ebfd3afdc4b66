"""`aligned-vq train | reference-train`: train codecs and the reference model."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.codec.bundle_files import BUNDLE_FILES
from aligned_vq.files.atomic_folder import check_replaceable


def train_parser() -> ArgumentParser:
    """Options of `train`."""
    parser = ArgumentParser(
        description="train a codec and write its bundle; an interrupted run is resumed"
    )
    parser.add_argument("config", type=Path, help="YAML file; see aligned_vq/training/config.py")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument(
        "--set", type=str, default=[], nargs="*", help="changed settings, such as task.steps=10"
    )
    return parser


def train(options: Namespace) -> None:
    """Run `train`."""
    # Imported here: other subcommands and the help need no torch.
    from aligned_vq.training.config_file import read_config
    from aligned_vq.training.export import export_run
    from aligned_vq.training.run import TrainingRun

    check_replaceable(options.out / "bundle", BUNDLE_FILES)  # before the hours of training
    run = TrainingRun.open(read_config(options.config, options.set), options.out)
    run.train()
    # The other processes would write the same bundle.
    if run.accelerator.is_main_process:
        manifest = export_run(run, options.out / "bundle")
        points = ", ".join(point.name for point in manifest.operating_points) or "raw features"
        print(f"{options.out / 'bundle'}: {manifest.split}, {manifest.link} link; {points}")


def reference_parser() -> ArgumentParser:
    """Options of `reference-train`."""
    parser = ArgumentParser(description="train the reference model from scratch")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument(
        "--work", type=Path, default=Path("work/reference"), help="folder for the resumable state"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--start",
        type=str | None,
        default=None,
        help="a reference checkpoint, or 'reference', the shipped one, to continue from: its "
        "vision tower is frozen, its language model is trained on conversations",
    )
    return parser


def reference_train(options: Namespace) -> None:
    """Run `reference-train`."""
    from aligned_vq.reference.recipe import Recipe, train_reference
    from aligned_vq.shipped import checkpoint_source

    start = Path(checkpoint_source(options.start)) if options.start else None
    train_reference(Recipe(), options.work, options.out, device_of(options.device), start)


def device_of(name: str) -> str:
    """The device to train on; `auto` is a GPU where there is one."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
