"""What is read from JSON has the types it is declared with, or is refused by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.files.typed_fields import check_declared
from aligned_vq.llava.tower_config import TowerConfig
from aligned_vq.shipped import BUNDLE


@dataclass
class _Inner:
    size: int = 1


@dataclass
class _Outer:
    name: str = "a"
    share: float = 0.5
    limit: int | None = None
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, str] = (1, "a")
    inner: tuple[_Inner, ...] = (_Inner(),)


def test_what_is_declared_passes() -> None:
    check_declared(_Outer())
    check_declared(_Outer("b", 2, 3, "b", (4, "c"), ()))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", None, "name of _Outer must be str, got None"),
        ("share", "0.5", "must be float"),
        ("share", True, "must be float"),
        ("limit", 1.0, r"must be int \| None"),
        ("kind", "c", r"must be Literal\['a', 'b'\]"),
        ("pair", (1, "a", "b"), "pair"),
        ("pair", [1, "a"], "pair"),
        ("inner", (_Inner(1), 2), "inner"),
        ("inner", (_Inner(True),), "size of _Inner must be int, got True"),
    ],
)
def test_what_is_not_is_refused_by_name(field: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_declared(_Outer(**{field: value}))


def manifest(path: str, value: Any) -> str:
    """The shipped manifest with another value at `a.b.c`."""
    raw = json.loads((BUNDLE / "manifest.json").read_text())
    *places, last = path.split(".")
    holder = raw
    for place in places:
        holder = holder[int(place)] if isinstance(holder, list) else holder[place]
    holder[last] = value
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model_id", 7),
        ("vision_digest", None),
        ("schema_version", 2.0),
        ("bitstream_version", True),
        ("quantizer.dim", 192.0),
        ("quantizer.refiner_blocks", -1),
        ("quantizer.refiner_width", 0),
        ("quantizer.num_groups", True),
        ("operating_points.0.max_bytes", {}),
        ("operating_points.0.name", ["a"]),
        ("operating_points.0.stages", [0.0, 1]),
        ("tower.feature_layers", [5.0]),
        ("tower.vision.layer_norm_eps", float("nan")),
        ("tower.vision.layer_norm_eps", 1e999),
        ("tower.vision.layer_norm_eps", -1e-5),
    ],
)
def test_a_manifest_with_a_value_of_another_type_is_refused(path: str, value: Any) -> None:
    with pytest.raises(ConfigError, match="manifest"):
        SplitManifest.from_json(manifest(path, value))


def test_json_that_nests_too_deeply_is_refused() -> None:
    with pytest.raises(ConfigError, match="not JSON"):
        SplitManifest.from_json("[" * 100_000)


@pytest.mark.parametrize(
    "config",
    [
        {"vision_config": True},
        {"vision_config": {}, "vision_feature_layer": -2.0},
        {"vision_config": {}, "vision_feature_layer": []},
        {"vision_config": {"layer_norm_eps": 0.0}},
    ],
)
def test_a_checkpoint_s_tower_is_refused_likewise(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TowerConfig.from_llava(config)
