"""Zero-shot recognition of labelled pairs: the device's int8 student beside its teacher.

    python -m benchmarks.accuracy.recognition --pairs scannet:ROOMS --teacher CLIP \\
        --bundle run/classifier

Every image is classified with the labels that occur in the pairs. For the teacher, images of
another modality are grey images like the student's, and the temperature is the teacher's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from aligned_vq.data.pairs.sources import open_pairs
from aligned_vq.data.pairs.types import PairSource, load_pair
from aligned_vq.dual_encoder.checkpoint import DualEncoder
from aligned_vq.dual_encoder.prompts import prompt
from aligned_vq.edgevl.scoring import ZeroShotScore, probabilities_of, score
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_json
from aligned_vq.images.depth import grey_image
from aligned_vq.images.modality import CAMERA_MODALITIES, CameraModality
from aligned_vq.images.preprocess import preprocess_batch
from benchmarks.harness.provenance import provenance
from edge_client.classifier.classifier import EdgeClassifier

BATCH = 64


def labelled(source: PairSource) -> tuple[list[str], list[str]]:
    """The label of every pair, and the distinct labels in the order of the alphabet.

    Raises:
        ConfigError: a pair has no label.
    """
    truth = [source[index].label for index in range(len(source))]
    if None in truth:
        raise ConfigError(f"{source.name}: expected a label for every pair; give labelled pairs")
    known = [label for label in truth if label is not None]
    return known, sorted(set(known))


def other_modality(source: PairSource) -> CameraModality:
    """The modality beside rgb.

    Raises:
        ConfigError: devices do not read it.
    """
    for name in CAMERA_MODALITIES:
        if name == source.modality:
            return name
    raise ConfigError(
        f"{source.name}: expected one of {', '.join(CAMERA_MODALITIES)} beside rgb, got "
        f"{source.modality}; devices read no other modality"
    )


def device_scores(
    bundle: str, source: PairSource, truth: Sequence[str], labels: Sequence[str]
) -> dict[str, ZeroShotScore]:
    """Scores of a classifier bundle by modality, each image classified by itself."""
    scores: dict[str, ZeroShotScore] = {}
    with EdgeClassifier(bundle) as classifier:
        for side in ("rgb", "other"):
            modality = "rgb" if side == "rgb" else other_modality(source)
            rows = []
            for index in tqdm(range(len(source)), desc=f"device, {modality}", leave=False):
                found = classifier.classify(getattr(source[index], side), list(labels), modality)
                rows.append([found.probability(label) for label in labels])
            scores[modality] = score(torch.tensor(rows), truth, labels)
    return scores


def teacher_scores(
    teacher: DualEncoder, source: PairSource, truth: Sequence[str], labels: Sequence[str]
) -> dict[str, ZeroShotScore]:
    """Scores of a dual encoder by modality."""
    texts = teacher.text_embeddings([prompt(label) for label in labels])
    embedded: dict[str, list[Tensor]] = {"rgb": [], source.modality: []}
    for rgb, other in tqdm(_images(source), total=-(-len(source) // BATCH), leave=False):
        for modality, images in (("rgb", rgb), (source.modality, other)):
            pixels = preprocess_batch(images, teacher.processor())
            embedded[modality].append(teacher.image_embeddings(torch.from_numpy(pixels)))
    scale = teacher.logit_scale
    return {
        modality: score(probabilities_of(torch.cat(parts), texts, scale), truth, labels)
        for modality, parts in embedded.items()
    }


def _images(source: PairSource) -> Iterator[tuple[list[Image.Image], list[Image.Image]]]:
    """Batches of colour images and of grey images of the other modality."""
    for first in range(0, len(source), BATCH):
        pairs = [
            load_pair(source[index], source.modality)
            for index in range(first, min(first + BATCH, len(source)))
        ]
        greys = [grey_image(pair.other).values for pair in pairs]
        yield (
            [Image.fromarray(pair.rgb.values) for pair in pairs],
            [Image.fromarray(np.repeat(grey[:, :, None], 3, 2)) for grey in greys],
        )


def row(found: ZeroShotScore, unseen: Sequence[str]) -> dict[str, Any]:
    """Percentages of one score."""
    seen = [label for label in found.by_label if label not in unseen]
    named = [label for label in unseen if label in found.by_label]
    return {
        "images": found.images,
        "top1": round(100 * found.accuracy, 1),
        "seen": round(100 * found.mean_over(seen), 1) if seen else None,
        "unseen": round(100 * found.mean_over(named), 1) if named else None,
        "calibration_error": round(100 * found.calibration_error, 1),
        "by_label": {label: round(100 * share, 1) for label, share in found.by_label.items()},
    }


def main() -> int:
    """Print one row for each encoder and modality."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", required=True, help="such as scannet:FOLDER")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--teacher", default="", help="a dual encoder, beside the device")
    parser.add_argument("--bundle", default="", help="a classifier bundle")
    parser.add_argument("--unseen", nargs="*", default=[], help="labels that were not trained on")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    if not (options.teacher or options.bundle):
        parser.error(
            "expected a teacher, a bundle or both, got neither: give --teacher or --bundle"
        )
    source = open_pairs(options.pairs, options.split)
    truth, labels = labelled(source)
    results: dict[str, dict[str, Any]] = {}
    if options.teacher:
        teacher = DualEncoder(options.teacher)
        scores = teacher_scores(teacher, source, truth, labels)
        results["teacher"] = {name: row(one, options.unseen) for name, one in scores.items()}
    if options.bundle:
        scores = device_scores(options.bundle, source, truth, labels)
        results["device"] = {name: row(one, options.unseen) for name, one in scores.items()}
    for encoder, modalities in results.items():
        for modality, figures in modalities.items():
            print(
                f"{encoder:8} {modality:9} top-1 {figures['top1']:5.1f}  seen {figures['seen']}  "
                f"unseen {figures['unseen']}  calibration error {figures['calibration_error']}"
            )
    if options.out:
        write_json(options.out, {"source": source.name, **results, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
