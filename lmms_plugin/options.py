"""`--model_args` and `--batch_size` as settings."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from aligned_vq.errors import ConfigError
from aligned_vq.shipped import BUNDLE, NAME, checkpoint_source
from edge_client.config import EdgeConfig
from lmms_plugin.asked import Responder
from lmms_plugin.in_process import InProcessConfig, InProcessResponder
from lmms_plugin.pair import ServiceResponder

AUTO_BATCH = 8

ConfigT = TypeVar("ConfigT")


def open_answerer(
    target: str | None,
    checkpoint: str | None,
    bundle: str | None,
    point: str | None,
    device: str | None,
    batch: int,
    more: Mapping[str, Any],
) -> Responder:
    """What answers, loaded or connected. See `lmms_plugin.model` for the arguments.

    Raises:
        AlignedVQError: an argument does not fit the others, or what it names cannot be used.
    """
    folder = None if bundle is None else BUNDLE if bundle == NAME else Path(bundle)
    if (target is None) == (checkpoint is None):
        given = "neither" if target is None else "both"
        raise ConfigError(
            "expected checkpoint=... (answers in this process) or target=... (a running service), "
            f"got {given}; give one of them"
        )
    if checkpoint is not None:
        named = {"checkpoint": checkpoint_source(checkpoint), "bundle": folder, "point": point}
        placed = {"device": device} if device else {}
        return InProcessResponder(_parsed(InProcessConfig, {**more, **named, **placed}), batch)
    if folder is None:
        raise ConfigError(
            "expected bundle=... beside target=..., got none; give the service's bundle"
        )
    assert target is not None
    # Nothing is remembered, so that every question pays for its picture.
    config = _parsed(EdgeConfig, {"remembered_images": 0, **more})
    return ServiceResponder(target, folder, point, config, batch)


def batch_of(batch_size: int | str, max_batch_size: int | None) -> int:
    """Questions at the same time: the number, or for `auto` the largest allowed, else 8."""
    if str(batch_size).startswith("auto"):
        return max_batch_size or AUTO_BATCH
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise ConfigError(f"batch_size must be auto or 1 and more, got {batch_size!r}")
    return int(batch_size)


def _parsed(kind: type[ConfigT], options: Mapping[str, Any]) -> ConfigT:
    """A dataclass of settings from values as lmms-eval read them; ConfigError names the culprit."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        values = parser.parse_object(dict(options)).as_dict()
    except ArgumentError as error:
        words = " ".join(str(error).split())
        raise ConfigError(f"model_args: {words}; mend or leave it out") from error
    return kind(**values)
