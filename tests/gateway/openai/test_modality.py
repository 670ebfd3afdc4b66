"""The field `modality` of requests about a depth map."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligned_vq.graph.modality_bundle import write_modality
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from tests.gateway.asking import QUESTION, Reply, call, data_uri, image_bytes, text, user
from tests.gateway.conftest import MODEL
from tests.modalities import ROOM, changed_prefix, depth_png


@pytest.fixture(scope="module")
def seeing(
    cloud: CloudProcess, bundle_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway for colour and depth before a cloud whose copy of the bundle has colour alone."""
    bundle = tmp_path_factory.mktemp("depth") / "bundle"
    write_modality(bundle_directory, changed_prefix(bundle_directory), "depth", ROOM, bundle)
    with GatewayProcess(cloud.target, bundle, f"--model_name={MODEL}") as process:
        yield process


@pytest.fixture(scope="module")
def depth(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A depth map as a data URI."""
    return data_uri(depth_png(tmp_path_factory.mktemp("map") / "depth.png").read_bytes())


COLOUR = data_uri(image_bytes())


def uri(values: Any) -> str:
    written = io.BytesIO()
    Image.fromarray(np.array(values, np.uint16)).save(written, "PNG")
    return data_uri(written.getvalue())


def chat(gateway: GatewayProcess, url: str, **fields: Any) -> Reply:
    messages = [user(text(QUESTION), {"type": "image_url", "image_url": {"url": url}})]
    request = {"model": MODEL, "messages": messages, "max_tokens": 4, **fields}
    return call(f"{gateway.url}/v1/chat/completions", request)


def test_a_depth_map_is_asked_about(seeing: GatewayProcess, depth: str) -> None:
    assert call(f"{seeing.url}/v1/bundle").json()["modalities"] == ["rgb", "depth"]
    reply = chat(seeing, depth, modality="depth")
    assert reply.status == 200, reply.body
    split = reply.json()["split"]
    assert split["payload_bytes"] > 0
    assert (split["image"]["width"], split["image"]["height"]) == (64, 64)
    assert chat(seeing, depth, modality="depth").json()["split"]["image_held"]
    of_map = call(f"{seeing.url}/v1/index_map", {"image": depth, "modality": "depth"})
    assert of_map.json()["payload_bytes"] == split["payload_bytes"]
    rates = call(f"{seeing.url}/v1/rates", {"image": depth, "modality": "depth"}).json()
    assert rates["rates"][0]["payload_bytes"] == split["payload_bytes"]


def test_colour_is_asked_about_as_ever(seeing: GatewayProcess, gateway: GatewayProcess) -> None:
    for fields in ({}, {"modality": "rgb"}, {"modality": None}):
        reply = chat(seeing, COLOUR, **fields)
        assert reply.status == 200, reply.body
        expected = chat(gateway, COLOUR).json()["choices"][0]["message"]["content"]
        assert reply.json()["choices"][0]["message"]["content"] == expected


WRONG = [
    ("infrared", COLOUR, "modality", "(rgb, depth), got 'infrared'"),
    ("radar", COLOUR, "modality", "infrared"),
    ("depth", COLOUR, "image", "got uint8"),
    ("rgb", uri([[500, 900]]), "image", "looks like depth"),
    ("depth", uri([[0, 0]]), "image", "without any"),
]


@pytest.mark.parametrize(("modality", "url", "param", "words"), WRONG)
def test_requests_that_are_refused(
    seeing: GatewayProcess, modality: str, url: str, param: str, words: str
) -> None:
    replies = [chat(seeing, url, modality=modality)]
    for path in ("index_map", "rates"):
        replies.append(call(f"{seeing.url}/v1/{path}", {"image": url, "modality": modality}))
    for reply in replies:
        assert reply.status == 400
        assert param in reply.error["param"]
        assert words in reply.error["message"]


def test_a_gateway_for_colour_alone(gateway: GatewayProcess) -> None:
    assert call(f"{gateway.url}/v1/bundle").json()["modalities"] == ["rgb"]
    reply = chat(gateway, COLOUR, modality="depth")
    assert (reply.status, reply.error["param"]) == (400, "modality")
    assert "(rgb), got 'depth'" in reply.error["message"]
