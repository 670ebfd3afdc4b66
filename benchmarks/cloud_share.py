"""Where a question's time in the cloud goes, one question at a time: language model, or the rest?

The rest is the front tier (gRPC, checks, prompt) and the decode path (unpack, codebooks, residual
link, vision suffix, projector). Every question comes with a picture the service has not seen, which
is the worst case, and then once more about the same picture.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from aligned_vq.calibrate import (
    CodecPlan,
    calibrate_codec,
    export_bundle,
    features_at,
    pixel_batches,
)
from aligned_vq.reference.assets import BUNDLE, CHECKPOINT
from aligned_vq.reference.examination import ExamImage, exam_images
from aligned_vq.split.checkpoint import LlavaCheckpoint
from aligned_vq.split.loading import load_prefix
from aligned_vq.types import SplitPoint
from benchmarks.processes import CloudProcess
from benchmarks.real_training import write_checkpoint
from benchmarks.scraped import samples
from edge_client import EdgeClient, EdgeConfig

LAYERS = 32
"""Of LLaVA-1.5-7B's language model."""
PATIENT = EdgeConfig(first_token_seconds=300, total_seconds=600)
LANGUAGE_MODEL = ("wait", "prefill", "decode")
CLIENT = "receive"
"""Until the payload is there: the edge still encodes."""


@contextmanager
def real_dimensions(layers: int) -> Iterator[tuple[Path, Path]]:
    """A bundle and a checkpoint of ViT-L/14-336 and width 4096, with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = LlavaCheckpoint(write_checkpoint(Path(folder) / "llava", layers, "cpu"))
        split = SplitPoint(1, "ln1")
        pictures = (image.picture for image in exam_images(80))
        features = features_at(load_prefix(checkpoint, split), pixel_batches(checkpoint, pictures))
        bundle = Path(folder) / "bundle"
        export_bundle(checkpoint, calibrate_codec(checkpoint, CodecPlan(split), features), bundle)
        yield bundle, Path(folder) / "llava"


def stage_ms(cloud: CloudProcess, count: int) -> dict[str, float]:
    """Mean milliseconds of a question by stage; `in all` is the whole call's without the edge's."""
    found = samples(cloud.http)
    stages = {
        stage: 1e3 * seconds / count
        for (name, stage), seconds in found.items()
        if name == "avq_stage_seconds_sum"
    }
    edge = stages.pop(CLIENT, 0.0)
    return {**stages, "in all": 1e3 * found["avq_question_seconds_sum", ""] / count - edge}


def differences(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """What a second round added."""
    return {stage: spent - before.get(stage, 0.0) for stage, spent in after.items()}


def share(stages: dict[str, float], scale: float = 1.0) -> float:
    """Of the time that is not the language model's; `scale` is how many times as long that takes
    with all its layers."""
    model = sum(stages.get(stage, 0.0) for stage in LANGUAGE_MODEL)
    rest = stages["in all"] - model
    return rest / (rest + scale * model)


def asked(cloud: CloudProcess, bundle: Path, images: list[ExamImage], kind: str) -> None:
    """One question about every picture, one after the other, over one warm connection."""
    with EdgeClient(cloud.target, bundle, PATIENT) as client:
        for image in tqdm(images, desc=kind, leave=False):
            questions = [
                own
                for own in image.questions
                if (own.kind == "description") == (kind == "description")
            ]
            client.ask(image.picture, questions[0].text, max_tokens=48)


def measured(bundle: Path, checkpoint: Path, images: list[ExamImage], scale: float) -> object:
    """Stages and shares, for short answers and for descriptions, new pictures and held ones."""
    figures = {}
    for kind in ("short answer", "description"):
        with CloudProcess(bundle, checkpoint, "--http_port=0", "--dtype=float32") as cloud:
            before = stage_ms(cloud, len(images))
            for picture in ("new picture", "held picture"):
                asked(cloud, bundle, images, kind)
                after = stage_ms(cloud, len(images))
                stages = differences(after, before)
                before = after
                figures[f"{kind}, {picture}"] = {
                    "ms": {name: round(spent, 2) for name, spent in stages.items()},
                    "not_language_model": round(share(stages, scale), 3),
                }
    return figures


def main() -> int:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument(
        "--real", action="store_true", help="LLaVA-1.5's dimensions with random weights"
    )
    parser.add_argument("--layers", type=int, default=2, help="of the real language model")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    images = list(exam_images(8 * options.questions))[: options.questions]
    if options.real:
        with real_dimensions(options.layers) as (bundle, checkpoint):
            figures = measured(bundle, checkpoint, images, LAYERS / options.layers)
    else:
        figures = measured(BUNDLE, CHECKPOINT, images, 1.0)
    print(json.dumps(figures, indent=2))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
