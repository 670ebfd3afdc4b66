"""`edge-client classify`: options and output."""

from __future__ import annotations

import json
import os

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.errors import ConfigError
from aligned_vq.images.formats import DECODE_SECONDS, DEFAULT_FORMATS
from aligned_vq.images.modality import CAMERA_MODALITIES
from aligned_vq.shipped import NAME
from edge_client.classifier.classifier import EdgeClassifier, Labels

LABELS_HELP = (
    "labels, separated by commas, or the name of one of the bundle's label sets; default: its "
    "first set"
)


def parser() -> ArgumentParser:
    """The options. None is an environment variable: AVQ_EDGE_BUNDLE is another kind of bundle."""
    command = ArgumentParser(description="recognise labels in an image; nothing leaves the machine")
    command.add_argument("image", help="path of an image")
    command.add_argument("--labels", default="", type=str, help=LABELS_HELP)
    command.add_argument(
        "--modality", default="rgb", choices=CAMERA_MODALITIES, help="what the camera measures"
    )
    command.add_argument(
        "--bundle", default=NAME, type=str, help="directory of a classifier bundle, or 'reference'"
    )
    command.add_argument(
        "--top", default=0, type=int, help="number of labels to print, the most probable; 0: all"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--threads", default=0, type=int, help="compute threads; 0: one per core")
    command.add_argument(
        "--image_formats",
        default=DEFAULT_FORMATS,
        type=tuple[str, ...],
        help="formats of files that may be opened",
    )
    command.add_argument(
        "--image_seconds",
        default=DECODE_SECONDS,
        type=float,
        help="longest decoding time of an image",
    )
    return command


def classify(options: Namespace) -> None:
    """Print the labels of an image, the most probable first."""
    if options.top < 0 or options.threads < 0:
        raise ConfigError(
            f"expected top and threads of 0 or more, got {options.top} and {options.threads}; "
            "change these"
        )
    with EdgeClassifier(
        options.bundle,
        threads=options.threads,
        image_formats=options.image_formats,
        # Files on a command line are untrusted; Windows has no fork.
        isolate_images=hasattr(os, "fork"),
        image_seconds=options.image_seconds,
    ) as classifier:
        labels = parse_labels(options.labels, classifier)
        result = classifier.classify(options.image, labels, options.modality)
    if options.json:
        print(json.dumps({**result.to_dict(options.top or None), "modality": options.modality}))
        return
    for label, probability in result.scores[: options.top or None]:
        print(f"{label} {probability:.2f}")


def parse_labels(text: str, classifier: EdgeClassifier) -> Labels:
    """The labels of an option: the name of a label set, or texts separated by commas."""
    if not text:
        return None
    if text in (own.name for own in classifier.manifest.label_sets):
        return text
    return [part.strip() for part in text.split(",")]
