"""Converts lmms-eval's requests: contexts, images and generation settings."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from PIL import Image

from aligned_vq.answers import Sampling
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.load import load_image
from lmms_plugin.responder import ModelRequest
from protos.messages import check_sampling

DEFAULT_TOKENS = 1024
"""Limit for a task without `max_new_tokens`, the same as in the models of lmms-eval."""

_NEUTRAL = {"num_beams": (None, 1), "repetition_penalty": (None, 1)}
"""Settings that are supported only at these values."""
_SUPPORTED = (
    *("max_new_tokens", "do_sample", "temperature", "top_p", "seed", "until"),
    "image_aspect_ratio",  # ignored: the processor's settings decide how images are prepared
    *_NEUTRAL,
)
_BLANK_LINE = ["\n\n"]


def model_request(name: str, context: str, visuals: Any, sampling: Sampling) -> ModelRequest:
    """The request for a document, from its context and what the task's `doc_to_visual` returned.

    Raises:
        InvalidInput: there are several images, or something other than an image.
    """
    # Tasks return a list, one image, or nothing.
    images = list(visuals or ()) if isinstance(visuals, list | tuple | None) else [visuals]
    if len(images) > 1:
        raise InvalidInput(
            f"{name}: expected at most one image, as the model takes one, got {len(images)}; leave "
            "this task out"
        )
    if images and not isinstance(images[0], Image.Image):
        raise InvalidInput(
            f"{name}: expected an image, got {type(images[0]).__name__} (a video or a sound?); "
            "leave this task out"
        )
    return ModelRequest(name, context, load_image(images[0]) if images else None, sampling)


def sampling_of(settings: Mapping[str, Any]) -> Sampling:
    """A task's `generation_kwargs`, interpreted as transformers does.

    Greedy unless `do_sample` is true, or it is absent and a temperature is set. Seeds come from
    `random`, which lmms-eval's `--seed` seeds. `until` holds the stop texts, except for a blank
    line alone: lmms-eval sets that for tasks that name none, and LLaVA's answers have paragraphs.

    Raises:
        ConfigError: a setting is not supported, such as beam search.
        InvalidInput: a value is out of range.
    """
    for name, value in settings.items():
        if name not in _SUPPORTED:
            raise ConfigError(
                f"expected generation settings among {', '.join(_SUPPORTED)}, got "
                f"{name}={value!r}; remove it from the task or from --gen_kwargs"
            )
        if name in _NEUTRAL and value not in _NEUTRAL[name]:
            raise ConfigError(
                f"expected {name}=1, got {value!r}: answers are greedy or sampled, one token at a "
                f"time; give --gen_kwargs {name}=1"
            )
    temperature = settings.get("temperature")
    do_sample = settings.get("do_sample")
    # Some tasks set a temperature, and leave `do_sample` to be inferred.
    if do_sample is None:
        do_sample = bool(temperature)
    until = settings.get("until") or []  # one text or several
    stop = [until] if isinstance(until, str) else list(until)
    sampling = Sampling(
        max_tokens=settings.get("max_new_tokens") or DEFAULT_TOKENS,
        temperature=(1.0 if temperature is None else temperature) if do_sample else 0.0,
        top_p=settings.get("top_p") or 1.0,
        # 63 bits, as the engines of vLLM take seeds modulo 2**63.
        seed=settings.get("seed", random.getrandbits(63)) if do_sample else None,
        stop=() if stop == _BLANK_LINE else tuple(stop),
    )
    check_sampling(sampling)
    return sampling
