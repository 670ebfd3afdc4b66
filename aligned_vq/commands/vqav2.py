"""`aligned-vq eval --benchmark vqav2` and `aligned-vq reference-vqav2`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.errors import ConfigError
from aligned_vq.shipped import BUNDLE, checkpoint_source

if TYPE_CHECKING:
    import torch

    from aligned_vq.evaluation.vqav2.answerers import QuestionClient
    from aligned_vq.evaluation.vqav2.job import JobSettings, RowPlan

LLAVA_SUFFIX = "\nAnswer the question using a single word or phrase."
"""What LLaVA-1.5 was trained to see behind a question that wants a short answer."""
MAX_TOKENS = 16
WAIT_HOURS = 24
"""A process that is done waits this long for the others."""
_CREDENTIALS = ("tls", "ca", "certificate", "key", "server_name", "token_file")


def add_options(parser: ArgumentParser) -> None:
    """Options of `eval` that this benchmark alone has."""
    parser.add_argument("--data", type=Path | None, default=None, help="vqav2: official files")
    parser.add_argument(
        "--split",
        default="val2014",
        help="vqav2: val2014, train2014, or test-dev2015 and test2015, for an upload",
    )
    parser.add_argument(
        "--suffix",
        type=str | None,
        default=None,
        help="vqav2: behind every question; LLaVA-1.5's, or none for the reference model",
    )
    parser.add_argument("--max_tokens", type=int, default=MAX_TOKENS, help="vqav2: of an answer")
    parser.add_argument(
        "--pad", type=bool, default=True, help="vqav2: pictures to a square, as LLaVA-1.5 does"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="vqav2: of the model's weights; auto: float16 on a GPU",
    )
    parser.add_argument(
        "--target",
        type=str | None,
        default=None,
        help="vqav2: ask this cloud, host:port; answers kept of that address are taken to be its",
    )
    parser.add_argument("--tls", type=bool, default=False, help="target: encrypt")
    parser.add_argument("--ca", type=Path | None, default=None, help="target: its authority, PEM")
    parser.add_argument("--certificate", type=Path | None, default=None, help="target: ours, PEM")
    parser.add_argument("--key", type=Path | None, default=None, help="target: ours, PEM")
    parser.add_argument("--server_name", type=str | None, default=None, help="target: its name")
    parser.add_argument("--token_file", type=Path | None, default=None, help="target: our token")


def evaluate_vqav2(options: Namespace) -> None:
    """Run the benchmark; see `aligned_vq.evaluation.vqav2`."""
    import torch
    from accelerate import PartialState

    from aligned_vq.evaluation.vqav2.files import VqaSplit
    from aligned_vq.evaluation.vqav2.job import answer_row
    from aligned_vq.evaluation.vqav2.rows import RowWriter

    _check(options)
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=WAIT_HOURS))
    with state.main_process_first():
        split = VqaSplit(options.data, options.split, options.out / "data", options.questions)
    with ExitStack() as stack:
        plans, asking = _plans(options, state.device, stack)
        writer = RowWriter(split, options.out, asking) if state.is_main_process else None
        if writer is not None and not options.json:
            print(writer.head())
        for plan in plans:
            answer_row(plan, split, asking, options.out, state)
            if writer is not None:
                row = writer.write(plan)
                print(json.dumps(row.to_dict()) if options.json else row.line(), flush=True)
    if writer is not None:
        print(writer.end(question_types=options.kinds, as_json=options.json))
    state.destroy_process_group()


def _check(options: Namespace) -> None:
    """ConfigError where options are missing, or are another benchmark's."""
    if options.data is None or options.out is None:
        raise ConfigError(
            "expected --data, the folder of VQA-v2's files, and --out, where answers are kept, got "
            "one of them at most; give both"
        )
    for name in ("runs", "baselines"):
        if options[name]:
            raise ConfigError(f"--{name} is of --benchmark reference, got vqav2; leave it out")
    if options.target is not None and not options.bundles:
        raise ConfigError("expected --bundles beside --target, got none; give those it serves")
    if options.max_tokens < 1:
        raise ConfigError(f"max_tokens must be 1 or more, got {options.max_tokens}")


def _plans(
    options: Namespace, device: torch.device, stack: ExitStack
) -> tuple[list[RowPlan], JobSettings]:
    """The rows to ask, and how; clients are closed with `stack`."""
    from aligned_vq.codec.bundle_files import read_manifest
    from aligned_vq.evaluation.vqav2.job import JobSettings
    from aligned_vq.evaluation.vqav2.plans import ModelHere, cloud_plans

    if options.target is None:
        dtype = _dtype(options.dtype, device)
        source = checkpoint_source(options.checkpoint)
        model = ModelHere(source, device, dtype, options.max_tokens)
        plans = [model.unsplit(), *model.bundles(options.bundles)]
        settings, tower = model.checkpoint.processor(), model.checkpoint.tower
    else:
        connect = partial(_connect, options, stack)
        plans = cloud_plans(options.bundles, options.target, connect, options.max_tokens)
        manifest = read_manifest(options.bundles[0])
        settings, tower = manifest.processor, manifest.tower
    suffix = options.suffix
    if suffix is None:  # the reference model was trained on its own wording
        suffix = "" if tower == read_manifest(BUNDLE).tower else LLAVA_SUFFIX
    return plans, JobSettings(
        suffix, options.max_tokens, settings.image_mean if options.pad else None
    )


def _dtype(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name == "auto":
        name = "float16" if device.type == "cuda" else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _connect(options: Namespace, stack: ExitStack, bundle: Path) -> QuestionClient:
    """An edge client of the target; the one place of this package that knows the edge."""
    from edge_client import EdgeClient, EdgeConfig

    config = EdgeConfig(**{name: options[name] for name in _CREDENTIALS})
    client = stack.enter_context(EdgeClient(options.target, bundle, config))
    client.check()
    return client


def reference_vqav2_parser() -> ArgumentParser:
    """Options of `reference-vqav2`."""
    parser = ArgumentParser(
        description="write the reference world's test questions in VQA-v2's file format"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--questions", type=int, default=500, help="at least 1")
    return parser


def reference_vqav2(options: Namespace) -> None:
    """Run the command."""
    from aligned_vq.evaluation.vqav2.world import SPLIT, write_world

    if options.questions < 1:
        raise ConfigError(f"questions must be 1 or more, got {options.questions}")
    write_world(options.out, options.questions)
    print(f"{options.out}: {options.questions} questions, for --split {SPLIT}")
