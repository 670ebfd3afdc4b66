"""Shared fixtures: small models with random weights, so that the suite runs offline on a CPU."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from aligned_vq.calibration.codec import (
    CodecPlan,
    CutFeatures,
    calibrate_codec,
    export_bundle,
    features_at,
)
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.split.loading import load_prefix
from aligned_vq.types import OperatingPoint, SplitPoint
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from tests.log_search import LogSearch

# They have commands of their own: `make test-arm`, `make test-docker`; and `make test-vllm`,
# `make test-lmms`, each with an environment.
collect_ignore = [
    "arm",
    "docker",
    *([] if find_spec("vllm") else ["vllm"]),
    *([] if find_spec("lmms_eval") else ["lmms"]),
]

IMAGE_SIDE = 56
NUM_TOKENS = 17
BUNDLE_PLAN = CodecPlan(
    SplitPoint(1, "ln1"),
    codebook_sizes=(64, 32),
    codebook_dim=16,
    points=(
        OperatingPoint("adaptive", (0, 1), 0.75),  # covers about half of the tokens twice
        OperatingPoint("fixed", (0, 1)),
        OperatingPoint("first", (0,)),
    ),
)


def pytest_configure() -> None:
    """One thread for each process: models here are tiny, and other tests run at the same time."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def log_search() -> Iterator[LogSearch]:
    """A search that reads every log once more, whole, when the session ends.

    A server that lives as long as the session requests it, so that it ends first.
    """
    search = LogSearch()
    with search.recording():
        yield search
    assert search.all_leaks() == []


@pytest.fixture(scope="module")
def private_logs(log_search: LogSearch) -> Iterator[None]:
    """Fails the module where a log says what was asked, answered or sent.

    Directories whose tests ask questions turn it on in their `conftest.py`.
    """
    with log_search.listening():
        yield
    assert log_search.new_leaks() == []


def random_llava(
    *,
    width: int = 32,
    blocks: int = 4,
    feature_layer: int | list[int] = -2,
    select_strategy: str = "default",
    vocabulary: int = 600,
    seed: int = 0,
) -> LlavaForConditionalGeneration:
    """A LLaVA of 56 px, 17 vision tokens, with random weights and uneven LayerNorm affines."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=blocks,
            num_attention_heads=4,
            image_size=IMAGE_SIDE,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
        ),
        image_token_id=4,
        image_seq_length=NUM_TOKENS - 1,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=select_strategy,
    )
    model = LlavaForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.model.vision_tower.named_parameters():
            if "norm" in name or "layrnorm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.lm_head.weight.mul_(20)  # far from ties, so that answers vary with the image
    return model


@pytest.fixture(scope="session")
def llava_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random LLaVA with tokenizer and processor."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from aligned_vq.reference.blueprint import build_processor, build_tokenizer

    folder = tmp_path_factory.mktemp("llava")
    tokenizer = build_tokenizer(corpus_scenes=200)
    processor = build_processor(tokenizer)
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    processor.image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIDE}, crop_size=side
    )
    random_llava(vocabulary=len(tokenizer)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def talkative(llava_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint with room for long answers, which it hardly ever ends by itself."""
    folder = tmp_path_factory.mktemp("talkative") / "llava"
    shutil.copytree(llava_directory, folder)
    for name, section, change in (
        ("config.json", "text_config", {"max_position_embeddings": 4096}),
        ("generation_config.json", None, {"eos_token_id": 3}),
    ):
        settings = json.loads((folder / name).read_text())
        (settings if section is None else settings[section]).update(change)
        (folder / name).write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def examples(llava_directory: Path) -> CutFeatures:
    """Features at ln1@1 of 40 random pictures."""
    torch.manual_seed(5)
    prefix = load_prefix(LlavaCheckpoint(llava_directory), SplitPoint(1, "ln1"))
    return features_at(prefix, [torch.randn(8, 3, IMAGE_SIDE, IMAGE_SIDE) for _ in range(5)])


@pytest.fixture(scope="session")
def bundle_directory(
    llava_directory: Path, examples: CutFeatures, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A calibrated bundle: two residual stages, the second on half the tokens."""
    checkpoint = LlavaCheckpoint(llava_directory)
    folder = tmp_path_factory.mktemp("bundle")
    export_bundle(checkpoint, calibrate_codec(checkpoint, BUNDLE_PLAN, examples), folder)
    return folder


@pytest.fixture(scope="session")
def identity_bundle_directory(
    llava_directory: Path, examples: CutFeatures, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle that sends raw features and statistics: loses nothing."""
    checkpoint = LlavaCheckpoint(llava_directory)
    plan = CodecPlan(SplitPoint(1, "ln1"), link="statistics", identity=True)
    folder = tmp_path_factory.mktemp("identity-bundle")
    export_bundle(checkpoint, calibrate_codec(checkpoint, plan, examples), folder)
    return folder


@pytest.fixture(scope="session")
def cloud(
    log_search: LogSearch, llava_directory: Path, bundle_directory: Path
) -> Iterator[CloudProcess]:
    """A cloud process serving the calibrated bundle on free ports of 127.0.0.1."""
    with CloudProcess(bundle_directory, llava_directory, "--http_port=0") as process:
        yield process


@pytest.fixture(scope="session")
def identity_cloud(
    log_search: LogSearch, llava_directory: Path, identity_bundle_directory: Path
) -> Iterator[CloudProcess]:
    """A cloud of raw features: its answers are the unsplit model's."""
    with CloudProcess(identity_bundle_directory, llava_directory) as process:
        yield process


@pytest.fixture(scope="session")
def reference_cloud(log_search: LogSearch) -> Iterator[CloudProcess]:
    """A cloud process of the shipped bundle and the reference model."""
    with CloudProcess(BUNDLE, CHECKPOINT) as process:
        yield process


@pytest.fixture(scope="session")
def reference_gateway(reference_cloud: CloudProcess) -> Iterator[GatewayProcess]:
    """A gateway process before that cloud."""
    with GatewayProcess(reference_cloud.target, BUNDLE) as process:
        yield process
