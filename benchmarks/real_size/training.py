"""Time and memory of a training step of every stage at LLaVA-1.5's real width, random weights.

ViT-L/14-336 in front of a language model of width 4096, with 2 layers by default and 32 in the 7B
model. The tokenizer is the reference model's, with the vocabulary size of LLaVA-1.5. Every stage
runs in a separate process, so that peak memory is attributable to it; losses are meaningless.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from aligned_vq.training.config_file import config_from
from aligned_vq.training.run import TrainingRun
from benchmarks.real_size.checkpoint import LLAVA_CONFIG

IMAGES = 8  # 4,616 tokens: enough to calibrate 4,096 entries
SPLIT = "ln1@1"
LANGUAGE_WIDTH = 4096
"""Width of LLaVA-1.5-7B's language model."""
STAGES: dict[str, dict[str, Any]] = {
    "calibrate": {},
    "align": {"align": {"steps": 1}},
    "task": {"task": {"steps": 1}},
    "task with LoRA": {
        "task": {"steps": 1},
        "lora": {"rank": 8, "targets": ["suffix", "projector", "language_model"]},
    },
}


def write_checkpoint(
    folder: Path, layers: int, device: str = "cpu", width: int = LANGUAGE_WIDTH
) -> Path:
    """Write a complete random LLaVA in bfloat16, with a processor; returns the folder.

    Args:
        folder: output directory.
        layers: number of layers of the language model; the vision tower has all of its blocks.
        device: device on which the weights are created.
        width: width of the language model, a multiple of 128.
    """
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    from aligned_vq.reference.blueprint import build_processor, build_tokenizer

    tokenizer = build_tokenizer(corpus_scenes=200)
    vision: Any = LLAVA_CONFIG["vision_config"]
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(
            vocab_size=32064,
            hidden_size=width,
            intermediate_size=width * 43 // 16,  # 11,008 at 4,096, as in LLaVA-1.5-7B
            num_hidden_layers=layers,
            num_attention_heads=width // 128,
            num_key_value_heads=width // 128,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
    )
    torch.manual_seed(0)
    # Created in bfloat16 at once: float32 weights would take twice the memory.
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlavaForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


def measure(stage: str, checkpoint: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step (for calibration: of all images), images per second, and peak memory."""
    # One more to warm up, and one whose start marks the end of the last measured step.
    steps = {"steps": options.steps + 2, "batch_size": options.batch}
    settings = {
        "checkpoint": str(checkpoint),
        "codec": {"split": SPLIT, "codebook_sizes": [4096]},
        "data": {"train": f"reference:{IMAGES}", "calibration_images": IMAGES},
        "precision": "bf16" if options.device == "cuda" else "no",
        "gradient_checkpointing": options.gradient_checkpointing,
        **STAGES[stage],
    }
    for name in ("align", "task"):
        settings.update({name: settings[name] | steps} if name in settings else {})
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        run = TrainingRun.open(config_from(settings, stage), Path(out))
        # The trainer reports no times; the start of each forward pass marks a step.
        run.modules.model.register_forward_pre_hook(lambda *_: starts.append(time.monotonic()))
        started = time.monotonic()
        run.train()
        ended = time.monotonic()
    if starts:
        # From start to start of a step; the first step is slower and does not count.
        seconds = (starts[-1] - starts[1]) / options.steps
        images = options.batch
    else:
        seconds, images = ended - started, IMAGES
    figures = {
        "seconds": seconds,
        "images_per_second": images / seconds,
        # Linux reports KiB.
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    if options.device == "cuda":
        figures["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


def main() -> int:
    """Print the figures; returns the exit status."""
    options = _parser().parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("training: expected a GPU, got none; leave out --device cuda", file=sys.stderr)
        return 1
    if options.measure is not None:
        logging.disable(logging.WARNING)
        print(json.dumps(measure(options.measure, options.checkpoint, options)))
        return 0
    results = {}
    hide_gpu = {} if options.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder), options.layers, options.device)
        for stage in STAGES:
            arguments = [*sys.argv[1:], f"--measure={stage}", f"--checkpoint={checkpoint}"]
            command = [sys.executable, "-m", "benchmarks.real_size.training", *arguments]
            completed = subprocess.run(
                command, env=os.environ | hide_gpu, stdout=subprocess.PIPE, text=True, check=True
            )
            results[stage] = json.loads(completed.stdout.splitlines()[-1])
    if options.json:
        settings = {key: getattr(options, key) for key in ("layers", "device", "batch")}
        print(json.dumps(settings | {"stages": results}))
        return 0
    precision = "bfloat16" if options.device == "cuda" else "float32"
    print(
        f"ViT-L/14-336 cut at {SPLIT}, language model of width 4096 and {options.layers} layers, "
        f"random weights, {precision} on {options.device}, batches of {options.batch}"
    )
    for stage, figures in results.items():
        unit = f"s for {IMAGES} images" if stage == "calibrate" else "s a step"
        gpu = f", {figures['peak_gpu_gib']:.1f} GiB on the GPU" if "peak_gpu_gib" in figures else ""
        print(
            f"  {stage:<14} {figures['seconds']:8.2f} {unit}, {figures['images_per_second']:.2f} "
            f"images/s, peak memory {figures['peak_gib']:.1f} GiB{gpu}"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--layers", type=int, default=2, help="layers of the language model; 7B has 32"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="images per step")
    parser.add_argument("--steps", type=int, default=1, help="measured steps; two more are run")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--measure", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
