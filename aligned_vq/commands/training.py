"""`aligned-vq train | reference-train`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def train_parser() -> ArgumentParser:
    """Options of `train`."""
    parser = ArgumentParser(
        description="train a codec and write its bundle; a run that was stopped goes on"
    )
    parser.add_argument("config", type=Path, help="YAML file; see aligned_vq/training/config.py")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument(
        "--set", type=str, default=[], nargs="*", help="changes, such as task.steps=10"
    )
    return parser


def train(options: Namespace) -> None:
    """Run the command."""
    from aligned_vq.training.config_file import read_config
    from aligned_vq.training.export import export_run
    from aligned_vq.training.run import TrainingRun

    run = TrainingRun(read_config(options.config, options.set), options.out)
    run.train()
    if run.accelerator.is_main_process:
        manifest = export_run(run, options.out / "bundle")
        points = ", ".join(point.name for point in manifest.operating_points) or "raw features"
        print(f"{options.out / 'bundle'}: {manifest.split}, {manifest.link} link; {points}")


def reference_parser() -> ArgumentParser:
    """Options of `reference-train`."""
    parser = ArgumentParser(description="train the reference model from scratch")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument("--work", type=Path, default=Path("work/reference"), help="resumable state")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def reference_train(options: Namespace) -> None:
    """Run the command."""
    import torch

    from aligned_vq.reference.recipe import Recipe, train_reference

    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = found if options.device == "auto" else options.device
    train_reference(Recipe(), options.work, options.out, device)
