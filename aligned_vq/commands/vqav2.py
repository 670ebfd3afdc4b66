"""`aligned-vq eval --benchmark vqav2 | reference-vqav2`: evaluation on VQA-v2."""

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
"""Appended to questions with short answers when LLaVA-1.5 was trained."""
MAX_TOKENS = 16
WAIT_HOURS = 24
"""How long a process that has finished waits for the others."""
_CREDENTIALS = ("tls", "ca", "certificate", "key", "server_name", "token_file")


def add_options(parser: ArgumentParser) -> None:
    """Add the options of `eval` that only this benchmark has."""
    parser.add_argument(
        "--data", type=Path | None, default=None, help="vqav2: folder of the official files"
    )
    parser.add_argument(
        "--split",
        default="val2014",
        help="vqav2: val2014, train2014, or test-dev2015 and test2015, for an upload",
    )
    parser.add_argument(
        "--suffix",
        type=str | None,
        default=None,
        help="vqav2: text after every question; default: LLaVA-1.5's, none for the reference model",
    )
    parser.add_argument(
        "--max_tokens", type=int, default=MAX_TOKENS, help="vqav2: maximum tokens of an answer"
    )
    parser.add_argument(
        "--pad", type=bool, default=True, help="vqav2: pad images to a square, as LLaVA-1.5 does"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="vqav2: dtype of the model's weights; auto: float16 on a GPU, else float32",
    )
    parser.add_argument(
        "--target",
        type=str | None,
        default=None,
        help="vqav2: host:port of a cloud service to evaluate instead of a local model; saved "
        "answers of this address are reused",
    )
    parser.add_argument("--tls", type=bool, default=False, help="target: use TLS")
    parser.add_argument("--ca", type=Path | None, default=None, help="target: CA certificate, PEM")
    parser.add_argument(
        "--certificate", type=Path | None, default=None, help="target: client certificate, PEM"
    )
    parser.add_argument(
        "--key", type=Path | None, default=None, help="target: key of the client certificate, PEM"
    )
    parser.add_argument(
        "--server_name", type=str | None, default=None, help="target: name in its certificate"
    )
    parser.add_argument(
        "--token_file", type=Path | None, default=None, help="target: file with the access token"
    )


def evaluate_vqav2(options: Namespace) -> None:
    """Run the benchmark; see `aligned_vq.evaluation.vqav2`."""
    # Imported here: other subcommands and the help need no torch.
    import torch
    from accelerate import PartialState

    from aligned_vq.evaluation.vqav2.files import VqaSplit
    from aligned_vq.evaluation.vqav2.job import answer_row
    from aligned_vq.evaluation.vqav2.rows import RowWriter

    _check(options)
    # Explicit, because processes without a GPU would form no group otherwise.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=WAIT_HOURS))
    # One process indexes the files; the others read its index.
    with state.main_process_first():
        split = VqaSplit(options.data, options.split, options.out / "data", options.questions)
    with ExitStack() as stack:
        plans, settings = _plans(options, state.device, stack)
        writer = RowWriter(split, options.out, settings) if state.is_main_process else None
        if writer is not None and not options.json:
            print(writer.head())
        for plan in plans:
            answer_row(plan, split, settings, options.out, state)
            if writer is not None:
                row = writer.write(plan)
                print(json.dumps(row.to_dict()) if options.json else row.line(), flush=True)
    if writer is not None:
        print(writer.end(question_types=options.kinds, as_json=options.json))
    state.destroy_process_group()


def _check(options: Namespace) -> None:
    """Raise ConfigError if options are missing or belong to another benchmark."""
    if options.data is None or options.out is None:
        raise ConfigError(
            "expected --data, the folder of VQA-v2's files, and --out, the folder for answers, got "
            "one of them at most; give both"
        )
    for name in ("runs", "baselines"):
        if options[name]:
            raise ConfigError(
                f"--{name} is of --benchmark reference, got --benchmark vqav2; leave it out"
            )
    if options.target is not None and not options.bundles:
        raise ConfigError(
            "expected --bundles with --target, got none; give the bundles that it serves"
        )
    if options.max_tokens < 1:
        raise ConfigError(f"max_tokens must be 1 or more, got {options.max_tokens}")


def _plans(
    options: Namespace, device: torch.device, stack: ExitStack
) -> tuple[list[RowPlan], JobSettings]:
    """The rows to evaluate and their common settings; `stack` closes the clients."""
    from aligned_vq.codec.bundle_files import read_manifest
    from aligned_vq.evaluation.vqav2.job import JobSettings
    from aligned_vq.evaluation.vqav2.plans import LocalModel, cloud_plans

    if options.target is None:
        dtype = _dtype(options.dtype, device)
        source = checkpoint_source(options.checkpoint)
        model = LocalModel(source, device, dtype, options.max_tokens)
        plans = [model.unsplit(), *model.bundles(options.bundles)]
        settings, tower = model.checkpoint.processor(), model.checkpoint.tower
    else:
        connect = partial(_connect, options, stack)
        plans = cloud_plans(options.bundles, options.target, connect, options.max_tokens)
        manifest = read_manifest(options.bundles[0])
        settings, tower = manifest.processor, manifest.tower
    suffix = options.suffix
    if suffix is None:  # the reference model was trained without a suffix
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
    """A connected edge client of the target."""
    # Imported here: an evaluation without a service needs no edge client.
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
    parser.add_argument("--questions", type=int, default=500, help="number of questions")
    return parser


def reference_vqav2(options: Namespace) -> None:
    """Run `reference-vqav2`."""
    from aligned_vq.evaluation.vqav2.world import SPLIT, write_world

    if options.questions < 1:
        raise ConfigError(f"questions must be 1 or more, got {options.questions}")
    write_world(options.out, options.questions)
    print(f"{options.out}: {options.questions} questions, for --split {SPLIT}")
