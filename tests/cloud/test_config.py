"""Settings that are no numbers of their kind stop the service before it starts."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.errors import ConfigError
from cloud_server.config import CloudConfig

FLOATS = [field.name for field in fields(CloudConfig) if field.type == "float"]


def config(**settings: Any) -> CloudConfig:
    return CloudConfig(Path("bundle"), "checkpoint", **settings)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [math.nan, -1.0])
def test_no_setting_is_negative_or_not_a_number(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        config(**{name: value})


def test_the_defaults_are_allowed() -> None:
    assert len(FLOATS) > 5
    config()
