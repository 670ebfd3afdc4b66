"""`aligned-vq`: build and inspect bundles, and work with the bundled reference model."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.errors import AlignedVQError, ConfigError
from aligned_vq.reference.assets import NAME, checkpoint_source
from aligned_vq.types import LINK_KINDS, LinkKind, SplitPoint

if TYPE_CHECKING:
    from PIL.Image import Image

    from aligned_vq.reference.examination import Report

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status. Errors the user can mend are one line, no traceback."""
    commands: dict[str, tuple[ArgumentParser, Callable[[Namespace], None]]] = {
        "export": (_export_parser(), _export),
        "inspect": (_inspect_parser(), _inspect),
        "reference-train": (_train_parser(), _train),
        "reference-eval": (_eval_parser(), _eval),
        "reference-sweep": (_sweep_parser(), _sweep),
    }
    parser = ArgumentParser(prog="aligned-vq", description=__doc__)
    choices = parser.add_subcommands()
    for name, (command, _) in commands.items():
        choices.add_subcommand(name, command, help=command.description)
    parsed = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in ("transformers", "httpx"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        commands[parsed.subcommand][1](parsed[parsed.subcommand])
    except (AlignedVQError, OSError) as error:
        print(f"aligned-vq: {error}", file=sys.stderr)
        return 1
    return 0


def _export_parser() -> ArgumentParser:
    parser = ArgumentParser(description="calibrate a codec on pictures and write a bundle")
    parser.add_argument("--checkpoint", required=True, help="directory, hub id, or 'reference'")
    parser.add_argument("--revision", type=str | None, default=None, help="of a hub id")
    parser.add_argument(
        "--images", required=True, help="folder of calibration pictures, or 'reference:400'"
    )
    parser.add_argument("--split", required=True, help="pre, ln1@0, ln2@3, ...")
    parser.add_argument("--link", type=LinkKind, default="learned", help="residual link")
    parser.add_argument("--codebook_sizes", type=tuple[int, ...], default=(4096,))
    parser.add_argument("--codebook_dim", type=int, default=32)
    parser.add_argument("--num_groups", type=int, default=1)
    parser.add_argument("--stage_shares", type=tuple[float, ...], default=())
    parser.add_argument("--identity", action="store_true", help="raw features, no codebook")
    parser.add_argument("--seed", type=int, default=0, help="of k-means")
    parser.add_argument("--out", required=True, type=Path, help="bundle directory to write")
    return parser


def _export(options: Namespace) -> None:
    from aligned_vq.calibrate import (
        CodecPlan,
        calibrate_codec,
        export_bundle,
        features_at,
        load_prefix,
        pixel_batches,
    )
    from aligned_vq.split.checkpoint import LlavaCheckpoint

    plan = CodecPlan(
        split=SplitPoint.parse(options.split),
        link=options.link,
        codebook_sizes=() if options.identity else options.codebook_sizes,
        codebook_dim=options.codebook_dim,
        num_groups=options.num_groups,
        stage_shares=options.stage_shares,
        identity=options.identity,
    )
    checkpoint = LlavaCheckpoint(checkpoint_source(options.checkpoint), options.revision)
    pixels = pixel_batches(checkpoint, _pictures(options.images))
    examples = features_at(load_prefix(checkpoint, plan.split), pixels)
    calibrated = calibrate_codec(checkpoint, plan, examples, options.seed)
    manifest = export_bundle(checkpoint, calibrated, options.out)
    body = manifest.quantizer.payload_bytes(manifest.features.num_tokens)
    print(
        f"{options.out}: {manifest.split}, {manifest.link} link, {body} B per image at fixed width"
    )


def _pictures(source: str) -> list[Image]:
    from PIL import Image

    from aligned_vq.reference.examination import training_pictures

    kind, _, count = source.partition(":")
    if kind == NAME:
        if not count.isdecimal() or int(count) < 1:
            raise ConfigError(f"expected reference:COUNT, such as reference:400, got {source!r}")
        return list(training_pictures(int(count)))
    paths = sorted(
        path for path in Path(source).glob("*") if path.suffix.lower() in _IMAGE_SUFFIXES
    )
    if not paths:
        raise ConfigError(f"expected a folder with pictures, found none in {source}")
    return [Image.open(path) for path in paths]


def _inspect_parser() -> ArgumentParser:
    parser = ArgumentParser(description="show a bundle's manifest, or a payload file")
    parser.add_argument("path", type=Path, help="bundle directory or .avq file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _inspect(options: Namespace) -> None:
    figures = (
        _bundle_figures(options.path) if options.path.is_dir() else _file_figures(options.path)
    )
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name}: {value}")


def _bundle_figures(path: Path) -> dict[str, Any]:
    from aligned_vq.bundle import read_manifest

    manifest = read_manifest(path)
    return {
        "manifest_digest": manifest.digest().hex(),
        "fixed_payload_bytes": manifest.quantizer.payload_bytes(manifest.features.num_tokens),
        **manifest.to_dict(),
    }


def _file_figures(path: Path) -> dict[str, Any]:
    from aligned_vq.bitstream import from_frame

    payload = from_frame(path.read_bytes())
    figures = asdict(payload) | {
        "manifest_digest": payload.manifest_digest.hex(),
        "body_bytes": len(payload.body),
        "digest": payload.digest().hex(),
    }
    figures.pop("body")
    return figures


def _train_parser() -> ArgumentParser:
    parser = ArgumentParser(description="train the reference model from scratch")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument("--work", type=Path, default=Path("work/reference"), help="resumable state")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def _train(options: Namespace) -> None:
    import torch

    from aligned_vq.reference.recipe import Recipe, train_reference

    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = found if options.device == "auto" else options.device
    train_reference(Recipe(), options.work, options.out, device)


def _eval_parser() -> ArgumentParser:
    parser = ArgumentParser(description="examine the reference model without the split")
    parser.add_argument("--checkpoint", default=NAME, help="directory of a reference checkpoint")
    parser.add_argument("--questions", type=int, default=2000, help="of the test split")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _eval(options: Namespace) -> None:
    from aligned_vq.reference.examination import ReferenceExaminer

    examiner = ReferenceExaminer(checkpoint_source(options.checkpoint), options.questions)
    report = examiner.examine(examiner.unsplit, "unsplit")
    if options.json:
        print(json.dumps(report.to_dict()))
    else:
        print_report(report)


def _sweep_parser() -> ArgumentParser:
    parser = ArgumentParser(description="calibrated codecs at several cuts with every link")
    parser.add_argument("--checkpoint", default=NAME, help="directory of a reference checkpoint")
    parser.add_argument("--questions", type=int, default=2000, help="of the test split")
    parser.add_argument("--cuts", type=tuple[str, ...], default=("pre", "ln1@0", "ln2@0", "ln1@1"))
    parser.add_argument("--links", type=tuple[LinkKind, ...], default=LINK_KINDS)
    parser.add_argument("--codebook_sizes", type=tuple[int, ...], default=(4096,))
    parser.add_argument("--json", action="store_true", help="print one JSON object per row")
    return parser


def _sweep(options: Namespace) -> None:
    from aligned_vq.reference.examination import ReferenceExaminer
    from aligned_vq.reference.sweep import sweep

    examiner = ReferenceExaminer(checkpoint_source(options.checkpoint), options.questions)
    unsplit = examiner.examine(examiner.unsplit, "unsplit")
    if not options.json:
        print(f"{'cut':<8}{'link':<13}{'bytes':>6}{'answers':>9}{'words':>8}")
        print(f"{'unsplit':<27}{unsplit.answers:>9.1%}{unsplit.words:>8.1%}", flush=True)
    else:
        print(json.dumps({"split": "unsplit", **unsplit.to_dict()}), flush=True)
    for row in sweep(examiner, options.cuts, options.links, options.codebook_sizes):
        if options.json:
            print(json.dumps(row.to_dict()), flush=True)
            continue
        print(
            f"{row.split!s:<8}{row.link:<13}{row.payload_bytes:>6}"
            f"{row.report.answers:>9.1%}{row.report.words:>8.1%}",
            flush=True,
        )


def print_report(report: Report) -> None:
    """The table by question kind, beside the majority answer's."""
    figures = report.to_dict()
    print("reference model, test split, greedy, exact match")
    print(f"{'kind':<14}{'questions':>10}{'right':>8}{'majority':>10}")
    for kind, row in figures["kinds"].items():
        print(
            f"{kind:<14}{row['questions']:>10}{row['exact_match']:>8.1%}"
            f"{row['majority_answer']:>10.1%}"
        )
    print(
        f"{'all short':<14}{figures['questions']:>10}{figures['exact_match']:>8.1%}"
        f"{figures['majority_answer']:>10.1%}"
    )
    print(f"words of descriptions: {figures['description_words']:.1%}")


if __name__ == "__main__":
    sys.exit(main())
