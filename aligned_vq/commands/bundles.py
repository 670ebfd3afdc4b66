"""`aligned-vq export | export-onnx | inspect`: create and inspect bundles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.codec.bundle_files import BUNDLE_FILES, read_manifest
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_folder import check_replaceable
from aligned_vq.shipped import NAME, checkpoint_source
from aligned_vq.types import LinkKind, SplitPoint

if TYPE_CHECKING:
    from PIL.Image import Image


def export_parser() -> ArgumentParser:
    """Options of `export`."""
    parser = ArgumentParser(description="calibrate a codec on images and write a bundle")
    parser.add_argument("--checkpoint", required=True, help="directory, hub id, or 'reference'")
    parser.add_argument("--revision", type=str | None, default=None, help="revision of a hub id")
    parser.add_argument(
        "--images", required=True, help="folder of calibration images, or 'reference:400'"
    )
    parser.add_argument("--split", required=True, help="pre, ln1@0, ln2@3, ...")
    parser.add_argument("--link", type=LinkKind, default="learned", help="residual link")
    parser.add_argument("--codebook_sizes", type=tuple[int, ...], default=(4096,))
    parser.add_argument("--codebook_dim", type=int, default=32)
    parser.add_argument("--num_groups", type=int, default=1)
    parser.add_argument("--identity", action="store_true", help="raw features, no codebook")
    parser.add_argument("--seed", type=int, default=0, help="seed of k-means")
    parser.add_argument("--onnx", action="store_true", help="also write a graph, as export-onnx")
    parser.add_argument(
        "--out", required=True, type=Path, help="bundle directory: new, or a bundle to replace"
    )
    return parser


def export(options: Namespace) -> None:
    """Run `export`."""
    # Imported here: other subcommands and the help need no torch.
    from aligned_vq.calibration.codec import (
        CodecPlan,
        calibrate_codec,
        export_bundle,
        features_at,
        pixel_batches,
    )
    from aligned_vq.llava.checkpoint import LlavaCheckpoint
    from aligned_vq.split.loading import load_prefix

    check_replaceable(options.out, BUNDLE_FILES)  # before the calibration, which takes long
    # Before the calibration, too: onnx may be missing.
    finish = _graph_writer() if options.onnx else None
    plan = CodecPlan(
        split=SplitPoint.parse(options.split),
        link=options.link,
        codebook_sizes=() if options.identity else options.codebook_sizes,
        codebook_dim=options.codebook_dim,
        num_groups=options.num_groups,
        identity=options.identity,
    )
    checkpoint = LlavaCheckpoint(checkpoint_source(options.checkpoint), options.revision)
    pixels = pixel_batches(checkpoint, _calibration_images(options.images))
    examples = features_at(load_prefix(checkpoint, plan.split), pixels)
    calibrated = calibrate_codec(checkpoint, plan, examples, options.seed)
    manifest = export_bundle(checkpoint, calibrated, options.out, finish)
    if options.onnx:
        _print_graphs(options.out)
    body = manifest.quantizer.payload_bytes(manifest.features.num_tokens)
    print(
        f"{options.out}: {manifest.split}, {manifest.link} link, {body} B per image in fixed coding"
    )


def export_onnx_parser() -> ArgumentParser:
    """Options of `export-onnx`."""
    parser = ArgumentParser(
        description="add a graph for each modality to a bundle, so that the edge needs no torch"
    )
    parser.add_argument("bundle", type=Path, help="bundle directory; its weights do not change")
    parser.add_argument(
        "--int8", action="store_true", help="8-bit weights: smaller, but less accurate"
    )
    return parser


def export_onnx(options: Namespace) -> None:
    """Run `export-onnx`."""
    _graph_writer()(options.bundle, int8=options.int8)
    _print_graphs(options.bundle)


def _graph_writer() -> Callable[..., Path]:
    try:
        from aligned_vq.graph.writing import write_graph
    except ModuleNotFoundError as error:
        # Only onnx is optional; another missing module is a fault.
        if error.name != "onnx":
            raise
        raise ConfigError(
            "writing a graph needs the package onnx, which is not installed; run "
            "`pip install 'aligned-vq[train]'`"
        ) from error
    return write_graph


def _print_graphs(bundle: Path) -> None:
    for half in read_manifest(bundle).edge_halves:
        path = bundle / half.graph_file
        print(f"{path}: {path.stat().st_size} B in addition to the bundle's weights")


def _calibration_images(source: str) -> Iterator[Image]:
    """The images of a folder, or those of `reference:COUNT`, opened lazily."""
    from aligned_vq.data.image_folder import ImageFolder
    from aligned_vq.data.scenes.exam import training_images

    kind, _, count = source.partition(":")
    if kind == NAME:
        if not count.isdecimal() or int(count) < 1:
            raise ConfigError(f"expected reference:COUNT, such as reference:400, got {source!r}")
        return training_images(int(count))
    folder = ImageFolder(Path(source))
    return (folder[index].image for index in range(len(folder)))


def inspect_parser() -> ArgumentParser:
    """Options of `inspect`."""
    parser = ArgumentParser(
        description="show a bundle's manifest, a classifier's, or a payload file"
    )
    parser.add_argument("path", type=Path, help="bundle directory or .avq file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def inspect(options: Namespace) -> None:
    """Run `inspect`."""
    path = options.path
    fields = _bundle_fields(path) if path.is_dir() else _payload_fields(path)
    if options.json:
        print(json.dumps(fields))
        return
    for name, value in fields.items():
        print(f"{name}: {value}")


def _bundle_fields(path: Path) -> dict[str, Any]:
    from aligned_vq.classifier.files import MANIFEST, read_classifier

    if (path / MANIFEST).exists():
        classifier = read_classifier(path)
        return {"manifest_digest": classifier.digest().hex(), **classifier.to_dict()}
    manifest = read_manifest(path)
    return {
        "manifest_digest": manifest.digest().hex(),
        "fixed_payload_bytes": manifest.quantizer.payload_bytes(manifest.features.num_tokens),
        **manifest.to_dict(),
    }


def _payload_fields(path: Path) -> dict[str, Any]:
    from aligned_vq.bitstream import from_frame

    payload = from_frame(path.read_bytes())
    fields = asdict(payload) | {
        "manifest_digest": payload.manifest_digest.hex(),
        "body_bytes": len(payload.body),
        "digest": payload.digest().hex(),
    }
    fields.pop("body")  # binary
    return fields
