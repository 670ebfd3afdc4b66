"""`/v1/classify` over HTTP, while the cloud is away."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligned_vq.shipped import BUNDLE
from benchmarks.harness.processes import GatewayProcess
from benchmarks.harness.scraped import samples
from tests.classifier.bundles import plain
from tests.gateway.asking import Reply, call, data_uri


def png(image: Image.Image) -> str:
    written = io.BytesIO()
    image.save(written, "PNG")
    return data_uri(written.getvalue())


RED = png(plain((255, 0, 0)))


def classify(gateway: GatewayProcess, **fields: Any) -> Reply:
    return call(f"{gateway.url}/v1/classify", {"image": RED, **fields})


def test_labels_while_the_cloud_is_away(alone: GatewayProcess) -> None:
    assert call(f"{alone.url}/readyz").status == 503
    reply = classify(alone, labels=["blue wall", "red wall"])
    assert reply.status == 200, reply.body
    found = reply.json()
    assert (found["object"], found["modality"]) == ("classification", "rgb")
    assert [own["label"] for own in found["labels"]] == ["red wall", "blue wall"]
    assert sum(own["probability"] for own in found["labels"]) == pytest.approx(1)
    assert found["model_ms"] > 0


def test_label_sets(alone: GatewayProcess) -> None:
    assert classify(alone).json()["labels"][0]["label"] == "red"
    labels = classify(alone, labels="greys").json()["labels"]
    assert {own["label"] for own in labels} == {"white", "black"}


def test_a_depth_image(alone: GatewayProcess) -> None:
    near = png(Image.fromarray(np.full((48, 64), 300, np.uint16)))
    found = classify(alone, image=near, labels="greys", modality="depth").json()
    assert found["labels"][0]["label"] == "white"
    error = classify(alone, modality="depth").error  # of 8 bits, which no depth camera writes
    assert (error["param"], error["code"]) == ("image", "invalid_image")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"labels": []}, "labels"),
        ({"labels": ["red", ""]}, "labels"),
        ({"labels": ["red", "RED"]}, "labels"),
        ({"labels": [f"label {n}" for n in range(257)]}, "labels"),
        ({"labels": [f"label {n}" for n in range(10_000)]}, "labels"),
        ({"labels": ["red " * 40]}, "labels"),
        ({"labels": "rooms"}, "labels"),
        ({"labels": 3}, "labels.list[str]"),
        ({"modality": "infrared"}, "modality"),
        ({"modality": "radar"}, "modality"),
        ({"image": "http://127.0.0.1:1/x.png"}, "image"),
        ({"image": data_uri(b"no image")}, "image"),
        ({"more": 1}, "more"),
    ],
)
def test_requests_that_are_refused(
    alone: GatewayProcess, fields: dict[str, Any], param: str
) -> None:
    reply = classify(alone, **fields)
    assert reply.status == 400
    assert reply.error["param"] == param


def test_without_a_classifier(without: GatewayProcess) -> None:
    reply = classify(without)
    assert reply.status == 404
    assert reply.error["code"] == "no_classifier"
    assert "--classifier" in reply.error["message"]
    assert call(f"{without.url}/v1/bundle").json()["classifier"] is None


def test_what_the_bundle_says(alone: GatewayProcess) -> None:
    found = call(f"{alone.url}/v1/bundle").json()["classifier"]
    assert found["name"] == "mean colour"
    assert found["modalities"] == ["rgb", "depth"]
    assert [own["name"] for own in found["label_sets"]] == ["colours", "greys"]
    assert found["any_label"] is True


def test_metrics_and_log(alone: GatewayProcess) -> None:
    def count(name: str, label: str = "") -> float:
        return samples(alone.url).get((name, label), 0)

    before = count("avq_gateway_classifications_total", "rgb")
    runs = count("avq_gateway_classify_seconds_count")
    assert classify(alone, labels=["some secret words", "red"]).status == 200
    assert count("avq_gateway_classifications_total", "rgb") == before + 1
    assert count("avq_gateway_classify_seconds_count") == runs + 1
    assert "classify: ok" in alone.log
    assert "secret words" not in alone.log


def test_several_at_once(alone: GatewayProcess) -> None:
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}

    def best(name: str) -> str:
        reply = classify(alone, image=png(plain(colours[name])), labels=[*colours])
        return str(reply.json()["labels"][0]["label"])

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(best, [*colours] * 4)) == [*colours] * 4


def test_a_damaged_bundle_does_not_start(nobody: str, tmp_path: Path) -> None:
    gateway = GatewayProcess(nobody, BUNDLE, f"--classifier={tmp_path}")
    with pytest.raises(RuntimeError, match=r"expected a classifier bundle with .*classifier.json"):
        gateway.__enter__()
