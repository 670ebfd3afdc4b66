"""Manifests from JSON that nobody has checked yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from aligned_vq.errors import AlignedVQError, ConfigError

ManifestT = TypeVar("ManifestT")


def parse_manifest(text: str, source: str, advice: str) -> Any:
    """The value in a JSON text; a ConfigError names `source` and ends with `advice`."""
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:  # RecursionError: deep nesting
        raise ConfigError(f"{source}: not JSON ({error}); {advice}") from error


def build_manifest(
    build: Callable[[Mapping[str, Any]], ManifestT],
    raw: Mapping[str, Any],
    source: str,
    advice: str,
) -> ManifestT:
    """What `build` makes of fields that may be missing, unknown or of any type.

    Raises:
        ConfigError: `build` raised; the message names `source`, and ends with `advice` where the
            fields are malformed.
    """
    try:
        return build(raw)
    except AlignedVQError as error:
        raise ConfigError(f"{source}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The fields come from unchecked JSON: each of these errors means a malformed one.
        raise ConfigError(
            f"{source}: a field is missing, unknown or of the wrong type ({error!r}); {advice}"
        ) from error


def _reject_constant(name: str) -> None:
    """Reject NaN and Infinity, which Python's JSON parser accepts but JSON does not."""
    raise ValueError(f"{name} is not a JSON number")
