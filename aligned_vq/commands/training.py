"""`aligned-vq train | reference-train`: train codecs and the reference model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.codec.bundle_files import BUNDLE_FILES
from aligned_vq.files.atomic_folder import check_replaceable

if TYPE_CHECKING:
    from aligned_vq.modality.config import ModalityRunConfig
    from aligned_vq.training.config import TrainConfig


def train_parser() -> ArgumentParser:
    """Options of `train`."""
    parser = ArgumentParser(
        description="train a codec, or the prefix of another modality for one (a file with the "
        "key `modality`), and write the bundle; an interrupted run is resumed"
    )
    parser.add_argument(
        "config",
        type=Path,
        help="YAML file; see aligned_vq/training/config.py and aligned_vq/modality/config.py",
    )
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument(
        "--set", type=str, default=[], nargs="*", help="changed settings, such as task.steps=10"
    )
    return parser


def train(options: Namespace) -> None:
    """Run `train`."""
    # Imported here: other subcommands and the help need no torch.
    from aligned_vq.files.config_file import config_of, read_settings
    from aligned_vq.modality.config import ModalityRunConfig
    from aligned_vq.training.config_file import config_from

    check_replaceable(options.out / "bundle", BUNDLE_FILES)  # before the hours of training
    settings = read_settings(options.config, "a training run", options.set)
    if "modality" in settings:
        _train_prefix(config_of(ModalityRunConfig(), settings, str(options.config)), options.out)
    else:
        _train_codec(config_from(settings, str(options.config)), options.out)


def _train_codec(config: TrainConfig, out: Path) -> None:
    from aligned_vq.training.export import export_run
    from aligned_vq.training.run import TrainingRun

    run = TrainingRun.open(config, out)
    run.train()
    # The other processes would write the same bundle.
    if run.accelerator.is_main_process:
        manifest = export_run(run, out / "bundle")
        points = ", ".join(point.name for point in manifest.operating_points) or "raw features"
        print(f"{out / 'bundle'}: {manifest.split}, {manifest.link} link; {points}")


def _train_prefix(config: ModalityRunConfig, out: Path) -> None:
    from aligned_vq.modality.run import ModalityRun

    run = ModalityRun(config, out)
    best = run.train()
    run.export()
    print(
        f"{out / 'bundle'}: {config.modality}, step {best['step']:.0f}; on validation images "
        f"{best['agreement']:.1%} of the answers' tokens as in rgb, {best['bytes']:.0f} bytes"
    )


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
