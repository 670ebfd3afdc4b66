"""lmms-eval's requests as questions: pictures, sampling, rounds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from PIL import Image

from aligned_vq.answers import Sampling
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.load import load_image
from lmms_plugin.asked import ModelRequest
from protos.messages import check_sampling

DEFAULT_TOKENS = 1024
"""Where a task has no `max_new_tokens`, as in lmms-eval's own models."""

_NEUTRAL = {"num_beams": (None, 1), "repetition_penalty": (None, 1)}
_KNOWN = (
    *("max_new_tokens", "do_sample", "temperature", "top_p", "seed", "until"),
    "image_aspect_ratio",  # of LLaVA's own code; here the processor's settings decide
    *_NEUTRAL,
)
_BLANK_LINE = ["\n\n"]


def question(name: str, context: str, visuals: Any, sampling: Sampling) -> ModelRequest:
    """A context and what `doc_to_visual` gave for it.

    Raises:
        InvalidInput: there are several pictures, or something else than a picture.
    """
    found = list(visuals or ()) if isinstance(visuals, list | tuple | None) else [visuals]
    if len(found) > 1:
        raise InvalidInput(
            f"{name}: expected at most one picture, as the model answers about one, got "
            f"{len(found)}; leave this task out"
        )
    if found and not isinstance(found[0], Image.Image):
        raise InvalidInput(
            f"{name}: expected a picture, got {type(found[0]).__name__} (a video or a sound?); "
            "leave this task out"
        )
    return ModelRequest(name, context, load_image(found[0]) if found else None, sampling)


def sampling_of(settings: Mapping[str, Any]) -> Sampling:
    """A task's `generation_kwargs`, as transformers would read them.

    Greedy unless `do_sample`, or a temperature without it, says otherwise. Seeds come from
    `random`, which lmms-eval's `--seed` sets. `until` ends an answer, but for the blank line alone:
    lmms-eval fills it in where a task names nothing, and answers of LLaVA's have paragraphs.

    Raises:
        ConfigError: a setting is not known, or asks for a search over beams.
        InvalidInput: a number or a text is out of range.
    """
    for name, value in settings.items():
        if name not in _KNOWN:
            raise ConfigError(
                f"expected generation settings among {', '.join(_KNOWN)}, got {name}={value!r}; "
                "leave it out of the task or of --gen_kwargs"
            )
        if name in _NEUTRAL and value not in _NEUTRAL[name]:
            raise ConfigError(
                f"expected {name}=1, got {value!r}: answers are greedy or sampled, one token after "
                f"the other; give --gen_kwargs {name}=1"
            )
    temperature = settings.get("temperature")
    sampled = settings.get("do_sample")
    if sampled is None:
        sampled = bool(temperature)
    until = settings.get("until") or []
    stop = [until] if isinstance(until, str) else list(until)
    made = Sampling(
        max_tokens=settings.get("max_new_tokens") or DEFAULT_TOKENS,
        temperature=(1.0 if temperature is None else temperature) if sampled else 0.0,
        top_p=settings.get("top_p") or 1.0,
        seed=settings.get("seed", random.getrandbits(63)) if sampled else None,
        stop=() if stop == _BLANK_LINE else tuple(stop),
    )
    check_sampling(made)
    return made
