"""Recognition under 15 corruptions, with and without adaptation; see docs/classification.md.

    python -m benchmarks.accuracy.adaptation --pairs scannet:work/rooms --split valid --severity 3

Each condition is a stream of its own, in a shuffled order, classified as `watch` does it by the
device's int8 student. `none` is the stream without corruption; `changing` is one stream of some
images of every condition after the other.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from aligned_vq.data.pairs.sources import open_pairs
from aligned_vq.data.pairs.types import PairSource, load_pair
from aligned_vq.edgevl.scoring import score
from aligned_vq.evaluation.corruptions.choice import CORRUPTIONS, corrupt
from aligned_vq.files.atomic_file import write_json
from aligned_vq.images.preprocess import View
from benchmarks.accuracy.recognition import labelled
from benchmarks.harness.provenance import provenance
from edge_client.classifier.adaptation import LabelAdaptation
from edge_client.classifier.classifier import EdgeClassifier

NONE, CHANGING = "none", "changing"
IMAGES_BETWEEN_CHANGES = 40
MODES = ("not adapted", "adapted")


class StreamImage(NamedTuple):
    """An image as the classifier sees it."""

    view: View
    truth: str


def streams(
    classifier: EdgeClassifier, source: PairSource, conditions: Sequence[str], severity: int
) -> Iterator[tuple[str, list[StreamImage]]]:
    """A stream for each condition, of all colour images of the source."""
    truth, _ = labelled(source)
    images = [
        load_pair(source[index], source.modality).rgb.values.astype(np.uint8)
        for index in range(len(source))
    ]
    changing: list[StreamImage] = []
    for number, condition in enumerate(tqdm(conditions, desc="stream", leave=False)):
        rng = np.random.default_rng([number, severity])
        frames = [
            StreamImage(classifier.view(_changed(image, condition, severity, rng)), label)
            for image, label in zip(images, truth, strict=True)
        ]
        order = np.random.default_rng(number).permutation(len(frames))
        stream = [frames[place] for place in order]
        changing += stream[:IMAGES_BETWEEN_CHANGES]
        yield condition, stream
    yield CHANGING, changing


def _changed(
    image: NDArray[np.uint8], condition: str, severity: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    return image if condition == NONE else corrupt(image, condition, severity, rng)


def scored(
    classifier: EdgeClassifier,
    frames: Sequence[StreamImage],
    labels: Sequence[str],
    adaptation: LabelAdaptation | None,
) -> dict[str, Any]:
    """Accuracy and calibration error in percent, and milliseconds of an image."""
    rows, milliseconds = [], []
    chosen: Counter[str] = Counter()
    for frame in frames:
        found = classifier.classify(frame.view, labels, adaptation=adaptation)
        by_label = dict(found.scores)
        rows.append([by_label[label] for label in labels])
        milliseconds.append(found.model_ms)
        if adaptation is not None:
            chosen[adaptation.correction] += 1
    found_score = score(torch.tensor(rows), [frame.truth for frame in frames], labels)
    row: dict[str, Any] = {
        "accuracy": round(100 * found_score.accuracy, 1),
        "calibration_error": round(100 * found_score.calibration_error, 1),
        "ms": round(float(np.mean(milliseconds)), 2),
    }
    if adaptation is not None:
        row |= {"correction": dict(chosen.most_common()), "state_bytes": adaptation.state_bytes}
    return row


def main() -> int:
    """Print a row for each condition, then their means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="reference")
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--split", default="valid")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--conditions", nargs="+", default=[NONE, *CORRUPTIONS])
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    source = open_pairs(options.pairs, options.split)
    _, labels = labelled(source)
    rows: list[dict[str, Any]] = []
    with EdgeClassifier(options.bundle, threads=1) as classifier:
        for condition, frames in streams(classifier, source, options.conditions, options.severity):
            for mode in MODES:
                adaptation = None if mode == MODES[0] else classifier.adaptation(labels)
                row = {"condition": condition, "adaptation": mode}
                rows.append(row | scored(classifier, frames, labels, adaptation))
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    for mode in MODES:
        corrupted = [
            row
            for row in rows
            if row["adaptation"] == mode and row["condition"] not in (NONE, CHANGING)
        ]
        means = {
            key: round(float(np.mean([row[key] for row in corrupted])), 2)
            for key in ("accuracy", "calibration_error", "ms")
        }
        print(f"mean of {len(corrupted)} corruptions, {mode}: {means}")
    if options.out:
        facts = {"severity": options.severity, "images": len(source), "pairs": options.pairs}
        write_json(options.out, facts | {"rows": rows} | provenance())
    return 0


if __name__ == "__main__":
    sys.exit(main())
