"""What the gateway tells beyond OpenAI's API: bundle, map of indices, figures of the split."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligned_vq.images.load import load_image
from aligned_vq.images.reduced_decoding import BYTES_PER_PIXEL
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from benchmarks.harness.scraped import samples
from edge_client.encoder import EdgeEncoder
from edge_client.gateway.request_images import MAX_IMAGE_BYTES
from tests.conftest import IMAGE_SIDE
from tests.gateway.asking import about, call, data_uri, image_bytes, text, user
from tests.gateway.conftest import MODEL

SIDE = 4  # patches of 14 pixels in 56


@pytest.fixture(scope="module")
def encoder(bundle_directory: Path) -> EdgeEncoder:
    return EdgeEncoder(bundle_directory)


def chat(gateway: GatewayProcess, messages: list[Any], **fields: Any) -> Any:
    body = {"model": MODEL, "messages": messages, "max_tokens": 3, **fields}
    reply = call(f"{gateway.url}/v1/chat/completions", body)
    assert reply.status == 200, reply.body
    return reply.json()


def test_the_bundle(gateway: GatewayProcess, encoder: EdgeEncoder) -> None:
    found = call(f"{gateway.url}/v1/bundle").json()
    manifest = encoder.manifest
    assert found["model"] == MODEL
    assert found["manifest"] == encoder.digest.hex()
    assert found["split"] == "ln1@1"
    assert found["num_stages"] == 2
    assert found["grid"] == [SIDE, SIDE]
    assert found["image_size"] == [IMAGE_SIDE, IMAGE_SIDE]
    assert [own["name"] for own in found["qualities"]] == [
        point.name for point in manifest.operating_points
    ]


@pytest.mark.parametrize("quality", ["adaptive", "fixed", "first"])
def test_the_map_shows_the_payloads_indices(
    gateway: GatewayProcess, encoder: EdgeEncoder, quality: str
) -> None:
    data = image_bytes(41)
    body = {"image": data_uri(data), "quality": quality}
    found = call(f"{gateway.url}/v1/index_map", body).json()
    payload = encoder.encode(load_image(data), quality=quality).payload
    assert found["payload_bytes"] == len(payload.body)
    assert found["quality"] == quality
    encoded = encoder.unpack(payload)
    assert len(found["stages"]) == len(encoded.stages) == (1 if quality == "first" else 2)
    for shown, own in zip(found["stages"], encoded.stages, strict=True):
        tokens = [shown["class_token"], *[entry for row in shown["indices"] for entry in row]]
        covered = np.array([entry is not None for entry in tokens])
        mask = np.ones(SIDE * SIDE + 1, bool) if own.mask is None else own.mask
        assert (covered == mask).all()
        assert [entry for entry in tokens if entry is not None] == own.indices.tolist()
        assert [len(row) for row in shown["mask"]] == [SIDE] * SIDE
        assert np.array_equal(np.array(shown["mask"]).ravel(), mask[1:])
        assert shown["covered"] == mask.sum()
        assert shown["codebook_size"] == (64, 32)[shown["stage"]]


def test_a_map_of_what_is_no_picture(gateway: GatewayProcess) -> None:
    url = f"{gateway.url}/v1/index_map"
    assert call(url, {"image": "http://127.0.0.1:1/x.png"}).error["param"] == "image"
    assert call(url, {"image": data_uri(b"no picture")}).error["code"] == "invalid_image"
    good = data_uri(image_bytes())
    assert call(url, {"image": good, "quality": "best"}).error["param"] == "quality"
    assert call(url, {"image": good, "more": 1}).error["param"] == "more"


def test_a_small_file_of_too_many_pixels(gateway: GatewayProcess) -> None:
    written = io.BytesIO()
    most = MAX_IMAGE_BYTES // BYTES_PER_PIXEL
    Image.new("1", (most // 4096 + 1, 4096)).save(written, "PNG")
    own = data_uri(written.getvalue())
    part = {"type": "image_url", "image_url": {"url": own}}
    body = {"model": MODEL, "messages": [user(text("Is it red or blue?"), part)]}
    for error in (
        call(f"{gateway.url}/v1/index_map", {"image": own}).error,
        call(f"{gateway.url}/v1/rates", {"image": own}).error,
        call(f"{gateway.url}/v1/chat/completions", body).error,
    ):
        assert error["code"] == "image_too_costly"
        assert f"decoded in {MAX_IMAGE_BYTES >> 20} MiB" in error["message"]


def test_a_map_of_raw_features_is_empty(
    cloud: CloudProcess, identity_bundle_directory: Path
) -> None:
    with GatewayProcess(cloud.target, identity_bundle_directory) as gateway:
        found = call(f"{gateway.url}/v1/index_map", {"image": data_uri(image_bytes())}).json()
        assert found["stages"] == []
        assert found["quality"] is None
        assert call(f"{gateway.url}/v1/bundle").json()["qualities"] == []
        assert call(f"{gateway.url}/readyz").status == 503  # the cloud has another bundle


def test_the_splits_figures(gateway: GatewayProcess) -> None:
    pixels = np.random.default_rng(51).integers(0, 256, (90, 120, 3), np.uint8)
    written = io.BytesIO()
    picture = Image.fromarray(pixels)
    picture.save(written, "PNG")
    url = {"type": "image_url", "image_url": {"url": data_uri(written.getvalue())}}
    first, second = (chat(gateway, [user(text("Is it red or blue?"), url)])["split"] for _ in "ab")
    jpeg = io.BytesIO()
    wide = picture.resize((IMAGE_SIDE * 120 // 90, IMAGE_SIDE), Image.Resampling.BICUBIC)
    left = (wide.width - IMAGE_SIDE) // 2
    seen = wide.crop((left, 0, left + IMAGE_SIDE, IMAGE_SIDE))
    seen.save(jpeg, "JPEG", quality=90)
    assert first["image"] == {
        "width": 120,
        "height": 90,
        "file_bytes": len(written.getvalue()),
        "jpeg_bytes": jpeg.tell(),
        "jpeg_size": [IMAGE_SIDE, IMAGE_SIDE],
    }
    assert second["image"] == first["image"]
    assert 0 < first["payload_bytes"] < first["bytes_sent"]
    assert (first["quality"], first["attempts"]) == ("adaptive", 1)
    assert (first["image_held"], second["image_held"]) == (False, True)
    assert [own["stage"] for own in first["edge"]] == ["preprocess", "prefix", "compress"]
    assert [own["stage"] for own in first["cloud"]][-2:] == ["prefill", "decode"]
    assert all(own["ms"] >= 0 for own in (*first["edge"], *first["cloud"]))
    assert 0 < first["first_token_ms"] <= first["total_ms"]


def test_a_stream_ends_with_the_splits_figures(gateway: GatewayProcess) -> None:
    body = {"model": MODEL, "messages": about(), "max_tokens": 3, "stream": True}
    reply = call(f"{gateway.url}/v1/chat/completions", body)
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in reply.body.decode().split("\n\n") if line]
    assert events[-1] == "[DONE]"
    *others, last = map(json.loads, events[:-1])
    assert last["choices"][0]["finish_reason"]
    assert last["split"]["bytes_sent"] > 0
    assert not any("split" in chunk for chunk in others)


def test_health_readiness_and_metrics(gateway: GatewayProcess) -> None:
    before = samples(gateway.url)
    sent = chat(gateway, about())["split"]["bytes_sent"]
    after = samples(gateway.url)
    name = ("avq_gateway_sent_bytes_total", "")
    assert after[name] - before[name] == sent
    assert after["avq_gateway_in_flight", ""] == 0
    assert after["avq_gateway_in_flight_limit", ""] == 16
    assert after["avq_gateway_build_info", "torch"] == 1
    assert after["process_resident_memory_bytes", ""] > 2**20
    assert call(f"{gateway.url}/healthz").body == b"ok\n"
    assert call(f"{gateway.url}/readyz").body == b"ready\n"


def test_a_cloud_that_fails_is_down_in_the_metrics(bundle_directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    options = ("--failures=1", "--connect_seconds=0.2")
    with GatewayProcess(nobody, bundle_directory, *options) as gateway:
        assert samples(gateway.url)["avq_gateway_target_up", nobody] == 1  # nobody has asked yet
        assert call(f"{gateway.url}/readyz").status == 503
        assert samples(gateway.url)["avq_gateway_target_up", nobody] == 0
