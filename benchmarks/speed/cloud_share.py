"""Where a question's time in the cloud goes, one question at a time: language model, or the rest?

The rest is the front tier (gRPC, checks, prompt) and the decode path (unpack, codebooks, residual
link, vision suffix, projector). Every question comes with a picture the service has not seen, which
is the worst case, and then once more about the same picture.
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
"""Of LLaVA-1.5-7B's language model."""
PATIENT = EdgeConfig(first_token_seconds=300, total_seconds=600)
LANGUAGE_MODEL = ("wait", "prefill", "decode")
CLIENT = "receive"
"""Until the payload is there: the edge still encodes."""


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


def model_ms(stages: Mapping[str, float]) -> float:
    """Of the language model, waiting for it included."""
    return sum(stages.get(stage, 0.0) for stage in LANGUAGE_MODEL)


def whole_model_ms(few: Mapping[str, float], twice: Mapping[str, float], layers: int) -> float:
    """Of the language model with all its `LAYERS`, from stages with `layers` and with twice as
    many: what both have in common, such as the head over the vocabulary, counts once.

    Raises:
        ConfigError: twice as many took no longer; the machine is too busy to tell.
    """
    added = model_ms(twice) - model_ms(few)
    if added <= 0:
        raise ConfigError(
            f"expected {2 * layers} layers to take longer than {layers}, got {model_ms(twice):.0f} "
            f"and {model_ms(few):.0f} ms; measure again on a quiet machine"
        )
    return model_ms(few) + added * (LAYERS - layers) / layers


def share(stages: Mapping[str, float], language_model_ms: float) -> float:
    """Of the time that is not the language model's, if that takes so long."""
    rest = stages["in all"] - model_ms(stages)
    return rest / (rest + language_model_ms)


def asked(cloud: CloudProcess, bundle: Path, images: list[ExamImage], kind: str) -> None:
    """One question about every picture, one after the other, over one warm connection."""
    with EdgeClient(cloud.target, bundle, PATIENT) as client:
        for image in tqdm(images, desc=kind, leave=False):
            questions = [
                own
                for own in image.questions
                if (own.kind == "description") == (kind == "description")
            ]
            client.ask(image.image, questions[0].text, max_tokens=48)
