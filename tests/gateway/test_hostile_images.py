"""Images that take long, or ask for much: one refusal each, and nobody else's question."""

from __future__ import annotations

import io
import json
import random
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.attacks.peers.gateway_probes import process_tree
from benchmarks.attacks.peers.hostile_files import empty_scans
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from benchmarks.harness.scraped import samples
from tests.gateway.asking import JSON, about, call, data_uri, image_bytes, text, user
from tests.gateway.conftest import MODEL

CHAT = "/v1/chat/completions"
OPTIONS = (f"--model_name={MODEL}", "--max_requests=8")


@pytest.fixture(scope="module")
def hostile(cloud: CloudProcess, bundle_directory: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(cloud.target, bundle_directory, *OPTIONS) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def bomb() -> dict[str, Any]:
    """A question about an image whose scans take half a second, within the memory of an image."""
    url = data_uri(empty_scans(85, 3000, 2000)(random.Random(1)), "image/jpeg")
    image = {"type": "image_url", "image_url": {"url": url}}
    return {"model": MODEL, "messages": [user(text("What is it?"), image)], "max_tokens": 2}


def plain() -> dict[str, Any]:
    return {"model": MODEL, "messages": [user(text("What can you see?"))], "max_tokens": 2}


def sent(gateway: GatewayProcess, fields: dict[str, Any]) -> socket.socket:
    """A request on its way; nothing is read."""
    body = json.dumps(fields).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\n"
    opened = socket.create_connection(("127.0.0.1", gateway.port), timeout=60)
    opened.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return opened


def test_questions_without_images_are_answered_meanwhile(
    hostile: GatewayProcess, bomb: dict[str, Any]
) -> None:
    with ThreadPoolExecutor(12) as pool:
        bombs = [pool.submit(call, hostile.url + CHAT, bomb) for _ in range(12)]
        while not all(each.done() for each in bombs):
            assert call(hostile.url + CHAT, plain()).status == 200
    for each in bombs:
        reply = each.result()
        assert reply.status in (200, 400, 503)  # 200: on a machine that is fast enough
        if reply.status == 400:
            assert reply.error["code"] == "image_too_costly"
            assert reply.error["param"] == "messages[0].content[1].image_url"
        if reply.status == 503:
            assert reply.headers["Retry-After"]


def test_whoever_hangs_up_frees_place_and_process(
    hostile: GatewayProcess, bomb: dict[str, Any]
) -> None:
    for _ in range(3):
        for opened in [sent(hostile, bomb) for _ in range(8)]:
            opened.close()
    deadline = time.monotonic() + 30
    while samples(hostile.url)["avq_gateway_in_flight", ""]:
        assert time.monotonic() < deadline, "an abandoned request keeps its place"
        time.sleep(0.02)
    # The gateway, its fork server and two processes that are ready; killed ones end a moment later.
    while len(pids := process_tree(hostile.process.pid)) > 2 + 2:
        assert time.monotonic() < deadline, pids
        time.sleep(0.02)
    reply = call(hostile.url + CHAT, {"model": MODEL, "messages": about(), "max_tokens": 2})
    assert reply.status == 200


def test_other_formats_are_refused_by_name(hostile: GatewayProcess) -> None:
    for path in ("/v1/index_map", "/v1/rates"):
        reply = call(hostile.url + path, {"image": data_uri(image_bytes(form="TIFF"))})
        assert (reply.status, reply.error["code"]) == (400, "invalid_image")
        assert "add TIFF to the setting image_formats" in reply.error["message"]


def test_an_escaped_slash_is_a_slash(hostile: GatewayProcess) -> None:
    body = json.dumps({"image": data_uri(image_bytes())}).replace("/", "\\/").encode()
    assert call(f"{hostile.url}/v1/rates", body).status == 200


def test_a_photograph_of_24_megapixels_is_prepared(
    cloud: CloudProcess, bundle_directory: Path
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    written = io.BytesIO()
    gradient = Image.radial_gradient("L").resize((6000, 4000))
    gradient.convert("RGB").save(written, "JPEG", exif=turned)
    patient = (*OPTIONS, "--image_seconds=60")
    with GatewayProcess(cloud.target, bundle_directory, *patient) as gateway:
        reply = call(f"{gateway.url}/v1/rates", {"image": data_uri(written.getvalue())})
        assert reply.status == 200
        size = reply.json()["image"]
        assert (size["width"], size["height"]) == (4000, 6000)


def test_a_gateway_ends_while_images_are_decoded(
    cloud: CloudProcess, bundle_directory: Path, bomb: dict[str, Any]
) -> None:
    options = (*OPTIONS, "--image_seconds=60", "--drain_seconds=1")
    with GatewayProcess(cloud.target, bundle_directory, *options) as gateway:
        opened = [sent(gateway, bomb) for _ in range(4)]
        deadline = time.monotonic() + 60
        while len(pids := process_tree(gateway.process.pid)) < 3:
            assert time.monotonic() < deadline, "no image is decoded"
            time.sleep(0.01)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(timeout=40) == 0
        for each in opened:
            each.close()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline + 60, "a process is left"
        time.sleep(0.02)
