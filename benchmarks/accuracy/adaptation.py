"""Recognition under 15 corruptions, with and without adaptation; see docs/classification.md.

    python -m benchmarks.accuracy.adaptation --pairs scannet:work/rooms --split valid --severity 3

Each condition is a stream of its own, in a shuffled order. Images are embedded once by the device's
int8 student; what follows works on embeddings. `none` is the stream without corruption.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
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
from aligned_vq.lqa.caches import CacheSettings, ExemplarCaches
from benchmarks.accuracy.recognition import labelled
from benchmarks.harness.provenance import provenance
from edge_client.classifier.classifier import EdgeClassifier

NONE = "none"


class Stream(NamedTuple):
    """Images of one condition as the classifier sees them, in their order."""

    embeddings: NDArray[np.float32]
    """`[N, D]`."""
    truth: list[str]


Adapter = Callable[[NDArray[np.float32], NDArray[np.float64]], NDArray[np.float64]]


def streams(
    classifier: EdgeClassifier, source: PairSource, conditions: Sequence[str], severity: int
) -> dict[str, Stream]:
    """A stream for each condition, of all colour images of the source."""
    truth, _ = labelled(source)
    images = [
        load_pair(source[index], source.modality).rgb.values.astype(np.uint8)
        for index in range(len(source))
    ]
    found = {}
    for number, condition in enumerate(tqdm(conditions, desc="embed", leave=False)):
        rng = np.random.default_rng([number, severity])
        rows = []
        for image in images:
            changed = image if condition == NONE else corrupt(image, condition, severity, rng)
            rows.append(classifier.embed(classifier.view(changed)))
        order = np.random.default_rng(number).permutation(len(rows))
        found[condition] = Stream(np.stack(rows)[order], [truth[place] for place in order])
    return found


def scored(
    stream: Stream,
    texts: NDArray[np.float32],
    labels: Sequence[str],
    scale: float,
    adapter: Adapter,
) -> dict[str, float]:
    """Accuracy and calibration error in percent, and milliseconds an image."""
    rows, seconds = [], 0.0
    for embedding in stream.embeddings:
        cosines = (texts @ embedding).astype(np.float64)
        started = time.perf_counter()
        corrected = adapter(embedding, cosines)
        seconds += time.perf_counter() - started
        rows.append(torch.from_numpy(scale * corrected).softmax(0))
    found = score(torch.stack(rows), stream.truth, labels)
    return {
        "accuracy": round(100 * found.accuracy, 1),
        "calibration_error": round(100 * found.calibration_error, 1),
        "ms": round(1e3 * seconds / len(stream.truth), 3),
    }


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
    with EdgeClassifier(options.bundle) as classifier:
        manifest = classifier.manifest
        texts = classifier.text_embeddings(labels)
        every = streams(classifier, source, options.conditions, options.severity)
    scale = manifest.modality_input("rgb").logit_scale
    for condition, stream in every.items():
        caches = ExemplarCaches(len(labels), manifest.embedding_dim, CacheSettings())
        adapters: dict[str, Adapter] = {
            "not adapted": lambda _, cosines: cosines,
            "caches": partial(caches.adapt, scale=scale),
        }
        for name, adapter in adapters.items():
            rows.append(
                {"condition": condition, "adaptation": name}
                | scored(stream, texts, labels, scale, adapter)
            )
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        print(f"  state {caches.state_bytes} bytes")
    for name in ("not adapted", "caches"):
        corrupted = [row for row in rows if row["adaptation"] == name and row["condition"] != NONE]
        means = {
            key: round(float(np.mean([row[key] for row in corrupted])), 1)
            for key in ("accuracy", "calibration_error")
        }
        print(f"mean of {len(corrupted)} corruptions, {name}: {means}")
    if options.out:
        write_json(options.out, {"rows": rows, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
