"""Splits a question's time in the cloud into the language model's and the rest.

The rest is the front tier (gRPC, checks, prompt) and the decode path (unpacking, codebooks,
residual link, vision suffix, projector). Questions are asked one at a time: first about images that
are new to the service, which is the worst case, then about the same images again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from aligned_vq.data.scenes.exam import ExamImage
from aligned_vq.errors import ConfigError
from benchmarks.harness.processes import CloudProcess
from benchmarks.harness.scraped import samples
from edge_client import EdgeClient, EdgeConfig

LAYERS = 32
"""Layers of LLaVA-1.5-7B's language model."""
LONG_TIMEOUTS = EdgeConfig(first_token_seconds=300, total_seconds=600)
LANGUAGE_MODEL = ("wait", "prefill", "decode")
CLIENT = "receive"
"""The stage until the payload has arrived, while the edge still encodes."""


def stage_ms(cloud: CloudProcess, count: int) -> dict[str, float]:
    """Milliseconds by stage since the service started, over `count` questions.

    `in all` is the time of the whole call without that of the edge.
    """
    metrics = samples(cloud.http)
    stages = {
        stage: 1e3 * seconds / count
        for (name, stage), seconds in metrics.items()
        if name == "avq_stage_seconds_sum"
    }
    # The edge is a process on the same machine; its time is not the cloud's.
    edge_ms = stages.pop(CLIENT, 0.0)
    return {**stages, "in all": 1e3 * metrics["avq_question_seconds_sum", ""] / count - edge_ms}


def differences(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """The milliseconds that a round of questions added to each stage."""
    return {stage: ms - before.get(stage, 0.0) for stage, ms in after.items()}


def model_ms(stages: Mapping[str, float]) -> float:
    """Milliseconds of the language model, including the wait for it."""
    return sum(stages.get(stage, 0.0) for stage in LANGUAGE_MODEL)


def whole_model_ms(few: Mapping[str, float], twice: Mapping[str, float], layers: int) -> float:
    """Milliseconds of the language model with all `LAYERS` layers, by linear extrapolation.

    The part that does not depend on the layers, such as the head over the vocabulary, counts once.

    Args:
        few: stages with `layers` layers.
        twice: stages with twice as many.
        layers: number of layers of the smaller model.

    Raises:
        ConfigError: the larger model took no longer, because the machine was busy.
    """
    added = model_ms(twice) - model_ms(few)
    if added <= 0:
        raise ConfigError(
            f"expected {2 * layers} layers to take longer than {layers}, got {model_ms(twice):.0f} "
            f"and {model_ms(few):.0f} ms; measure again on a quiet machine"
        )
    # `added` is the time of `layers` further layers.
    return model_ms(few) + added * (LAYERS - layers) / layers


def share(stages: Mapping[str, float], language_model_ms: float) -> float:
    """The share of the time that is not the language model's, if that takes `language_model_ms`."""
    rest_ms = stages["in all"] - model_ms(stages)
    return rest_ms / (rest_ms + language_model_ms)


def ask_one_by_one(cloud: CloudProcess, bundle: Path, images: list[ExamImage], kind: str) -> None:
    """Ask one question about every image in sequence, over one warm connection.

    Args:
        cloud: the service.
        bundle: directory of its bundle.
        images: images with their questions.
        kind: "description", or anything else for a question with a short answer.
    """
    with EdgeClient(cloud.target, bundle, LONG_TIMEOUTS) as client:
        for image in tqdm(images, desc=kind, leave=False):
            questions = [
                question
                for question in image.questions
                if (question.kind == "description") == (kind == "description")
            ]
            client.ask(image.image, questions[0].text, max_tokens=48)
