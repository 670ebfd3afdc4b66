"""Reference model: token ids of the split service without quantization against `generate`.

Serves an identity bundle (raw features, `statistics` link) in a separate process, asks 50 test
questions over gRPC, and compares every token id with the greedy answer of the unsplit model in
transformers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoProcessor, LlavaForConditionalGeneration

from aligned_vq.calibration.codec import (
    CodecPlan,
    calibrate_codec,
    export_bundle,
    features_at,
    pixel_batches,
)
from aligned_vq.data.scenes.exam import exam_images, training_images
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import CHECKPOINT
from aligned_vq.split.loading import load_prefix
from aligned_vq.types import SplitPoint
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient


def identity_bundle(out: Path, split: SplitPoint) -> Path:
    """Write a lossless bundle of the reference model to `out`; returns `out`."""
    checkpoint = LlavaCheckpoint(CHECKPOINT)
    # Raw features, and the mean and deviation that undo their LayerNorm: nothing is quantized.
    plan = CodecPlan(split, "statistics", codebook_sizes=(), identity=True)
    pixels = pixel_batches(checkpoint, training_images(1))
    examples = features_at(load_prefix(checkpoint, split), pixels)
    export_bundle(checkpoint, calibrate_codec(checkpoint, plan, examples), out)
    return out


def main() -> int:
    """Print the number of identical answers; exits with 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--split", default="ln1@1")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    # The dtype of the service on a CPU: other ones round differently.
    model = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
    # The slow processor resizes with Pillow, as the edge does.
    processor = AutoProcessor.from_pretrained(CHECKPOINT, use_fast=False)
    equal = 0
    with tempfile.TemporaryDirectory() as folder:
        bundle = identity_bundle(Path(folder), SplitPoint.parse(options.split))
        with CloudProcess(bundle, CHECKPOINT) as cloud, EdgeClient(cloud.target, bundle) as client:
            questions = [
                (image.image, question.text)
                for image in exam_images(options.questions)
                for question in image.questions
            ][: options.questions]
            for image, text in tqdm(questions, desc="questions"):
                content = [{"type": "image"}, {"type": "text", "text": text}]
                prompt = processor.apply_chat_template(
                    [{"role": "user", "content": content}], add_generation_prompt=True
                )
                inputs = processor(images=image, text=prompt, return_tensors="pt")
                generated = model.generate(**inputs, max_new_tokens=64, do_sample=False)
                # `generate` returns the prompt as well.
                expected = generated[0, inputs["input_ids"].shape[1] :].tolist()
                answer = client.ask(image, text, max_tokens=64)
                equal += list(answer.details.token_ids) == expected
    count = len(questions)
    figures = {"questions": count, "identical": equal, "split": options.split}
    print(json.dumps(figures) if options.json else f"identical token ids: {equal} of {count}")
    return 0 if equal == count else 1


if __name__ == "__main__":
    sys.exit(main())
