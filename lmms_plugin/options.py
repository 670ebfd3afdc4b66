"""Parses `--model_args` and `--batch_size`, and opens the responder that they describe."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from aligned_vq.errors import ConfigError
from aligned_vq.shipped import BUNDLE, NAME, checkpoint_source
from edge_client.config import EdgeConfig
from lmms_plugin.in_process import InProcessConfig, InProcessResponder
from lmms_plugin.responder import Responder
from lmms_plugin.service_responder import ServiceResponder

AUTO_BATCH = 8

ConfigT = TypeVar("ConfigT")


def open_responder(
    *,
    target: str | None,
    checkpoint: str | None,
    bundle: str | None,
    point: str | None,
    device: str | None,
    batch_size: int,
    options: Mapping[str, Any],
) -> Responder:
    """A responder with its model loaded, or connected to its service.

    `lmms_plugin.model` explains the arguments; `options` are further fields of `InProcessConfig` or
    `EdgeConfig`.

    Raises:
        AlignedVQError: the arguments do not fit together, or what they name cannot be used.
    """
    folder = None if bundle is None else BUNDLE if bundle == NAME else Path(bundle)
    if (target is None) == (checkpoint is None):
        got = "neither" if target is None else "both"
        raise ConfigError(
            "expected checkpoint=... (answers in this process) or target=... (a running service), "
            f"got {got}; give one of them"
        )
    if checkpoint is not None:
        # Named arguments override `options`; without a device the config's default applies.
        fields = {"checkpoint": checkpoint_source(checkpoint), "bundle": folder, "point": point}
        if device:
            fields["device"] = device
        config = _parse_config(InProcessConfig, {**options, **fields})
        return InProcessResponder(config, batch_size)
    if folder is None:
        raise ConfigError(
            "expected bundle=... with target=..., got none; give the service's bundle"
        )
    assert target is not None  # exactly one of the two is given
    # Without a cache of images every question sends its payload, which so counts for each.
    edge_config = _parse_config(EdgeConfig, {"remembered_images": 0, **options})
    return ServiceResponder(target, folder, point, edge_config, batch_size)


def batch_of(batch_size: int | str, max_batch_size: int | None) -> int:
    """Number of concurrent questions: `batch_size`, or for `auto` the maximum, by default 8."""
    if str(batch_size).startswith("auto"):
        return max_batch_size or AUTO_BATCH
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise ConfigError(
            f"batch_size must be auto or at least 1, got {batch_size!r}; change --batch_size"
        )
    return int(batch_size)


def _parse_config(kind: type[ConfigT], options: Mapping[str, Any]) -> ConfigT:
    """A config dataclass from values as lmms-eval parsed them; ConfigError names a wrong one."""
    # lmms-eval guesses the types of values; the parser converts them to those of the fields.
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        values = parser.parse_object(dict(options)).as_dict()
    except ArgumentError as error:
        message = " ".join(str(error).split())
        raise ConfigError(f"model_args: {message}; fix it or leave it out") from error
    return kind(**values)
